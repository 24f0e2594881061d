//! What is to be sent: bytes written in place, leases, and stable ranges of files, in order.
//!
//! Invariants: segments are sent in the order they were queued; the fixed buffer is reused only when everything
//! in it has been sent; queueing from the path that does not wait allocates nothing once warm.

use std::collections::VecDeque;
use std::io::{IoSlice, Result};
use std::rc::Rc;
use std::sync::Arc;

use io::{File, Lease, Stream};

/// Room for replies that are written in place. Untouched pages cost no memory.
const ROOM: usize = 2 << 20;
/// Slices of one send.
const PARTS: usize = 32;
/// More segments than this are not queued before some are sent.
const SEGMENTS_MAX: usize = 1024;
/// After this many bytes the others of the thread get their turn, however fast the client takes them.
const SEND_MAX: usize = 4 << 20;

static ZEROES: [u8; 64 << 10] = [0; 64 << 10];

/// Bytes on their way to one client.
pub(super) struct Outbox {
    room: Box<[u8]>,
    filled: usize,
    segments: VecDeque<Segment>,
}

/// How far a send came.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Sent {
    /// Nothing is left.
    All,
    /// The socket takes no more now.
    Full,
    /// The socket may take more, but this was enough for once.
    Enough,
}

enum Segment {
    /// Of the fixed buffer.
    Bytes { start: usize, end: usize },
    /// Of a lease, which may have other segments.
    Lease { lease: Rc<Lease>, start: usize, end: usize },
    /// Of a file that does not change under us.
    File { file: Arc<dyn File>, offset: u64, len: usize },
    /// Zeros.
    Zeroes { len: usize },
}

impl Outbox {
    pub(super) fn new() -> Self {
        let room = vec![0; ROOM].into_boxed_slice();
        Self { room, filled: 0, segments: VecDeque::with_capacity(64) }
    }

    /// Whether everything has been sent.
    pub(super) fn is_empty(&self) -> bool {
        self.segments.is_empty()
    }

    /// Whether `len` more bytes can be written in place.
    pub(super) fn has_room(&self, len: usize) -> bool {
        self.room.len() - self.filled >= len && self.segments.len() < SEGMENTS_MAX
    }

    /// The next `len` bytes to write in place; they are sent once [`Outbox::queue`] names them.
    pub(super) fn reserve(&mut self, len: usize) -> &mut [u8] {
        &mut self.room[self.filled..self.filled + len]
    }

    /// Queues a part of what was just reserved, given by its offsets there; call in order, then
    /// [`Outbox::settle`].
    pub(super) fn queue(&mut self, from: usize, to: usize) {
        let (start, end) = (self.filled + from, self.filled + to);
        match self.segments.back_mut() {
            _ if start == end => {}
            Some(Segment::Bytes { end: last, .. }) if *last == start => *last = end,
            _ => self.segments.push_back(Segment::Bytes { start, end }),
        }
    }

    /// Ends a reservation: its first `len` bytes are not reused before they are sent.
    pub(super) fn settle(&mut self, len: usize) {
        self.filled += len;
    }

    /// Queues a short message.
    pub(super) fn put(&mut self, bytes: &[u8]) {
        self.reserve(bytes.len()).copy_from_slice(bytes);
        self.queue(0, bytes.len());
        self.settle(bytes.len());
    }

    /// Queues a part of a lease, which is kept until its last part was sent.
    pub(super) fn put_lease(&mut self, lease: &Rc<Lease>, start: usize, end: usize) {
        if start < end {
            self.segments.push_back(Segment::Lease { lease: lease.clone(), start, end });
        }
    }

    pub(super) fn put_file(&mut self, file: Arc<dyn File>, offset: u64, len: usize) {
        if len > 0 {
            self.segments.push_back(Segment::File { file, offset, len });
        }
    }

    pub(super) fn put_zeroes(&mut self, len: usize) {
        if len > 0 {
            self.segments.push_back(Segment::Zeroes { len });
        }
    }

    /// Sends what the socket takes, within reason.
    pub(super) fn send(&mut self, stream: &dyn Stream) -> Result<Sent> {
        let mut left = SEND_MAX;
        while let Some(front) = self.segments.front() {
            if left == 0 {
                return Ok(Sent::Enough);
            }
            let sent = match front {
                Segment::File { file, offset, len } => {
                    stream.try_send_file(&**file, *offset, left.min(*len))?
                }
                _ => self.send_bytes(stream)?,
            };
            match sent {
                // Only a file can end early, and a file that does was cut under our lock.
                Some(0) => return Err(std::io::ErrorKind::UnexpectedEof.into()),
                Some(sent) => {
                    self.advance(sent);
                    left = left.saturating_sub(sent);
                }
                None => return Ok(Sent::Full),
            }
        }
        self.filled = 0;
        Ok(Sent::All)
    }

    fn send_bytes(&self, stream: &dyn Stream) -> Result<Option<usize>> {
        let mut parts = [IoSlice::new(&[]); PARTS];
        let mut used = 0;
        // A long run of zeros takes several parts; a file goes by itself.
        let mut cut = false;
        for segment in self.segments.iter().take(PARTS) {
            let part = match segment {
                Segment::Bytes { start, end } => &self.room[*start..*end],
                Segment::Lease { lease, start, end } => &lease[*start..*end],
                Segment::Zeroes { len } => {
                    cut = *len > ZEROES.len();
                    &ZEROES[..ZEROES.len().min(*len)]
                }
                Segment::File { .. } => break,
            };
            parts[used] = IoSlice::new(part);
            used += 1;
            if cut {
                break;
            }
        }
        stream.try_send(&parts[..used], cut || self.segments.len() > used)
    }

    fn advance(&mut self, mut sent: usize) {
        while sent > 0 {
            let Some(front) = self.segments.front_mut() else { return };
            let left = match front {
                Segment::Bytes { start, end } | Segment::Lease { start, end, .. } => *end - *start,
                Segment::File { len, .. } | Segment::Zeroes { len } => *len,
            };
            if sent >= left {
                sent -= left;
                self.segments.pop_front();
                continue;
            }
            match front {
                Segment::Bytes { start, .. } | Segment::Lease { start, .. } => *start += sent,
                Segment::Zeroes { len } => *len -= sent,
                Segment::File { offset, len, .. } => {
                    *offset += sent as u64;
                    *len -= sent;
                }
            }
            return;
        }
    }
}
