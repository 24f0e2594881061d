//! Replies as qemu-nbd 10.0.2 sends them, whole and in pieces, and replies that nobody should send.

use super::*;
use crate::transcript;

const REQUESTS: &str = include_str!("../../../../transcripts/requests.txt");
const COOKIE: Cookie = Cookie(0x1122_3344_5566_7788);

/// All replies in `input`, fed in pieces of `piece` bytes, with the bytes of reads left out.
fn replies(structured: bool, input: &[u8], piece: usize) -> Result<Vec<Reply>, ReplyError> {
    let (mut parser, mut replies, mut skip) = (ReplyParser::new(structured), Vec::new(), 0);
    for mut piece in input.chunks(piece) {
        while !piece.is_empty() {
            let skipped = skip.min(piece.len());
            skip -= skipped;
            let progress = parser.feed(&piece[skipped..])?;
            piece = &piece[skipped + progress.consumed..];
            if let Some(Reply::Chunk { chunk: Chunk::OffsetData { len, .. }, .. }) = progress.reply {
                skip = len as usize;
            }
            replies.extend(progress.reply);
        }
    }
    assert!(skip == 0 && parser.is_idle());
    Ok(replies)
}

fn chunk(done: bool, chunk: Chunk) -> Reply {
    Reply::Chunk { cookie: COOKIE, done, chunk }
}

fn error(message: &str) -> Chunk {
    Chunk::Error { errno: Errno::INVAL, message: message.into(), offset: None }
}

#[test]
fn qemus_replies_are_understood_in_any_pieces() {
    let data = |offset, len| Chunk::OffsetData { offset, len };
    let hole = |offset, len| Chunk::OffsetHole { offset, len };
    let status = |extents: &[(u32, u32)]| Chunk::BlockStatus {
        context: 0,
        descriptors: extents
            .iter()
            .map(|(len, flags)| Descriptor { len: *len, flags: StatusFlags::from_bits(*flags) })
            .collect(),
    };
    let expected = [
        ("read a hole", vec![chunk(true, hole(0, 512))]),
        ("read hole and data", vec![chunk(false, hole(0x1fff0, 16)), chunk(true, data(0x20000, 16))]),
        ("the same unfragmented", vec![chunk(true, data(0x1fff0, 32))]),
        (
            "read past the end",
            vec![chunk(true, error("operation past EOF; From: 1048576, Len: 1, Size: 1048576"))],
        ),
        ("read nothing", vec![chunk(true, Chunk::None)]),
        ("flush", vec![Reply::Simple { cookie: COOKIE, error: None }]),
        ("status", vec![chunk(true, status(&[(0x20000, 3), (0x1000, 0), (0xdf000, 3)]))]),
        ("status of one extent", vec![chunk(true, status(&[(0x20000, 3)]))]),
        ("status of nothing", vec![chunk(true, error("need non-zero length"))]),
    ];
    let cases = transcript::cases(REQUESTS);
    for (label, expected) in expected {
        let case = cases.iter().find(|case| case.label == label).unwrap();
        for piece in [1, 3, 19, usize::MAX] {
            assert_eq!(replies(true, &case.server, piece).unwrap(), expected, "{label}");
        }
    }
    for case in &cases {
        assert!(replies(true, &case.server, 5).is_ok(), "{}", case.label);
    }
}

/// A chunk of type `code` that is done, with a payload.
fn raw(code: u16, payload: &[u8]) -> Vec<u8> {
    let mut bytes = CHUNK_MAGIC.to_be_bytes().to_vec();
    bytes.extend_from_slice(&[0, 1]);
    bytes.extend_from_slice(&code.to_be_bytes());
    bytes.extend_from_slice(&COOKIE.0.to_be_bytes());
    bytes.extend_from_slice(&(payload.len() as u32).to_be_bytes());
    bytes.extend_from_slice(payload);
    bytes
}

#[test]
fn impossible_chunks_end_the_connection() {
    let cases = [
        (raw(0, b"x"), ReplyError::BadLength(0)),
        (raw(1, &[0; 8]), ReplyError::BadLength(1)),
        (raw(2, &[0; 11]), ReplyError::BadLength(2)),
        (raw(2, &[0; 12]), ReplyError::BadLength(2)),
        (raw(5, &[0; 4]), ReplyError::BadLength(5)),
        (raw(5, &[0; 13]), ReplyError::BadLength(5)),
        (raw(6, &[0; 12]), ReplyError::UnknownChunk(6)),
        (raw(0x8001, b"\0\0\0\x05\0"), ReplyError::BadLength(0x8001)),
        (raw(0x8001, b"\0\0\0\x05\0\x02x"), ReplyError::BadLength(0x8001)),
        (raw(0x8002, b"\0\0\0\x05\0\x01x1234567"), ReplyError::BadLength(0x8002)),
        (raw(0x8001, &[0; ERROR_PAYLOAD_MAX as usize + 1]), ReplyError::BadLength(0x8001)),
        (vec![1, 2, 3, 4], ReplyError::BadMagic(0x0102_0304)),
    ];
    for (bytes, expected) in cases {
        assert_eq!(replies(true, &bytes, usize::MAX), Err(expected));
        assert_eq!(replies(true, &bytes, 1), Err(expected));
    }
    let mut none = raw(0, &[]);
    none[5] = 0;
    assert_eq!(replies(true, &none, 1), Err(ReplyError::NotDone));
    assert_eq!(replies(false, &raw(0, &[]), 1), Err(ReplyError::BadMagic(CHUNK_MAGIC)));
}

#[test]
fn lengths_are_judged_before_anything_is_buffered() {
    for (code, len) in [(1, PAYLOAD_MAX + 9), (5, 4 + 8 * (1 << 20) + 8), (0x8001, 8193)] {
        let mut head = raw(code, &[]);
        head[16..].copy_from_slice(&len.to_be_bytes());
        assert_eq!(replies(true, &head, 1), Err(ReplyError::BadLength(code)));
    }
}

#[test]
fn errors_of_every_kind_are_errors() {
    let offset = raw(0x8002, b"\0\0\0\x05\0\x01x\0\0\0\0\0\0\x02\0");
    let expected = Chunk::Error { errno: Errno::IO, message: "x".into(), offset: Some(512) };
    assert_eq!(replies(true, &offset, 2).unwrap(), [chunk(true, expected)]);
    let unknown = raw(0x9999, b"\0\0\0\x63\0\x01\xffrest");
    let expected = Chunk::Error { errno: Errno::INVAL, message: "\u{fffd}".into(), offset: None };
    assert_eq!(replies(true, &unknown, 2).unwrap(), [chunk(true, expected)]);
    let simple = b"\x67\x44\x66\x98\0\0\0\x1c\x11\x22\x33\x44\x55\x66\x77\x88";
    let expected = Reply::Simple { cookie: COOKIE, error: Some(Errno::NOSPC) };
    assert_eq!(replies(false, simple, 3).unwrap(), [expected]);
}

#[test]
fn what_is_missing_is_told() {
    let mut parser = ReplyParser::new(true);
    assert_eq!(parser.missing(), 4);
    let bytes = raw(5, &[0; 12]);
    parser.feed(&bytes[..7]).unwrap();
    assert_eq!(parser.missing(), CHUNK_LEN - 7);
    parser.feed(&bytes[7..22]).unwrap();
    assert_eq!(parser.missing(), 10);
}
