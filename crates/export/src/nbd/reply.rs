//! Replies: simple or structured, with runs of zeros sent as holes where the client understands them.
//!
//! Invariants: a read is answered with chunks that cover it in order, each byte once, the last one marked; a
//! client that asked for one fragment (DF) gets one.

use std::rc::Rc;

use block::Errno;
use flow::{PieceSource, Pieces};
use io::Lease;
use nbd::codec::{
    CHUNK_LEN, Cookie, ERROR_LEN, OFFSET_DATA_LEN, OFFSET_HOLE_LEN, SIMPLE_REPLY_LEN, put_error, put_none,
    put_offset_data, put_offset_hole, put_simple_reply,
};

use super::outbox::Outbox;
use super::runs::{RUNS_MAX, Run, Runs};

/// Longest error text.
const MESSAGE_MAX: usize = 512;

/// Most room that the heads of a reply need which does not write its data in place.
pub(super) const HEADS_MAX: usize = (RUNS_MAX + Pieces::MAX) * OFFSET_HOLE_LEN;

/// How to answer one read.
#[derive(Clone, Copy, Debug)]
pub(super) struct ReadReply {
    pub(super) cookie: Cookie,
    pub(super) offset: u64,
    pub(super) len: usize,
    /// In chunks, rather than a simple reply.
    pub(super) structured: bool,
    /// The client takes holes, and several chunks.
    pub(super) holes: bool,
}

impl ReadReply {
    /// Bytes before the data.
    pub(super) const fn head_len(&self) -> usize {
        if self.structured { OFFSET_DATA_LEN } else { SIMPLE_REPLY_LEN }
    }

    /// Room that the reply needs when its data is written in place.
    pub(super) const fn room(&self) -> usize {
        self.head_len() + self.len
    }

    /// Queues the reply to a read of no bytes.
    pub(super) fn finish_empty(&self, out: &mut Outbox) {
        if !self.structured {
            return put_success(out, self.cookie);
        }
        let mut chunk = [0; CHUNK_LEN];
        put_none(&mut chunk, self.cookie);
        out.put(&chunk);
    }

    /// Queues the reply whose data has been written in place, behind room for the head.
    pub(super) fn finish(&self, out: &mut Outbox) {
        let head = self.head_len();
        let room = out.reserve(self.room());
        if !self.structured {
            put_simple_reply(array(&mut room[..head]), self.cookie, None);
        } else {
            if self.holes
                && let Some(runs) = Runs::of(&room[head..], self.offset)
            {
                return self.finish_runs(out, runs.list());
            }
            self.write_head(&mut room[..head], &self.whole(), true);
        }
        out.queue(0, self.room());
        out.settle(self.room());
    }

    /// The heads of later chunks are written into the zeros that are not sent.
    fn finish_runs(&self, out: &mut Outbox, runs: &[Run]) {
        for (at, run) in runs.iter().enumerate() {
            let done = at + 1 == runs.len();
            let room = out.reserve(self.room());
            if run.zero {
                // Behind the data before it, or where the first head would have stood.
                let from = if run.start == 0 { 0 } else { OFFSET_DATA_LEN + run.start };
                self.write_hole(&mut room[from..], run, done);
                out.queue(from, from + OFFSET_HOLE_LEN);
            } else {
                // Right before its data.
                let from = run.start;
                self.write_head(&mut room[from..], run, done);
                out.queue(from, OFFSET_DATA_LEN + run.end);
            }
        }
        out.settle(self.room());
    }

    /// Queues the reply whose data lies in a lease.
    pub(super) fn send_lease(&self, out: &mut Outbox, lease: Lease) {
        let runs = if self.holes { Runs::of(&lease, self.offset) } else { None };
        let lease = Rc::new(lease);
        let Some(runs) = runs else {
            self.put_head(out);
            return out.put_lease(&lease, 0, self.len);
        };
        for (at, run) in runs.list().iter().enumerate() {
            let done = at + 1 == runs.list().len();
            if run.zero {
                self.put_hole(out, run, done);
            } else {
                self.put_run_head(out, run, done);
                out.put_lease(&lease, run.start, run.end);
            }
        }
    }

    /// Queues the reply whose data was lent.
    pub(super) fn send_pieces(&self, out: &mut Outbox, pieces: &mut Pieces) {
        if !self.holes {
            self.put_head(out);
        }
        let mut pieces = pieces.drain().filter(|piece| piece.len > 0).peekable();
        let mut start = 0;
        while let Some(piece) = pieces.next() {
            let done = pieces.peek().is_none();
            let run = Run { start, end: start + piece.len, zero: false };
            start = run.end;
            match piece.source {
                PieceSource::Zeroes if self.holes => self.put_hole(out, &run, done),
                PieceSource::Zeroes => out.put_zeroes(piece.len),
                PieceSource::File { file, offset } => {
                    if self.holes {
                        self.put_run_head(out, &run, done);
                    }
                    out.put_file(file, offset, piece.len);
                }
            }
        }
        debug_assert_eq!(start, self.len, "what was lent is what was asked for");
    }

    /// Queues the head of a reply that is one run of data.
    fn put_head(&self, out: &mut Outbox) {
        if self.structured {
            return self.put_run_head(out, &self.whole(), true);
        }
        put_success(out, self.cookie);
    }

    fn put_run_head(&self, out: &mut Outbox, run: &Run, done: bool) {
        let mut head = [0; OFFSET_DATA_LEN];
        self.write_head(&mut head, run, done);
        out.put(&head);
    }

    fn put_hole(&self, out: &mut Outbox, run: &Run, done: bool) {
        let mut chunk = [0; OFFSET_HOLE_LEN];
        self.write_hole(&mut chunk, run, done);
        out.put(&chunk);
    }

    fn write_head(&self, room: &mut [u8], run: &Run, done: bool) {
        let (offset, len) = self.place(run);
        put_offset_data(array(room), self.cookie, done, offset, len);
    }

    fn write_hole(&self, room: &mut [u8], run: &Run, done: bool) {
        let (offset, len) = self.place(run);
        put_offset_hole(array(room), self.cookie, done, offset, len);
    }

    fn whole(&self) -> Run {
        Run { start: 0, end: self.len, zero: false }
    }

    /// Where a run lies in the export; lengths of reads fit 32 bits.
    fn place(&self, run: &Run) -> (u64, u32) {
        (self.offset + run.start as u64, (run.end - run.start) as u32)
    }
}

/// Queues a reply without data.
pub(super) fn put_success(out: &mut Outbox, cookie: Cookie) {
    let mut reply = [0; SIMPLE_REPLY_LEN];
    put_simple_reply(&mut reply, cookie, None);
    out.put(&reply);
}

/// Queues an error; structured ones carry the text.
pub(super) fn put_failure(out: &mut Outbox, cookie: Cookie, structured: bool, errno: Errno, message: &str) {
    if !structured {
        let mut reply = [0; SIMPLE_REPLY_LEN];
        put_simple_reply(&mut reply, cookie, Some(errno));
        return out.put(&reply);
    }
    let mut chunk = [0; ERROR_LEN + MESSAGE_MAX];
    if let Some(len) = put_error(&mut chunk, cookie, true, errno, message) {
        out.put(&chunk[..len]);
    }
}

/// The front of the slice as an array; callers have made sure that it is that long.
fn array<const N: usize>(bytes: &mut [u8]) -> &mut [u8; N] {
    bytes.first_chunk_mut().expect("as long as the head that it is for")
}
