//! Reply headers: the simple reply and the chunks of a structured one, written into the caller's bytes.

use block::Errno;

use super::{
    CHUNK_MAGIC, ChunkFlags, ChunkType, Cookie, SIMPLE_REPLY_MAGIC, STRING_MAX, StatusFlags, errno_to_wire,
};

/// Length of a simple reply in bytes; the bytes of a read follow it.
pub const SIMPLE_REPLY_LEN: usize = 16;
/// Length of a chunk's header in bytes.
pub const CHUNK_LEN: usize = 20;
/// Length of all that stands before the bytes of an OFFSET_DATA chunk.
pub const OFFSET_DATA_LEN: usize = CHUNK_LEN + 8;
/// Length of an OFFSET_HOLE chunk.
pub const OFFSET_HOLE_LEN: usize = CHUNK_LEN + 12;
/// Length of all that stands before the descriptors of a BLOCK_STATUS chunk.
pub const BLOCK_STATUS_LEN: usize = CHUNK_LEN + 4;
/// Length of one descriptor.
pub const DESCRIPTOR_LEN: usize = 8;
/// Length of an ERROR chunk without its message.
pub const ERROR_LEN: usize = CHUNK_LEN + 6;

/// Writes a simple reply; `error` of `None` means success.
#[inline]
pub fn put_simple_reply(out: &mut [u8; SIMPLE_REPLY_LEN], cookie: Cookie, error: Option<Errno>) {
    out[..4].copy_from_slice(&SIMPLE_REPLY_MAGIC.to_be_bytes());
    out[4..8].copy_from_slice(&error.map_or(0, errno_to_wire).to_be_bytes());
    out[8..].copy_from_slice(&cookie.0.to_be_bytes());
}

/// Writes a chunk's header; `payload_len` bytes have to follow it.
#[inline]
pub fn put_chunk(out: &mut [u8; CHUNK_LEN], kind: ChunkType, cookie: Cookie, done: bool, payload_len: u32) {
    let flags = if done { ChunkFlags::DONE } else { ChunkFlags::NONE };
    out[..4].copy_from_slice(&CHUNK_MAGIC.to_be_bytes());
    out[4..6].copy_from_slice(&flags.bits().to_be_bytes());
    out[6..8].copy_from_slice(&kind.code().to_be_bytes());
    out[8..16].copy_from_slice(&cookie.0.to_be_bytes());
    out[16..].copy_from_slice(&payload_len.to_be_bytes());
}

/// Writes the chunk that only says that the reply is over.
#[inline]
pub fn put_none(out: &mut [u8; CHUNK_LEN], cookie: Cookie) {
    put_chunk(out, ChunkType::None, cookie, true, 0);
}

/// Writes the head of an OFFSET_DATA chunk; `len` bytes (1 to [`PAYLOAD_MAX`](super::PAYLOAD_MAX)) of the
/// export from `offset` have to follow it.
#[inline]
pub fn put_offset_data(out: &mut [u8; OFFSET_DATA_LEN], cookie: Cookie, done: bool, offset: u64, len: u32) {
    debug_assert!(
        len > 0 && len <= u32::MAX - 8,
        "a data chunk has at least one byte, and room for its head"
    );
    let (chunk, rest) = split(out);
    put_chunk(chunk, ChunkType::OffsetData, cookie, done, len.saturating_add(8));
    rest[..8].copy_from_slice(&offset.to_be_bytes());
}

/// Writes an OFFSET_HOLE chunk: `len` bytes (at least 1) from `offset` read as zeros.
#[inline]
pub fn put_offset_hole(out: &mut [u8; OFFSET_HOLE_LEN], cookie: Cookie, done: bool, offset: u64, len: u32) {
    debug_assert!(len > 0, "a hole has at least one byte");
    let (chunk, rest) = split(out);
    put_chunk(chunk, ChunkType::OffsetHole, cookie, done, 12);
    rest[..8].copy_from_slice(&offset.to_be_bytes());
    rest[8..].copy_from_slice(&len.to_be_bytes());
}

/// Writes the head of a BLOCK_STATUS chunk of the context with id `context`; `descriptors` (1 to
/// [`DESCRIPTORS_MAX`](super::DESCRIPTORS_MAX)) of them have to follow it.
pub fn put_block_status_head(
    out: &mut [u8; BLOCK_STATUS_LEN],
    cookie: Cookie,
    done: bool,
    context: u32,
    descriptors: u32,
) {
    let (chunk, rest) = split(out);
    put_chunk(chunk, ChunkType::BlockStatus, cookie, done, 4 + descriptors * DESCRIPTOR_LEN as u32);
    rest.copy_from_slice(&context.to_be_bytes());
}

