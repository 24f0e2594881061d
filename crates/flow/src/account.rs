//! Counting what a client did: cheap enough for every request, since a turn adds its sums once.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::request::Op;

/// Sums of one turn, kept on the stack.
#[derive(Clone, Copy, Default, Debug, PartialEq, Eq)]
pub struct Tally {
    /// Requests by kind: reads, writes, zeroings, discards, flushes, cache requests.
    pub operations: [u64; 6],
    /// Bytes by kind.
    pub bytes: [u64; 6],
    /// Requests that were answered with an error.
    pub failed: u64,
}

impl Tally {
    /// Adds one request.
    pub fn add(&mut self, op: Op, bytes: u64) {
        self.operations[op as usize] += 1;
        self.bytes[op as usize] += bytes;
    }
}

/// Totals of a client or an export, shared by threads.
#[derive(Default, Debug)]
pub struct Counters {
    operations: [AtomicU64; 6],
    bytes: [AtomicU64; 6],
    failed: AtomicU64,
}

impl Counters {
    /// Adds the sums of a turn.
    pub fn add(&self, tally: &Tally) {
        let lists = [(&self.operations, &tally.operations), (&self.bytes, &tally.bytes)];
        for (totals, sums) in lists {
            for (total, sum) in totals.iter().zip(sums).filter(|(_, sum)| **sum > 0) {
                total.fetch_add(*sum, Ordering::Relaxed);
            }
        }
        if tally.failed > 0 {
            self.failed.fetch_add(tally.failed, Ordering::Relaxed);
        }
    }

    /// The totals so far.
    pub fn totals(&self) -> Tally {
        let load = |list: &[AtomicU64; 6]| std::array::from_fn(|i| list[i].load(Ordering::Relaxed));
        Tally {
            operations: load(&self.operations),
            bytes: load(&self.bytes),
            failed: self.failed.load(Ordering::Relaxed),
        }
    }
}
