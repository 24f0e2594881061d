//! One direction of a connection: bytes under way, in order.
//!
//! Invariant: bytes of a sent file are read when the receiver takes them, not before, as with sendfile.

use std::collections::VecDeque;
use std::io::{self, ErrorKind};
use std::task::Waker;

use ::io::Moment;
use bytes::{Buf, Bytes};

use crate::disk::SimFile;

/// What is under way together.
pub(crate) enum Body {
    /// Bytes that were copied when they were sent.
    Bytes(Bytes),
    /// Part of a file: its offset and length.
    File(SimFile, u64, usize),
}

impl Body {
    pub(crate) fn len(&self) -> usize {
        match self {
            Self::Bytes(bytes) => bytes.len(),
            Self::File(_, _, len) => *len,
        }
    }

    /// Splits off the first `len` bytes.
    pub(crate) fn split_to(&mut self, len: usize) -> Self {
        match self {
            Self::Bytes(bytes) => Self::Bytes(bytes.split_to(len)),
            Self::File(file, offset, left) => {
                let head = Self::File(file.clone(), *offset, len);
                *offset += len as u64;
                *left -= len;
                head
            }
        }
    }

    /// Takes the first bytes into `buf`, which is not longer.
    fn take(&mut self, buf: &mut [u8]) {
        match self {
            Self::Bytes(bytes) => bytes.copy_to_slice(buf),
            Self::File(file, offset, left) => {
                file.peek(*offset, buf);
                *offset += buf.len() as u64;
                *left -= buf.len();
            }
        }
    }
}

/// How a direction ends.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum End {
    /// The sender has closed: all that was sent arrives.
    Close,
    /// The connection broke.
    Reset,
}

#[derive(Default)]
pub(crate) struct Pipe {
    segments: VecDeque<(Moment, Body)>,
    /// Bytes in them.
    pub(crate) queued: usize,
    /// No more can be sent; what the receiver sees from then on.
    pub(crate) end: Option<(Moment, End)>,
    /// The receiver takes nothing any more.
    pub(crate) deaf: bool,
    pub(crate) reader: Option<Waker>,
    pub(crate) writer: Option<Waker>,
}

impl Pipe {
    /// Queues `body`, to arrive not before what is ahead of it; answers when.
    pub(crate) fn push(&mut self, arrives: Moment, body: Body) -> Moment {
        let arrives = self.segments.back().map_or(arrives, |(last, _)| arrives.max(*last));
        self.queued += body.len();
        self.segments.push_back((arrives, body));
        arrives
    }

    /// What there is to receive: a number of bytes, the end, an error, or nothing yet.
    pub(crate) fn available(&self, now: Moment) -> io::Result<Option<usize>> {
        let here = self.segments.iter().take_while(|(arrives, _)| *arrives <= now);
        let len: usize = here.map(|(_, body)| body.len()).sum();
        match self.end {
            _ if self.deaf => Ok(Some(0)),
            _ if len > 0 => Ok(Some(len)),
            Some((when, End::Close)) if when <= now && self.segments.is_empty() => Ok(Some(0)),
            Some((when, End::Reset)) if when <= now => Err(ErrorKind::ConnectionReset.into()),
            _ => Ok(None),
        }
    }

    /// Fills `buf` with bytes that have arrived.
    pub(crate) fn take(&mut self, mut buf: &mut [u8]) {
        self.queued -= buf.len();
        while let Some((_, body)) = self.segments.front_mut().filter(|_| !buf.is_empty()) {
            let len = body.len().min(buf.len());
            let (head, tail) = buf.split_at_mut(len);
            body.take(head);
            buf = tail;
            if body.len() == 0 {
                self.segments.pop_front();
            }
        }
    }

    /// Loses what arrives after `now`, and anything that could follow.
    pub(crate) fn break_off(&mut self, now: Moment, end: (Moment, End)) {
        self.segments.retain(|(arrives, _)| *arrives <= now);
        self.queued = self.segments.iter().map(|(_, body)| body.len()).sum();
        self.end = Some(end);
    }

    /// The receiver takes nothing any more.
    pub(crate) fn turn_deaf(&mut self) {
        self.deaf = true;
        self.segments.clear();
        self.queued = 0;
    }

    /// Whether sending fails.
    pub(crate) fn is_broken(&self) -> bool {
        self.deaf || self.end.is_some()
    }
}
