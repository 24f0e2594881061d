//! What is to be sent: bytes written in place, leases, and stable ranges of files, in order.
//!
//! Invariants: segments are sent in the order they were queued; the fixed buffer is reused only when everything
//! in it has been sent; queueing from the path that does not wait allocates nothing once warm.

use std::collections::VecDeque;
use std::io::{IoSlice, Result};
use std::sync::Arc;

use io::{File, Lease, Stream};

/// Room for replies that are written in place. Untouched pages cost no memory.
const ROOM: usize = 2 << 20;
/// Slices of one send.
const PARTS: usize = 32;
/// More segments than this are not queued before some are sent.
const SEGMENTS_MAX: usize = 1024;

static ZEROES: [u8; 64 << 10] = [0; 64 << 10];

/// Bytes on their way to one client.
pub(super) struct Outbox {
    room: Box<[u8]>,
    filled: usize,
    segments: VecDeque<Segment>,
}

enum Segment {
    /// Of the fixed buffer.
    Bytes { start: usize, end: usize },
    /// The rest of a lease.
    Lease { lease: Lease, from: usize },
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

    pub(super) fn put_lease(&mut self, lease: Lease) {
        if !lease.is_empty() {
            self.segments.push_back(Segment::Lease { lease, from: 0 });
        }
    }

    pub(super) fn put_file(&mut self, file: Arc<dyn File>, offset: u64, len: usize) {
        self.segments.push_back(Segment::File { file, offset, len });
    }

    pub(super) fn put_zeroes(&mut self, len: usize) {
        self.segments.push_back(Segment::Zeroes { len });
    }

    /// Sends what the socket takes; answers whether all of it went.
    pub(super) fn send(&mut self, stream: &dyn Stream) -> Result<bool> {
        while let Some(front) = self.segments.front() {
            let sent = match front {
                Segment::File { file, offset, len } => stream.try_send_file(&**file, *offset, *len)?,
                _ => self.send_bytes(stream)?,
            };
            match sent {
                // Only a file can end early, and a file that does was cut under our lock.
                Some(0) => return Err(std::io::ErrorKind::UnexpectedEof.into()),
                Some(sent) => self.advance(sent),
                None => return Ok(false),
            }
        }
        self.filled = 0;
        Ok(true)
    }

    fn send_bytes(&self, stream: &dyn Stream) -> Result<Option<usize>> {
        let mut parts = [IoSlice::new(&[]); PARTS];
        let mut used = 0;
        let mut segments = self.segments.iter();
        let mut file_next = false;
        for segment in segments.by_ref().take(PARTS) {
            parts[used] = IoSlice::new(match segment {
                Segment::Bytes { start, end } => &self.room[*start..*end],
                Segment::Lease { lease, from } => &lease[*from..],
                Segment::Zeroes { len } if *len <= ZEROES.len() => &ZEROES[..*len],
                // The rest of a long run goes with the next send.
                Segment::Zeroes { .. } => {
                    parts[used] = IoSlice::new(&ZEROES);
                    used += 1;
                    break;
                }
                Segment::File { .. } => {
                    file_next = true;
                    break;
                }
            });
            used += 1;
        }
        stream.try_send(&parts[..used], file_next)
    }

    fn advance(&mut self, mut sent: usize) {
        while sent > 0 {
            let Some(front) = self.segments.front_mut() else { return };
            let left = match front {
                Segment::Bytes { start, end } => end.saturating_sub(*start),
                Segment::Lease { lease, from } => lease.len() - *from,
                Segment::File { len, .. } | Segment::Zeroes { len } => *len,
            };
            if sent >= left {
                sent -= left;
                self.segments.pop_front();
                continue;
            }
            match front {
                Segment::Bytes { start, .. } => *start += sent,
                Segment::Lease { from, .. } => *from += sent,
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
