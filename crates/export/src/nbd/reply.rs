//! Replies: simple or structured, with runs of zeros sent as holes where the client understands them.

use block::Errno;
use flow::{PieceSource, Pieces, seam};
use io::Lease;
use nbd::codec::{
    Cookie, ERROR_LEN, OFFSET_DATA_LEN, OFFSET_HOLE_LEN, SIMPLE_REPLY_LEN, put_error, put_offset_data,
    put_offset_hole, put_simple_reply,
};

use super::outbox::Outbox;

/// Zeros are looked for, and sent as holes, in units of this many bytes.
const HOLE_UNIT: usize = 4096;
/// Longest error text.
const MESSAGE_MAX: usize = 512;
/// More runs than this in one read are sent as data.
const RUNS_MAX: usize = 64;

/// How to answer one read.
#[derive(Clone, Copy, Debug)]
pub(super) struct ReadReply {
    pub(super) cookie: Cookie,
    pub(super) offset: u64,
    pub(super) len: usize,
    /// In chunks, rather than a simple reply.
    pub(super) structured: bool,
    /// The client takes holes.
    pub(super) holes: bool,
}

/// A run of bytes or zeros of one read, relative to its first byte.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Run {
    start: usize,
    end: usize,
    zero: bool,
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

    /// Queues the reply whose data has been written in place, behind room for the head.
    pub(super) fn finish(&self, out: &mut Outbox) {
        let head = self.head_len();
        let room = out.reserve(self.room());
        if !self.structured {
            put_simple_reply(array(&mut room[..head]), self.cookie, None);
        } else if self.holes && self.len >= HOLE_UNIT && starts_or_holds_zeroes(&room[head..]) {
            let mut runs = [Run { start: 0, end: 0, zero: false }; RUNS_MAX];
            if let Some(count) = find_runs(&room[head..], self.offset, &mut runs) {
                return self.finish_runs(out, &runs[..count]);
            }
            self.put_head(out.reserve(self.room()), 0, self.len, true);
        } else {
            self.put_head(room, 0, self.len, true);
        }
        out.queue(0, self.room());
        out.settle(self.room());
    }

    /// The heads of later chunks are written into the zeros that are not sent.
    fn finish_runs(&self, out: &mut Outbox, runs: &[Run]) {
        let head = self.head_len();
        for (at, run) in runs.iter().enumerate() {
            let done = at + 1 == runs.len();
            let room = out.reserve(self.room());
            if run.zero {
                // Behind the data before it, or where the first head would have stood.
                let from = if run.start == 0 { 0 } else { head + run.start };
                self.put_hole(&mut room[from..], run, done);
                out.queue(from, from + OFFSET_HOLE_LEN);
            } else {
                let from = run.start;
                self.put_head(&mut room[from..], run.start, run.end - run.start, done);
                out.queue(from, head + run.end);
            }
        }
        out.settle(self.room());
    }

    fn put_head(&self, room: &mut [u8], start: usize, len: usize, done: bool) {
        put_offset_data(
            array(&mut room[..OFFSET_DATA_LEN]),
            self.cookie,
            done,
            self.offset + start as u64,
            len as u32,
        );
    }

    fn put_hole(&self, room: &mut [u8], run: &Run, done: bool) {
        let offset = self.offset + run.start as u64;
        let len = (run.end - run.start) as u32;
        put_offset_hole(array(&mut room[..OFFSET_HOLE_LEN]), self.cookie, done, offset, len);
    }

    /// Queues the reply whose data lies in a lease.
    pub(super) fn send_lease(&self, out: &mut Outbox, mut lease: Lease) {
        let mut runs = [Run { start: 0, end: self.len, zero: false }; RUNS_MAX];
        let mut count = 1;
        if self.structured && self.holes && self.len >= HOLE_UNIT {
            count = find_runs(&lease, self.offset, &mut runs).unwrap_or(1);
            if count == 1 && !runs[0].zero {
                runs[0] = Run { start: 0, end: self.len, zero: false };
            }
        }
        if !self.structured {
            let mut head = [0; SIMPLE_REPLY_LEN];
            put_simple_reply(&mut head, self.cookie, None);
            out.put(&head);
            return out.put_lease(lease);
        }
        for (at, run) in runs[..count].iter().enumerate() {
            let part = lease.split_to(run.end - run.start);
            if self.put_run_head(out, run, at + 1 == count) {
                out.put_lease(part);
            }
        }
    }

    /// Queues the reply whose data was lent.
    pub(super) fn send_pieces(&self, out: &mut Outbox, pieces: &mut Pieces) {
        if !self.structured {
            let mut head = [0; SIMPLE_REPLY_LEN];
            put_simple_reply(&mut head, self.cookie, None);
            out.put(&head);
        }
        let count = pieces.len();
        let mut start = 0;
        for (at, piece) in pieces.drain().enumerate() {
            let zero = self.holes && matches!(piece.source, PieceSource::Zeroes);
            let run = Run { start, end: start + piece.len, zero };
            start = run.end;
            if self.structured && !self.put_run_head(out, &run, at + 1 == count) {
                continue;
            }
            match piece.source {
                PieceSource::File { file, offset } => out.put_file(file, offset, piece.len),
                PieceSource::Zeroes => out.put_zeroes(piece.len),
            }
        }
    }

    /// Queues the head of a chunk; answers whether data has to follow.
    fn put_run_head(&self, out: &mut Outbox, run: &Run, done: bool) -> bool {
        if run.zero {
            let mut chunk = [0; OFFSET_HOLE_LEN];
            self.put_hole(&mut chunk, run, done);
            out.put(&chunk);
        } else {
            let mut head = [0; OFFSET_DATA_LEN];
            self.put_head(&mut head, run.start, run.end - run.start, done);
            out.put(&head);
        }
        !run.zero
    }
}

