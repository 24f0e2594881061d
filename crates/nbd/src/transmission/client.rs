//! The client's side: requests out, replies in.
//!
//! [`encode_request`] writes a header that the server has to grant; [`ReplyParser`] turns received bytes into
//! [`Reply`] events without touching the bytes of reads, which the embedder receives straight into its
//! buffer; [`ReadProgress`] holds a read's chunks against its range; [`extents`] reads block status.

mod progress;
mod replies;
mod status;

use std::fmt;

use block::{BlockError, ByteRange, ErrorKind};

use super::{Limits, Refusal, validate};
use crate::codec::{Command, CommandFlags, Cookie, REQUEST_LEN, RequestHeader, TransmissionFlags};

pub use progress::{ReadFailure, ReadProgress};
pub use replies::{Chunk, Descriptor, ERROR_PAYLOAD_MAX, Reply, ReplyParser, ReplyProgress};
pub use status::extents;

/// Writes the header of a request, to be followed by the bytes of a write.
///
/// # Errors
/// [`Refusal`] when the server would have to refuse it: beyond the end or the largest payload, or not offered
/// in the handshake. Nothing has been written then.
pub fn encode_request(
    out: &mut [u8; REQUEST_LEN],
    limits: &Limits,
    command: Command,
    flags: CommandFlags,
    cookie: Cookie,
    range: ByteRange,
) -> Result<(), Refusal> {
    let too_long = Refusal { errno: block::Errno::INVAL, message: "length does not fit a request" };
    let len = u32::try_from(range.len()).map_err(|_| too_long)?;
    let header = RequestHeader { flags, code: command.code(), cookie, offset: range.start(), len };
    validate(&header, limits)?;
    // Servers tolerate an unoffered CACHE, but need not do anything of it.
    if command == Command::Cache && !limits.flags.contains(TransmissionFlags::SEND_CACHE) {
        return Err(Refusal { errno: block::Errno::INVAL, message: "command was not offered" });
    }
    header.encode(out);
    Ok(())
}

/// A reply that breaks the protocol: the stream cannot be trusted any further, close the connection.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ReplyError {
    /// A reply begins with no magic that was agreed.
    BadMagic(u32),
    /// A chunk of a type that we do not know and that is no error.
    UnknownChunk(u16),
    /// A chunk whose length does not fit its type.
    BadLength(u16),
    /// A chunk of the last kind that is not marked as the last.
    NotDone,
    /// A content chunk outside the range that was asked for.
    OutOfRange,
    /// A content chunk over bytes that an earlier one has answered.
    Overlap,
    /// A read reported as done although bytes of it were never answered.
    Missing,
    /// A read in more scattered pieces than anybody sends.
    Scattered,
    /// A block status extent of no length.
    EmptyExtent,
}

impl fmt::Display for ReplyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::BadMagic(magic) => write!(f, "invalid reply magic 0x{magic:x}"),
            Self::UnknownChunk(kind) => write!(f, "unknown reply chunk type {kind}"),
            Self::BadLength(kind) => write!(f, "reply chunk of type {kind} with an impossible length"),
            Self::NotDone => f.write_str("empty reply chunk that is not the last"),
            Self::OutOfRange => f.write_str("reply outside the range of its request"),
            Self::Overlap => f.write_str("reply over bytes that were answered before"),
            Self::Missing => f.write_str("read reported as done with bytes missing"),
            Self::Scattered => f.write_str("read answered in too many pieces"),
            Self::EmptyExtent => f.write_str("block status extent of no length"),
        }
    }
}

impl std::error::Error for ReplyError {}

impl From<ReplyError> for BlockError {
    fn from(error: ReplyError) -> Self {
        BlockError::new(ErrorKind::Protocol, error.to_string())
    }
}
