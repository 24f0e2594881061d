//! Percent encoding (RFC 3986, section 2.1).

use super::UriError;

/// The bytes that `text` stands for.
pub(super) fn decode(text: &str) -> Result<Vec<u8>, UriError> {
    let (mut bytes, mut rest) = (Vec::with_capacity(text.len()), text.as_bytes());
    while let Some((first, tail)) = rest.split_first() {
        let (byte, tail) = match (first, tail) {
            (b'%', [high, low, tail @ ..]) => (digit(*high)? << 4 | digit(*low)?, tail),
            (b'%', _) => return Err(UriError::BadEscape),
            _ => (*first, tail),
        };
        bytes.push(byte);
        rest = tail;
    }
    Ok(bytes)
}

fn digit(byte: u8) -> Result<u8, UriError> {
    let digit = char::from(byte).to_digit(16).ok_or(UriError::BadEscape)?;
    Ok(digit as u8)
}

/// The text that `text` stands for.
pub(super) fn decode_text(text: &str) -> Result<String, UriError> {
    String::from_utf8(decode(text)?).map_err(|_| UriError::BadEscape)
}

/// `bytes` with everything encoded but what is free everywhere, and the characters in `kept`.
pub(super) fn encode(bytes: &[u8], kept: &str) -> String {
    let mut text = String::with_capacity(bytes.len());
    for byte in bytes {
        let character = char::from(*byte);
        if byte.is_ascii_alphanumeric() || "-._~".contains(character) || kept.contains(character) {
            text.push(character);
        } else {
            text.push_str(&format!("%{byte:02X}"));
        }
    }
    text
}