/// Most room that the heads of a reply need which does not write its data in place.
pub(super) const HEADS_MAX: usize = (RUNS_MAX + Pieces::MAX) * OFFSET_HOLE_LEN;

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

/// A cheap look before the real one: most data has no zero unit at all.
fn starts_or_holds_zeroes(data: &[u8]) -> bool {
    data.chunks(HOLE_UNIT).any(|unit| unit[0] == 0 && seam::is_zero(&unit[..unit.len().min(64)]))
}

/// Cuts data into runs, zeros in whole units of the export. `None` when one data chunk is as good.
fn find_runs(data: &[u8], offset: u64, runs: &mut [Run; RUNS_MAX]) -> Option<usize> {
    let mut count = 0;
    let mut start = 0;
    while start < data.len() {
        let to_boundary = HOLE_UNIT - (offset as usize + start) % HOLE_UNIT;
        let end = data.len().min(start + to_boundary);
        // A hole shorter than a unit would save nothing, and its chunk could not stand in its place.
        let zero = end - start == HOLE_UNIT && seam::is_zero(&data[start..end]);
        match count {
            0 => {}
            _ if runs[count - 1].zero == zero => {
                runs[count - 1].end = end;
                start = end;
                continue;
            }
            RUNS_MAX => return None,
            _ => {}
        }
        runs[count] = Run { start, end, zero };
        count += 1;
        start = end;
    }
    runs[..count].iter().any(|run| run.zero).then_some(count)
}

/// The slice as the array that it is; callers cut it to length.
fn array<const N: usize>(bytes: &mut [u8]) -> &mut [u8; N] {
    bytes.first_chunk_mut().expect("cut to length by the caller")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_cover_the_data_and_zeros_come_in_units() {
        let mut data = vec![0u8; 10 * HOLE_UNIT];
        data[3 * HOLE_UNIT + 5] = 1;
        data[9 * HOLE_UNIT] = 1;
        let mut runs = [Run { start: 0, end: 0, zero: false }; RUNS_MAX];
        let count = find_runs(&data, 0, &mut runs).expect("it holds zeros");
        let seen: Vec<_> =
            runs[..count].iter().map(|r| (r.start / HOLE_UNIT, r.end / HOLE_UNIT, r.zero)).collect();
        assert_eq!(seen, [(0, 3, true), (3, 4, false), (4, 9, true), (9, 10, false)]);
        // Off the boundaries of the export only whole units in between count.
        let count = find_runs(&data[..2 * HOLE_UNIT], 512, &mut runs).expect("one unit is whole");
        assert_eq!((count, runs[1].start, runs[1].end), (3, HOLE_UNIT - 512, 2 * HOLE_UNIT - 512));
        data.fill(1);
        assert_eq!(find_runs(&data, 0, &mut runs), None);
    }
}
