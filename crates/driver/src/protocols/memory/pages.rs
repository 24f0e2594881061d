//! Sparse bytes in memory: pages that exist once they were written.
//!
//! Invariants: a page that does not exist reads as zeros; a lock is held for the copying of one page at most.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError, TryLockError};

use block::{ByteRange, Extent, ExtentState, push_extent};

const PAGE: u64 = 64 << 10;
/// Neighbouring pages have different locks, so that threads seldom meet.
const SHARDS: u64 = 16;

type Shard = BTreeMap<u64, Box<[u8]>>;

/// Whether to wait for another thread's copying, and for memory.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Patience {
    /// Neither: stop there.
    None,
    /// Both.
    Waits,
}

#[derive(Default)]
pub(super) struct Pages {
    shards: [Mutex<Shard>; SHARDS as usize],
}

impl Pages {
    /// Fills `buf` from `offset`; answers how many bytes of its front.
    pub(super) fn read(&self, offset: u64, buf: &mut [u8], patience: Patience) -> usize {
        let whole = ByteRange::new(offset, buf.len() as u64);
        for piece in pieces(whole) {
            let to = (piece.start() - offset) as usize;
            let Some(shard) = self.lock(piece.start() / PAGE, patience) else { return to };
            let part = &mut buf[to..to + piece.len() as usize];
            match shard.get(&(piece.start() / PAGE)) {
                Some(page) => part.copy_from_slice(&page[within(piece)]),
                None => part.fill(0),
            }
        }
        buf.len()
    }

    /// Stores `bytes` at `offset`; answers how many bytes of their front.
    pub(super) fn write(&self, offset: u64, bytes: &[u8], patience: Patience) -> usize {
        let whole = ByteRange::new(offset, bytes.len() as u64);
        for piece in pieces(whole) {
            let from = (piece.start() - offset) as usize;
            let number = piece.start() / PAGE;
            let Some(mut shard) = self.lock(number, patience) else { return from };
            if patience == Patience::None && !shard.contains_key(&number) {
                return from;
            }
            let page = shard.entry(number).or_insert_with(|| vec![0; PAGE as usize].into());
            page[within(piece)].copy_from_slice(&bytes[from..from + piece.len() as usize]);
        }
        bytes.len()
    }

    /// Makes `range` read as zeros; whole pages are given back.
    pub(super) fn zero(&self, range: ByteRange) {
        for (at, shard) in self.shards.iter().enumerate() {
            let mut shard = shard.lock().unwrap_or_else(PoisonError::into_inner);
            let first = range.start() / PAGE;
            let last = range.end().div_ceil(PAGE);
            let numbers: Vec<u64> = shard.range(first..last.max(first)).map(|(number, _)| *number).collect();
            for number in numbers {
                debug_assert_eq!(number % SHARDS, at as u64);
                let page = ByteRange::new(number * PAGE, PAGE);
                if range.contains(page) {
                    shard.remove(&number);
                } else if let Some(bytes) = shard.get_mut(&number) {
                    bytes[within(page.intersection(range))].fill(0);
                }
            }
        }
    }

    /// Which parts of `range` exist.
    pub(super) fn extents(&self, range: ByteRange) -> Vec<Extent> {
        let mut held: Vec<u64> = Vec::new();
        let numbers = range.start() / PAGE..range.end().div_ceil(PAGE);
        for shard in &self.shards {
            let shard = shard.lock().unwrap_or_else(PoisonError::into_inner);
            held.extend(shard.range(numbers.clone()).map(|(number, _)| *number));
        }
        held.sort_unstable();
        let mut extents = Vec::new();
        let mut at = range.start();
        for number in held {
            let page = ByteRange::new(number * PAGE, PAGE).intersection(range);
            let hole = ByteRange::between(at, page.start());
            push_extent(&mut extents, Extent { range: hole, state: ExtentState::Hole });
            push_extent(&mut extents, Extent { range: page, state: ExtentState::Data });
            at = page.end();
        }
        let tail = ByteRange::between(at, range.end());
        push_extent(&mut extents, Extent { range: tail, state: ExtentState::Hole });
        extents
    }

    fn lock(&self, number: u64, patience: Patience) -> Option<MutexGuard<'_, Shard>> {
        let shard = &self.shards[(number % SHARDS) as usize];
        match (patience, shard.try_lock()) {
            (_, Ok(shard)) => Some(shard),
            (_, Err(TryLockError::Poisoned(shard))) => Some(shard.into_inner()),
            (Patience::None, Err(TryLockError::WouldBlock)) => None,
            (Patience::Waits, Err(TryLockError::WouldBlock)) => {
                Some(shard.lock().unwrap_or_else(PoisonError::into_inner))
            }
        }
    }
}

/// `range` cut where pages end.
fn pieces(range: ByteRange) -> impl Iterator<Item = ByteRange> {
    let mut rest = range;
    std::iter::from_fn(move || {
        let piece = rest.head(PAGE - rest.start() % PAGE);
        rest = rest.skip(piece.len());
        (!piece.is_empty()).then_some(piece)
    })
}

/// Where in its page a piece lies.
fn within(piece: ByteRange) -> std::ops::Range<usize> {
    let from = (piece.start() % PAGE) as usize;
    from..from + piece.len() as usize
}
