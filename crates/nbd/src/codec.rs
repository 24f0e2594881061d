//! Words and layouts of the wire: magics, flags, codes, error numbers, request and reply headers.
//!
//! Invariants: all integers are big-endian; values that we do not know survive decoding (only a wrong magic
//! is an error), so that the layer above can answer them as the protocol demands; encoding into a slice
//! allocates nothing.

mod cursor;
mod errno;
mod flags;
mod names;
mod reply;
mod request;

pub use cursor::{Cursor, Truncated};
pub use errno::{EOVERFLOW, errno_from_wire, errno_to_wire};
pub use flags::{ChunkFlags, ClientFlags, CommandFlags, HandshakeFlags, StatusFlags, TransmissionFlags};
pub use names::{ChunkType, Command, InfoType, OptionCode, OptionReply};
pub use reply::{
    BLOCK_STATUS_LEN, CHUNK_LEN, DESCRIPTOR_LEN, ERROR_LEN, OFFSET_DATA_LEN, OFFSET_HOLE_LEN,
    SIMPLE_REPLY_LEN, put_block_status_head, put_chunk, put_descriptor, put_error, put_none, put_offset_data,
    put_offset_hole, put_simple_reply,
};
pub use request::{BadMagic, Cookie, REQUEST_LEN, RequestHeader};

/// First eight bytes of a server's greeting, "NBDMAGIC".
pub const GREETING_MAGIC: u64 = 0x4e42_444d_4147_4943;
/// Second eight bytes of a newstyle greeting and head of every option, "IHAVEOPT".
pub const OPTION_MAGIC: u64 = 0x4948_4156_454f_5054;
/// Second eight bytes of an oldstyle greeting, which we only recognise in order to refuse it.
pub const OLDSTYLE_MAGIC: u64 = 0x0000_4202_8186_1253;
/// Head of every reply to an option.
pub const OPTION_REPLY_MAGIC: u64 = 0x0003_e889_0455_65a9;
/// Head of a request.
pub const REQUEST_MAGIC: u32 = 0x2560_9513;
/// Head of a simple reply.
pub const SIMPLE_REPLY_MAGIC: u32 = 0x6744_6698;
/// Head of a chunk of a structured reply.
pub const CHUNK_MAGIC: u32 = 0x668e_33ef;

/// Longest string (name, description, query, message) that the protocol allows, in bytes.
pub const STRING_MAX: usize = 4096;
/// Largest payload of one read or write, in bytes; QEMU's limit and the protocol's portable one.
pub const PAYLOAD_MAX: u32 = 32 << 20;
/// Most descriptors in one block status chunk that the protocol recommends.
pub const DESCRIPTORS_MAX: usize = 1 << 20;
/// The metadata context that the protocol itself defines.
pub const BASE_ALLOCATION: &str = "base:allocation";
/// Port that IANA reserves for NBD.
pub const DEFAULT_PORT: u16 = 10809;
