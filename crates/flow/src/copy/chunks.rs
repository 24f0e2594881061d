//! What a copy has to bring, piece by piece: data that the cache does not hold, and zeros that would not stay zeros.
//!
//! Invariants: pieces come in order, never overlap, and are cut at multiples of the chunk size; data is rounded to
//! whole granules (they are what is fetched), zeros that are stored are whole granules already.

use std::collections::VecDeque;

use block::{Alignment, ByteRange, Extent, Result};

use super::Policy;
use crate::node::NodeId;
use crate::root::Root;
use crate::seam;
use crate::walk::Whence;

/// How much is asked for in one question for extents.
const QUESTION: u64 = 1 << 30;
/// Longest run of zeros that is stored at once.
const ZEROES_MAX: u64 = 64 << 20;

/// A run to be copied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Piece {
    pub(super) range: ByteRange,
    pub(super) what: What,
}

/// What a run is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum What {
    /// It is fetched.
    Data,
    /// It is zeroed.
    Zeroes,
}

impl Piece {
    /// Bytes of the window that it takes.
    pub(super) fn cost(&self, chunk: u64) -> u64 {
        match self.what {
            What::Data => self.range.len(),
            What::Zeroes => self.range.len().min(chunk),
        }
    }
}

pub(super) struct Chunks<'a> {
    root: &'a Root,
    chunk: u64,
    bottom: Option<NodeId>,
    granule: Alignment,
    /// Not asked about yet.
    rest: ByteRange,
    /// Held or not, up to `ready_to`.
    ready: VecDeque<Piece>,
    ready_to: u64,
    ready_bytes: u64,
}

impl<'a> Chunks<'a> {
    pub(super) fn new(root: &'a Root, policy: &Policy) -> Self {
        let view = root.view();
        let rest = ByteRange::between(0, view.size());
        let granule = Alignment::new(seam::granule(&view)).unwrap_or_default();
        let (chunk, bottom, ready) = (policy.chunk, policy.bottom, VecDeque::new());
        Self { root, chunk, bottom, granule, rest, ready, ready_to: 0, ready_bytes: 0 }
    }

    /// Size of the whole.
    pub(super) fn size(&self) -> u64 {
        self.rest.end()
    }

    /// The next run to be copied, within a chunk. After an error the same is asked again.
    pub(super) async fn next(&mut self) -> Result<Option<Piece>> {
        loop {
            while let Some(&piece) = self.ready.front() {
                let (whence, len) = seam::whence(&self.root.view(), self.bottom, piece.range).await?;
                let run = self.take_front(piece, len, whence == Whence::Between);
                if whence == Whence::Between {
                    return Ok(Some(run));
                }
            }
            if self.rest.is_empty() {
                return Ok(None);
            }
            for extent in seam::extents(&self.root.view(), self.rest.head(QUESTION)).await? {
                self.take(extent);
            }
        }
    }

    /// Leaves out what the last error was about.
    pub(super) fn skip(&mut self) {
        match self.ready.front().copied() {
            Some(piece) => drop(self.take_front(piece, piece.range.len(), false)),
            None => self.rest = self.rest.skip(self.chunk),
        }
    }

    /// Bytes from the front that are skipped, held or handed out.
    pub(super) fn passed(&self) -> u64 {
        self.rest.start().max(self.ready_to).saturating_sub(self.ready_bytes)
    }

    /// Takes the first `len` bytes of the first piece; of zeros that are to be stored the whole granules around them.
    fn take_front(&mut self, piece: Piece, len: u64, stored: bool) -> Piece {
        let head = piece.range.head(len);
        let run = match piece.what {
            What::Zeroes if stored => {
                let whole = self.granule.around(head);
                ByteRange::between(whole.start(), whole.end().min(piece.range.end()))
            }
            _ => head,
        };
        let tail = ByteRange::between(run.end(), piece.range.end());
        self.ready.pop_front();
        if !tail.is_empty() {
            self.ready.push_front(Piece { range: tail, ..piece });
        }
        self.ready_bytes -= piece.range.len() - tail.len();
        Piece { range: run, ..piece }
    }

    fn take(&mut self, extent: Extent) {
        let (range, size) = (extent.range.intersection(self.rest), self.rest.end());
        self.rest = ByteRange::between(range.end().max(self.rest.start()), size);
        if range.is_empty() {
        } else if !extent.state.reads_zero() {
            self.push(range, What::Data, self.chunk);
        } else if self.bottom.is_some() {
            self.take_zeroes(range, size);
        }
    }

    /// Zeros above a layer that stays: granules that are not zeros throughout are fetched.
    fn take_zeroes(&mut self, range: ByteRange, size: u64) {
        let start = self.granule.up(range.start()).max(self.ready_to);
        let end = if range.end() == size { size } else { self.granule.down(range.end()) };
        if start >= end {
            return self.push(range, What::Data, self.chunk);
        }
        self.push(ByteRange::between(range.start(), start.max(range.start())), What::Data, self.chunk);
        self.push(ByteRange::between(start, end), What::Zeroes, ZEROES_MAX);
        self.push(ByteRange::between(end, range.end()), What::Data, self.chunk);
    }

    /// Adds a run, in whole granules, without what was added before.
    fn push(&mut self, range: ByteRange, what: What, longest: u64) {
        if range.is_empty() {
            return;
        }
        let whole = self.granule.around(range);
        let start = whole.start().max(self.ready_to);
        let mut fresh = ByteRange::between(start, whole.end().min(self.rest.end()).max(start));
        self.ready_to = self.ready_to.max(fresh.end());
        self.ready_bytes += fresh.len();
        // Cut at multiples of the chunk size, so that chunks and clusters share their boundaries.
        while !fresh.is_empty() {
            let piece = fresh.head(longest - fresh.start() % longest);
            match self.ready.back_mut() {
                Some(last)
                    if last.what == what
                        && last.range.end() == piece.start()
                        && !piece.start().is_multiple_of(longest) =>
                {
                    last.range = ByteRange::between(last.range.start(), piece.end());
                }
                _ => self.ready.push_back(Piece { range: piece, what }),
            }
            fresh = fresh.skip(piece.len());
        }
    }
}
