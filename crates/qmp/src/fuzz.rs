//! Entry point for fuzzers: any bytes, in any pieces, as a client's input.
//!
//! It panics when a promise is broken: that bytes are taken, that what is held is bounded, that what is written is
//! ASCII and is read back as the same value.

use crate::request::Request;
use crate::wire;
use json::{Limits, Stream, to_ascii};

/// Bounds that a fuzzer reaches.
const SMALL: Limits = Limits { bytes: 256, tokens: 32, nesting: 6 };

/// A client. The first byte chooses the sizes of the pieces.
pub fn input(data: &[u8]) {
    let Some((scene, data)) = data.split_first() else { return };
    let piece = usize::from(scene & 15) + 1;
    let limits = if scene & 16 == 0 { SMALL } else { Limits::QEMU };
    let mut stream = Stream::new(limits);
    for mut bytes in data.chunks(piece) {
        // A byte is looked at again at most once.
        let mut turns = 2 * bytes.len() + 1;
        while !bytes.is_empty() {
            turns = turns.checked_sub(1).unwrap_or_else(|| panic!("bytes that are never taken"));
            let (taken, outcome) = stream.feed(bytes);
            bytes = &bytes[taken..];
            if limits == SMALL {
                assert!(stream.held() <= 4 << 10, "what is held is bounded");
            }
            if let Some(Ok(value)) = outcome {
                let text = to_ascii(&value);
                assert!(text.bytes().all(|byte| (b' '..=b'~').contains(&byte)), "ASCII");
                let (_, again) = Stream::new(Limits::QEMU).feed(format!("{text} ").as_bytes());
                assert_eq!(again, Some(Ok(value.clone())), "read back");
                answer(Request::read(value, scene & 32 != 0));
            }
        }
    }
}

fn answer(request: Result<Request, crate::Refused>) {
    let line = match request {
        Ok(request) => wire::reply(request.id, Ok(request.arguments.into())),
        Err(refused) => wire::reply(refused.id, Err(refused.error)),
    };
    assert!(line.is_ascii() && line.ends_with("\r\n"), "one line of ASCII");
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn noise_passes(data: Vec<u8>) {
            input(&data);
        }

        #[test]
        fn what_looks_like_commands_passes(scene: u8, text in "([{}\\[\\]:,'\"\\\\u0-9a-f -]|execute|'id':|true){0,30}") {
            input(&[&[scene], text.as_bytes()].concat());
        }
    }
}
