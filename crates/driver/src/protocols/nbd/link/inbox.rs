//! Received bytes: headers are collected here, the bytes of reads go straight into their leases.
//!
//! Invariant: at most [`ROOM`] bytes are received ahead of what they mean; only those of them that turn out to be
//! the bytes of a read are copied.

use std::io::Result;
use std::ops::Range;

use io::Stream;
use nbd::transmission::client::{Reply, ReplyError, ReplyParser};

const ROOM: usize = 64 << 10;
/// Bytes received at once while long reads are under way: enough for some headers.
const HEADERS: usize = 256;

pub(super) struct Inbox {
    room: Box<[u8]>,
    held: Range<usize>,
    parser: ReplyParser,
}

/// What a receive has brought.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Received {
    Bytes(usize),
    Nothing,
    End,
}

impl Received {
    pub(super) fn of(received: Option<usize>) -> Self {
        match received {
            None => Self::Nothing,
            Some(0) => Self::End,
            Some(len) => Self::Bytes(len),
        }
    }
}

impl Inbox {
    pub(super) fn new(structured: bool) -> Self {
        let room = vec![0; ROOM].into_boxed_slice();
        Self { room, held: 0..0, parser: ReplyParser::new(structured) }
    }

    /// Receives what is there. With `long` reads under way little is received ahead, since most of what follows a
    /// header belongs into a lease. Call it when everything that is held has been taken.
    pub(super) fn receive(&mut self, stream: &dyn Stream, long: bool) -> Result<Received> {
        let most = if long { HEADERS } else { ROOM };
        let received = Received::of(stream.try_recv(&mut self.room[..most])?);
        self.held = match received {
            Received::Bytes(len) => 0..len,
            _ => 0..0,
        };
        Ok(received)
    }

    /// The next reply; `None` when more has to be received first.
    pub(super) fn reply(&mut self) -> std::result::Result<Option<Reply>, ReplyError> {
        while !self.held.is_empty() {
            let progress = self.parser.feed(&self.room[self.held.clone()])?;
            self.held.start += progress.consumed;
            if progress.reply.is_some() {
                return Ok(progress.reply);
            }
        }
        Ok(None)
    }

    /// Moves what is held of a read's bytes to the front of `buf`; answers how many.
    pub(super) fn take(&mut self, buf: &mut [u8]) -> usize {
        let len = buf.len().min(self.held.len());
        buf[..len].copy_from_slice(&self.room[self.held.start..][..len]);
        self.held.start += len;
        len
    }

    /// Whether the server ends the connection between two replies when it ends it now.
    pub(super) fn is_idle(&self) -> bool {
        self.held.is_empty() && self.parser.is_idle()
    }
}
