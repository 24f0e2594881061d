//! The text of a string token: escapes, and UTF-8 as QEMU has it (a zero may come as C0 80; no surrogates, no
//! noncharacters).

/// The text between the quotes of `token`.
pub(super) fn unquote(token: &[u8]) -> Result<String, String> {
    let mut rest = &token[1..];
    let mut text = String::with_capacity(token.len());
    loop {
        match rest {
            // The lexer ends a string at its quote.
            [] | [_] => return Ok(text),
            [b'\\', b'u', ..] => {
                let (c, len) = unicode(rest)?;
                text.push(c);
                rest = &rest[len..];
            }
            [b'\\', escape, ..] => {
                text.push(simple(*escape).ok_or("invalid escape sequence in string")?);
                rest = &rest[2..];
            }
            _ => {
                let len = rest[..rest.len() - 1].iter().take_while(|byte| **byte != b'\\').count();
                plain(&rest[..len], &mut text)?;
                rest = &rest[len..];
            }
        }
    }
}

fn simple(escape: u8) -> Option<char> {
    Some(match escape {
        b'"' | b'\'' | b'\\' | b'/' => char::from(escape),
        b'b' => '\u{8}',
        b'f' => '\u{c}',
        b'n' => '\n',
        b'r' => '\r',
        b't' => '\t',
        _ => return None,
    })
}

/// The character of `\u` and four digits, or of two of them that are a pair of surrogates, and how long that is.
fn unicode(rest: &[u8]) -> Result<(char, usize), String> {
    let refused = || {
        let shown = &rest[..rest.len().min(6)];
        format!("{} is not a valid Unicode character", String::from_utf8_lossy(shown))
    };
    let lead = hex(&rest[2..]).ok_or_else(refused)?;
    if !(0xd800..0xdc00).contains(&lead) {
        return char::from_u32(lead).filter(|c| is_character(*c)).map(|c| (c, 6)).ok_or_else(refused);
    }
    let trail = rest.get(6..).and_then(|more| more.strip_prefix(b"\\u")).and_then(hex);
    let trail = trail.filter(|trail| (0xdc00..0xe000).contains(trail)).ok_or_else(refused)?;
    let c = char::from_u32(0x1_0000 + ((lead & 0x3ff) << 10 | (trail & 0x3ff)));
    c.filter(|c| is_character(*c)).map(|c| (c, 12)).ok_or_else(refused)
}

fn hex(digits: &[u8]) -> Option<u32> {
    let digits = digits.get(..4).filter(|four| four.iter().all(u8::is_ascii_hexdigit))?;
    u32::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()
}

/// Appends bytes that are UTF-8, but for zeros that come as C0 80.
fn plain(bytes: &[u8], text: &mut String) -> Result<(), String> {
    let before = text.len();
    let mut rest = bytes;
    while let Some(at) = rest.windows(2).position(|pair| pair == [0xc0, 0x80]) {
        text.push_str(std::str::from_utf8(&rest[..at]).map_err(|_| INVALID)?);
        text.push('\0');
        rest = &rest[at + 2..];
    }
    text.push_str(std::str::from_utf8(rest).map_err(|_| INVALID)?);
    match text[before..].chars().all(is_character) {
        true => Ok(()),
        false => Err(INVALID.to_owned()),
    }
}

const INVALID: &str = "invalid UTF-8 sequence in string";

/// Whether Unicode ever gives it a meaning.
fn is_character(c: char) -> bool {
    let code = u32::from(c);
    !(0xfdd0..=0xfdef).contains(&code) && code & 0xfffe != 0xfffe
}