/// Writes one descriptor: `len` bytes (at least 1) in the state `flags`.
pub fn put_descriptor(out: &mut [u8; DESCRIPTOR_LEN], len: u32, flags: StatusFlags) {
    out[..4].copy_from_slice(&len.to_be_bytes());
    out[4..].copy_from_slice(&flags.bits().to_be_bytes());
}

/// Writes an ERROR chunk, the message cut (between characters) to what fits into `out` and to
/// [`STRING_MAX`]; answers how many bytes it took, or `None` when not even [`ERROR_LEN`] bytes are there.
pub fn put_error(out: &mut [u8], cookie: Cookie, done: bool, errno: Errno, message: &str) -> Option<usize> {
    let room = out.len().checked_sub(ERROR_LEN)?;
    let message = &message[..message.floor_char_boundary(room.min(STRING_MAX))];
    let (head, rest) = out.split_first_chunk_mut::<CHUNK_LEN>()?;
    put_chunk(head, ChunkType::Error, cookie, done, 6 + message.len() as u32);
    rest[..4].copy_from_slice(&errno_to_wire(errno).to_be_bytes());
    rest[4..6].copy_from_slice(&(message.len() as u16).to_be_bytes());
    rest[6..6 + message.len()].copy_from_slice(message.as_bytes());
    Some(ERROR_LEN + message.len())
}

/// The chunk header and what follows it.
fn split(out: &mut [u8]) -> (&mut [u8; CHUNK_LEN], &mut [u8]) {
    out.split_first_chunk_mut().expect("callers pass an array longer than a chunk header")
}

#[cfg(test)]
mod tests {
    use super::*;

    const COOKIE: Cookie = Cookie(0x1122_3344_5566_7788);

    #[test]
    fn replies_are_what_qemu_sends() {
        let mut simple = [0; SIMPLE_REPLY_LEN];
        put_simple_reply(&mut simple, COOKIE, Some(Errno::INVAL));
        assert_eq!(&simple, b"\x67\x44\x66\x98\0\0\0\x16\x11\x22\x33\x44\x55\x66\x77\x88");
        let mut none = [0; CHUNK_LEN];
        put_none(&mut none, COOKIE);
        assert_eq!(&none, b"\x66\x8e\x33\xef\0\x01\0\0\x11\x22\x33\x44\x55\x66\x77\x88\0\0\0\0");
        let mut data = [0; OFFSET_DATA_LEN];
        put_offset_data(&mut data, COOKIE, true, 0x20000, 0x200);
        let seen =
            b"\x66\x8e\x33\xef\0\x01\0\x01\x11\x22\x33\x44\x55\x66\x77\x88\0\0\x02\x08\0\0\0\0\0\x02\0\0";
        assert_eq!(&data, seen);
        let mut hole = [0; OFFSET_HOLE_LEN];
        put_offset_hole(&mut hole, COOKIE, false, 0x1fe00, 0x200);
        let seen = b"\x66\x8e\x33\xef\0\0\0\x02\x11\x22\x33\x44\x55\x66\x77\x88\0\0\0\x0c\
            \0\0\0\0\0\x01\xfe\0\0\0\x02\0";
        assert_eq!(&hole, seen);
    }

    #[test]
    fn errors_are_what_qemu_sends_and_fit_their_room() {
        let mut out = [0; 64];
        let len = put_error(&mut out, COOKIE, true, Errno::INVAL, "need non-zero length").unwrap();
        let seen =
            b"\x66\x8e\x33\xef\0\x01\x80\x01\x11\x22\x33\x44\x55\x66\x77\x88\0\0\0\x1a\0\0\0\x16\0\x14\
            need non-zero length";
        assert_eq!(&out[..len], seen);
        assert_eq!(put_error(&mut out[..ERROR_LEN + 3], COOKIE, true, Errno::IO, "aé€"), Some(ERROR_LEN + 3));
        assert_eq!(put_error(&mut out[..ERROR_LEN + 2], COOKIE, true, Errno::IO, "aé€"), Some(ERROR_LEN + 1));
        assert_eq!(put_error(&mut out[..ERROR_LEN - 1], COOKIE, true, Errno::IO, ""), None);
        let mut long = vec![0; 10_000];
        let len = put_error(&mut long, COOKIE, true, Errno::IO, &"x".repeat(9000)).unwrap();
        assert_eq!(len, ERROR_LEN + STRING_MAX);
    }
}
