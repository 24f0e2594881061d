//! Replies off the wire.
//!
//! Invariants: a reply that lies whole in the input is decoded in place; of one that does not, only the bytes
//! that arrived are held; the bytes of reads never pass through here. Bounds: [`ERROR_PAYLOAD_MAX`] for an
//! error, [`DESCRIPTORS_MAX`] descriptors for a block status.

use block::Errno;

use super::ReplyError;
use crate::codec::{
    CHUNK_LEN, CHUNK_MAGIC, ChunkFlags, ChunkType, Cookie, Cursor, DESCRIPTOR_LEN, DESCRIPTORS_MAX,
    PAYLOAD_MAX, SIMPLE_REPLY_LEN, SIMPLE_REPLY_MAGIC, STRING_MAX, StatusFlags, Truncated, errno_from_wire,
};
use crate::intake::Intake;

/// Most bytes of an error chunk's payload: the longest message, with room for fields that we do not know.
pub const ERROR_PAYLOAD_MAX: u32 = 8192;

/// A reply, or a chunk of one.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Reply {
    /// A reply without structure. The bytes of a read follow it when there is no error; with structured
    /// replies agreed it may not answer a read.
    Simple {
        /// Which request it answers.
        cookie: Cookie,
        /// What went wrong, if anything.
        error: Option<Errno>,
    },
    /// A chunk of a structured reply.
    Chunk {
        /// Which request it answers.
        cookie: Cookie,
        /// Whether it is the last one of its reply.
        done: bool,
        /// What it says.
        chunk: Chunk,
    },
}

/// What a chunk says.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Chunk {
    /// Nothing more.
    None,
    /// `len` bytes of the export from `offset` follow: receive them before feeding the parser again.
    OffsetData {
        /// First byte.
        offset: u64,
        /// Length in bytes, 1 to [`PAYLOAD_MAX`].
        len: u32,
    },
    /// `len` bytes from `offset` read as zeros.
    OffsetHole {
        /// First byte.
        offset: u64,
        /// Length in bytes, at least 1.
        len: u32,
    },
    /// Extents from the request's first byte on.
    BlockStatus {
        /// Id of the metadata context.
        context: u32,
        /// At least one.
        descriptors: Vec<Descriptor>,
    },
    /// The request failed.
    Error {
        /// Why.
        errno: Errno,
        /// The server's text, at most 4096 bytes; may be empty.
        message: String,
        /// Where, if the server says so.
        offset: Option<u64>,
    },
}

/// One extent of a block status chunk.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Descriptor {
    /// Length in bytes; not checked yet.
    pub len: u32,
    /// Its state, as the context defines it.
    pub flags: StatusFlags,
}

/// What one call of [`ReplyParser::feed`] did.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ReplyProgress {
    /// How many bytes of the input were used.
    pub consumed: usize,
    /// The reply, once it is complete.
    pub reply: Option<Reply>,
}

/// Turns the bytes of a connection into replies.
#[derive(Debug)]
pub struct ReplyParser {
    structured: bool,
    intake: Intake,
}

impl ReplyParser {
    /// For a connection with structured replies agreed, or without.
    pub fn new(structured: bool) -> Self {
        Self { structured, intake: Intake::default() }
    }

    /// Takes the bytes of at most one reply. With [`Chunk::OffsetData`], and with the success of a simple
    /// read, the bytes of the read come next: they are the embedder's to receive.
    ///
    /// # Errors
    /// [`ReplyError`]: close the connection.
    pub fn feed(&mut self, input: &[u8]) -> Result<ReplyProgress, ReplyError> {
        if self.intake.held().is_empty() {
            let want = self.extent(input)?;
            if want <= input.len() {
                return Ok(ReplyProgress { consumed: want, reply: Some(decode(&input[..want])?) });
            }
        }
        let mut rest = input;
        loop {
            let want = self.extent(self.intake.held())?;
            if self.intake.held().len() == want {
                let reply = decode(self.intake.held())?;
                self.intake.clear();
                return Ok(ReplyProgress { consumed: input.len() - rest.len(), reply: Some(reply) });
            }
            if !self.intake.fill(&mut rest, want) {
                return Ok(ReplyProgress { consumed: input.len(), reply: None });
            }
        }
    }

    /// How many bytes are missing at least until the next reply is complete.
    pub fn missing(&self) -> usize {
        let held = self.intake.held();
        self.extent(held).map_or(0, |want| want - held.len())
    }

    /// Whether the stream stands between two replies, so that a closed connection is no torn reply.
    pub fn is_idle(&self) -> bool {
        self.intake.held().is_empty()
    }

    /// Bytes of memory that an unfinished reply takes.
    pub(crate) fn buffered(&self) -> usize {
        self.intake.capacity()
    }

    /// Length of the reply that begins with `bytes`, as far as they tell: either it is complete in them, or
    /// more than they are is needed.
    fn extent(&self, bytes: &[u8]) -> Result<usize, ReplyError> {
        let mut cursor = Cursor::new(bytes);
        let Ok(magic) = cursor.u32() else { return Ok(4) };
        match magic {
            SIMPLE_REPLY_MAGIC => Ok(SIMPLE_REPLY_LEN),
            CHUNK_MAGIC if self.structured => match ChunkHead::read(&mut cursor) {
                Ok(head) => Ok(CHUNK_LEN + head.held_payload()? as usize),
                Err(Truncated) => Ok(CHUNK_LEN),
            },
            other => Err(ReplyError::BadMagic(other)),
        }
    }
}

