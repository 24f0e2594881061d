//! One file on the simulated disk: what readers see, what would survive a power loss, and the changes between.
//!
//! Invariants: until a flush fails, applying all pending changes to the durable state in order gives the live
//! state; the change of a part of a sector is kept as the whole sector after it, since a disk writes sectors
//! whole; nothing is stored beyond the end of the live state.

use std::collections::{BTreeMap, VecDeque};

use block::{Alignment, ByteRange, Extent, ExtentState, Permissions, push_extent};

use super::sparse::Sparse;
use crate::rng::Rng;

/// What a disk writes whole or not at all.
pub(crate) const SECTOR: Alignment = Alignment::SECTOR;

/// Bytes and length.
#[derive(Clone, Default)]
pub(crate) struct Image {
    pub(crate) bytes: Sparse,
    pub(crate) len: u64,
}

/// A change that no flush has covered yet.
#[derive(Clone)]
pub(crate) enum Change {
    /// Whole sectors were written; the file reaches at least to `end`.
    Write { offset: u64, bytes: Vec<u8>, end: u64 },
    /// Whole sectors became holes.
    Punch { range: ByteRange },
    /// The length was set (a write of zeros beyond the end sets it too).
    Len { len: u64 },
}

/// Extents that one answer holds at most.
const EXTENTS_MAX: usize = 4096;

impl Image {
    /// Which parts of `range` are stored; may end early.
    pub(crate) fn extents(&self, range: ByteRange) -> Vec<Extent> {
        let mut extents = Vec::new();
        let mut at = range.start();
        for stored in self.bytes.stored(range.intersection(ByteRange::new(0, self.len))) {
            let hole = ByteRange::between(at, stored.start());
            push_extent(&mut extents, Extent { range: hole, state: ExtentState::Hole });
            push_extent(&mut extents, Extent { range: stored, state: ExtentState::Data });
            at = stored.end();
            if extents.len() >= EXTENTS_MAX {
                return extents;
            }
        }
        let rest = ByteRange::between(at, range.end());
        push_extent(&mut extents, Extent { range: rest, state: ExtentState::Hole });
        extents
    }

    pub(crate) fn apply(&mut self, change: &Change) {
        match change {
            Change::Write { offset, bytes, end } => {
                self.bytes.write(*offset, bytes);
                self.len = self.len.max(*end);
            }
            Change::Punch { range } => self.bytes.punch(*range),
            Change::Len { len } => {
                if *len < self.len {
                    self.bytes.truncate(*len);
                }
                self.len = *len;
            }
        }
    }
}

impl Change {
    /// What it changes; `None` for a change of the length alone.
    pub(crate) fn range(&self) -> Option<ByteRange> {
        match self {
            Self::Write { offset, bytes, .. } => Some(ByteRange::new(*offset, bytes.len() as u64)),
            Self::Punch { range } => Some(*range),
            Self::Len { .. } => None,
        }
    }

    fn cost(&self) -> u64 {
        match self {
            Self::Write { bytes, .. } => bytes.len() as u64,
            _ => 0,
        }
    }
}

#[derive(Clone, Default)]
pub(crate) struct Inode {
    pub(crate) live: Image,
    pub(crate) durable: Image,
    /// Each with its place in the order of all changes.
    pending: VecDeque<(u64, Change)>,
    pending_bytes: u64,
    /// Changes ever made.
    changes: u64,
    /// What each open file does and lets others do.
    pub(crate) locks: BTreeMap<u64, (Permissions, Permissions)>,
}

impl Inode {
    /// A file whose bytes are on the disk for good.
    pub(crate) fn durable(image: Image) -> Self {
        Self { live: image.clone(), durable: image, ..Self::default() }
    }

    pub(crate) fn write(&mut self, offset: u64, bytes: &[u8]) {
        if bytes.is_empty() {
            return;
        }
        let range = ByteRange::new(offset, bytes.len() as u64);
        self.live.bytes.write(offset, bytes);
        self.live.len = self.live.len.max(range.end());
        self.push_sectors(range);
    }

    /// Makes `range` read as zeros without storage where it can; extends the file as a write does.
    pub(crate) fn punch(&mut self, range: ByteRange) {
        if range.end() > self.live.len {
            self.set_len(range.end());
        }
        self.live.bytes.punch(range);
        let inside = SECTOR.inside(range);
        if inside.is_empty() {
            self.push_sectors(range);
            return;
        }
        self.push_sectors(ByteRange::between(range.start(), inside.start()));
        self.push(Change::Punch { range: inside });
        self.push_sectors(ByteRange::between(inside.end(), range.end()));
    }

    /// Overwrites what is stored under `range`, and only that, with rubbish.
    pub(crate) fn spoil(&mut self, range: ByteRange, rng: &mut Rng) {
        let range = range.intersection(ByteRange::new(0, self.live.len));
        let stored: Vec<_> = self.live.bytes.stored(range).collect();
        for part in stored {
            // At most a page.
            let mut rubbish = vec![0; part.len() as usize];
            rng.fill(&mut rubbish);
            self.write(part.start(), &rubbish);
        }
    }

    pub(crate) fn set_len(&mut self, len: u64) {
        let change = Change::Len { len };
        self.live.apply(&change);
        self.push(change);
    }

    /// Carries out a change that was on its way.
    pub(crate) fn redo(&mut self, change: &Change) {
        match change {
            Change::Write { offset, bytes, end } => {
                // The end lies in the last sector.
                let len = bytes.len().min(usize::try_from(end - offset).unwrap_or(usize::MAX));
                self.write(*offset, &bytes[..len]);
            }
            Change::Punch { range } => self.punch(*range),
            Change::Len { len } => self.set_len(*len),
        }
    }

    /// Queues the live contents of the sectors around `range`.
    fn push_sectors(&mut self, range: ByteRange) {
        if range.is_empty() {
            return;
        }
        let around = SECTOR.around(range);
        let mut bytes = vec![0; usize::try_from(around.len()).expect("a write fits in memory")];
        self.live.bytes.read(around.start(), &mut bytes);
        self.push(Change::Write { offset: around.start(), bytes, end: range.end().min(self.live.len) });
    }

    fn push(&mut self, change: Change) {
        self.changes += 1;
        self.pending_bytes += change.cost();
        self.pending.push_back((self.changes, change));
    }

    /// Names the changes made so far.
    pub(crate) fn mark(&self) -> u64 {
        self.changes
    }

    /// Makes the changes up to `mark` durable.
    pub(crate) fn flush(&mut self, mark: u64) {
        while self.pending.front().is_some_and(|(place, _)| *place <= mark) && self.write_back() {}
    }

    /// Makes the oldest pending change durable.
    fn write_back(&mut self) -> bool {
        let Some((_, change)) = self.pending.pop_front() else { return false };
        self.pending_bytes -= change.cost();
        self.durable.apply(&change);
        true
    }

    /// Writes the oldest changes back until the pending ones hold at most `limit` bytes.
    pub(crate) fn bound(&mut self, limit: u64) {
        while self.pending_bytes > limit && self.write_back() {}
    }

    /// Forgets some of the pending changes, as a kernel does whose flush failed: no later flush brings them.
    pub(crate) fn lose_some(&mut self, rng: &mut Rng) {
        let all = std::mem::take(&mut self.pending);
        self.pending = all.into_iter().filter(|_| rng.chance(0.5)).collect();
        self.pending_bytes = self.pending.iter().map(|(_, change)| change.cost()).sum();
    }

    pub(crate) fn pending(&self) -> impl ExactSizeIterator<Item = &Change> {
        self.pending.iter().map(|(_, change)| change)
    }
}
