//! Millpond's own header extension: what a cache is the cache of (`docs/formats/cache.md`).
//!
//! Invariant: it counts only while its autoclear bit is set. A writer that does not know the bit clears it, and so
//! says that the image may hold other bytes than its source.

use block::BlockError;
use serde_json::{Map, Value};

use crate::{Header, HeaderEdit, UnknownExtension, corrupt};

/// Kind of the extension: "mpnd".
pub const EXTENSION: u32 = 0x6d70_6e64;
/// The autoclear bit that says that it can be believed: bit 62.
pub const AUTOCLEAR: u64 = 1 << 62;
/// Longest payload in bytes.
pub const MAX_LEN: usize = 4096;

/// The extension with this payload (a JSON text of at most [`MAX_LEN`] bytes), for [`crate::NewImage`], whose autoclear
/// bits must have [`AUTOCLEAR`]. `Invalid` where it is longer.
pub fn extension(json: &str) -> Result<UnknownExtension, BlockError> {
    if json.len() > MAX_LEN {
        let context = format!("the description of a cache has {} bytes, more than {MAX_LEN}", json.len());
        return Err(BlockError::new(block::ErrorKind::Invalid, context));
    }
    Ok(UnknownExtension { kind: EXTENSION, data: json.as_bytes().to_vec() })
}

/// The change of a header that adds or replaces it, and sets the autoclear bit. Errors as of [`extension`].
pub fn edit(json: &str) -> Result<HeaderEdit, BlockError> {
    let UnknownExtension { kind, data } = extension(json)?;
    Ok(HeaderEdit::Extension { kind, data, autoclear: AUTOCLEAR })
}

/// The payload in `header`: `None` where there is none, or where the autoclear bit is clear. `Corrupt` where it is too
/// long, not UTF-8, or there twice; whether it is JSON is the reader's question.
pub fn read(header: &Header) -> Result<Option<&str>, BlockError> {
    let mut found = header.unknown_extensions.iter().filter(|extension| extension.kind == EXTENSION);
    let (Some(extension), true) = (found.next(), header.features.autoclear & AUTOCLEAR != 0) else {
        return Ok(None);
    };
    let text = match std::str::from_utf8(&extension.data) {
        _ if found.next().is_some() => return Err(corrupt("the description of the cache is there twice")),
        _ if extension.data.len() > MAX_LEN => {
            return Err(corrupt(format!("the description of the cache has more than {MAX_LEN} bytes")));
        }
        Err(_) => return Err(corrupt("the description of the cache is not UTF-8")),
        Ok(text) => text,
    };
    Ok(Some(text))
}

/// The payload for an image that shall hold at most `quota` bytes of what it is read through for, and that says
/// nothing of where they come from.
pub fn with_quota(quota: u64) -> String {
    serde_json::json!({ "quota": quota }).to_string()
}

/// What the payload says that a driver has to keep.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Terms {
    /// Most bytes that the file shall take for what could be fetched again.
    pub quota: Option<u64>,
    /// It says nothing that a write to the image could make untrue.
    pub lasting: bool,
}

/// The terms of a payload. `Corrupt` where it is no JSON object, or its quota no number of bytes.
pub fn terms(json: &str) -> Result<Terms, BlockError> {
    let about: Map<String, Value> = serde_json::from_str(json)
        .map_err(|error| corrupt(format!("the description of the cache is no JSON object ({error})")))?;
    let quota = match about.get("quota") {
        None | Some(Value::Null) => None,
        Some(quota) => {
            Some(quota.as_u64().ok_or_else(|| corrupt("the quota of the cache is no number of bytes"))?)
        }
    };
    Ok(Terms { quota, lasting: about.keys().all(|key| key == "quota") })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::NewImage;

    fn header(autoclear: u64, extensions: Vec<UnknownExtension>) -> Header {
        let image = NewImage { extensions, autoclear, ..NewImage::new(1 << 20, 16) };
        let fresh = image.bytes().expect("fine");
        let (_, first) = fresh.pieces.last().expect("a header");
        Header::parse(first).expect("a good header")
    }

    #[test]
    fn it_counts_only_while_its_bit_is_set() {
        let json = r#"{"source":"nbd://host/x"}"#;
        let is = || vec![extension(json).expect("short")];
        assert_eq!(read(&header(AUTOCLEAR, is())).expect("good"), Some(json));
        assert_eq!(read(&header(0, is())).expect("good"), None);
        assert_eq!(read(&header(AUTOCLEAR, vec![])).expect("good"), None);
    }

    #[test]
    fn lies_are_refused() {
        let with = |data: Vec<u8>| vec![UnknownExtension { kind: EXTENSION, data }];
        assert!(read(&header(AUTOCLEAR, with(vec![0xff]))).is_err());
        assert!(read(&header(AUTOCLEAR, with(vec![b' '; MAX_LEN + 1]))).is_err());
        assert!(read(&header(AUTOCLEAR, with(vec![b' '; MAX_LEN]))).is_ok());
        assert!(extension(&" ".repeat(MAX_LEN + 1)).is_err());
    }

    #[test]
    fn terms_are_what_it_says() {
        assert_eq!(terms(&with_quota(5)).expect("good"), Terms { quota: Some(5), lasting: true });
        assert_eq!(terms(r#"{"source":"x","quota":null}"#).expect("good"), Terms::default());
        for lie in ["", "[]", r#"{"quota":-1}"#, r#"{"quota":"1G"}"#, r#"{"quota":1.5}"#] {
            assert!(terms(lie).is_err(), "{lie}");
        }
    }
}