/// A chunk's header behind its magic.
struct ChunkHead {
    flags: ChunkFlags,
    code: u16,
    cookie: Cookie,
    len: u32,
}

impl ChunkHead {
    fn read(cursor: &mut Cursor<'_>) -> Result<Self, Truncated> {
        Ok(Self {
            flags: ChunkFlags::from_bits(cursor.u16()?),
            code: cursor.u16()?,
            cookie: Cookie(cursor.u64()?),
            len: cursor.u32()?,
        })
    }

    /// How many bytes of the payload belong to the event rather than to the embedder's buffer.
    fn held_payload(&self) -> Result<u32, ReplyError> {
        let (fits, held) = match ChunkType::from_code(self.code) {
            Some(ChunkType::None) => (self.len == 0, 0),
            Some(ChunkType::OffsetData) => (self.len > 8 && self.len <= PAYLOAD_MAX + 8, 8),
            Some(ChunkType::OffsetHole) => (self.len == 12, 12),
            Some(ChunkType::BlockStatus) => {
                let descriptors = (self.len as usize).saturating_sub(4);
                let whole = descriptors > 0 && descriptors.is_multiple_of(DESCRIPTOR_LEN);
                (whole && descriptors / DESCRIPTOR_LEN <= DESCRIPTORS_MAX, self.len)
            }
            Some(ChunkType::ErrorOffset) => ((14..=ERROR_PAYLOAD_MAX).contains(&self.len), self.len),
            _ if self.code & ChunkType::ERROR_BIT != 0 => {
                ((6..=ERROR_PAYLOAD_MAX).contains(&self.len), self.len)
            }
            _ => return Err(ReplyError::UnknownChunk(self.code)),
        };
        if fits { Ok(held) } else { Err(ReplyError::BadLength(self.code)) }
    }
}

/// Decodes bytes that are exactly what [`ReplyParser::extent`] measured.
fn decode(bytes: &[u8]) -> Result<Reply, ReplyError> {
    let mut cursor = Cursor::new(bytes);
    let read = match cursor.u32() {
        Ok(SIMPLE_REPLY_MAGIC) => simple(&mut cursor),
        _ => return decode_chunk(&mut cursor),
    };
    read.map_err(|Truncated| ReplyError::BadMagic(0))
}

fn simple(cursor: &mut Cursor<'_>) -> Result<Reply, Truncated> {
    let error = cursor.u32()?;
    Ok(Reply::Simple { cookie: Cookie(cursor.u64()?), error: (error != 0).then(|| errno_from_wire(error)) })
}

fn decode_chunk(cursor: &mut Cursor<'_>) -> Result<Reply, ReplyError> {
    let head = ChunkHead::read(cursor).map_err(|Truncated| ReplyError::BadMagic(0))?;
    let done = head.flags.contains(ChunkFlags::DONE);
    let chunk = payload(&head, cursor).map_err(|Truncated| ReplyError::BadLength(head.code))?;
    match chunk {
        Chunk::None if !done => Err(ReplyError::NotDone),
        Chunk::OffsetHole { len: 0, .. } => Err(ReplyError::BadLength(head.code)),
        chunk => Ok(Reply::Chunk { cookie: head.cookie, done, chunk }),
    }
}

fn payload(head: &ChunkHead, cursor: &mut Cursor<'_>) -> Result<Chunk, Truncated> {
    match ChunkType::from_code(head.code) {
        Some(ChunkType::None) => Ok(Chunk::None),
        Some(ChunkType::OffsetData) => Ok(Chunk::OffsetData { offset: cursor.u64()?, len: head.len - 8 }),
        Some(ChunkType::OffsetHole) => Ok(Chunk::OffsetHole { offset: cursor.u64()?, len: cursor.u32()? }),
        Some(ChunkType::BlockStatus) => block_status(cursor),
        kind => error(kind, cursor),
    }
}

fn block_status(cursor: &mut Cursor<'_>) -> Result<Chunk, Truncated> {
    let context = cursor.u32()?;
    let mut descriptors = Vec::new();
    while !cursor.is_empty() {
        descriptors.push(Descriptor { len: cursor.u32()?, flags: StatusFlags::from_bits(cursor.u32()?) });
    }
    Ok(Chunk::BlockStatus { context, descriptors })
}

/// An error of any kind, known or not: all begin alike.
fn error(kind: Option<ChunkType>, cursor: &mut Cursor<'_>) -> Result<Chunk, Truncated> {
    let errno = errno_from_wire(cursor.u32()?);
    let len = usize::from(cursor.u16()?);
    let text = cursor.bytes(len)?;
    let message = String::from_utf8_lossy(&text[..len.min(STRING_MAX)]).into_owned();
    let offset = match kind {
        Some(ChunkType::ErrorOffset) => Some(cursor.u64()?),
        _ => None,
    };
    Ok(Chunk::Error { errno, message, offset })
}

#[cfg(test)]
mod tests;
