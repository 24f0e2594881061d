//! Free clusters that were passed over or given back, by place and by length.
//!
//! Invariants:
//! * A run lies within one refcount block; runs do not touch within it.
//! * The list is bounded: what it had no room for is noted by the first such cluster, and is found by its counter.

use std::collections::{BTreeMap, BTreeSet};

use super::super::Run;

/// Most runs that are listed: some 4 MiB.
const RUNS_MAX: usize = 1 << 16;

/// Free clusters behind the frontier of the search.
pub(super) struct FreeRuns {
    per_block: u64,
    by_place: BTreeMap<u64, u64>,
    /// Length and place.
    by_len: BTreeSet<(u64, u64)>,
    /// The first cluster that is free and not listed.
    missed: Option<u64>,
}

impl FreeRuns {
    /// None yet; a refcount block counts `per_block` clusters.
    pub(super) fn new(per_block: u64) -> Self {
        Self { per_block, by_place: BTreeMap::new(), by_len: BTreeSet::new(), missed: None }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.by_place.is_empty()
    }

    /// Forgets all of them.
    pub(super) fn clear(&mut self) {
        *self = Self::new(self.per_block);
    }

    /// Adds a run that lies within one block.
    pub(super) fn add(&mut self, run: Run) {
        let (mut first, mut count) = (run.first, run.count);
        let before = self.by_place.range(..first).next_back().map(|(place, len)| (*place, *len));
        if let Some((place, len)) = before
            && place + len == first
            && !first.is_multiple_of(self.per_block)
        {
            self.remove(place, len);
            (first, count) = (place, len + count);
        }
        let after = first + count;
        if let Some(len) = self.by_place.get(&after).copied()
            && !after.is_multiple_of(self.per_block)
        {
            self.remove(after, len);
            count += len;
        }
        if self.by_place.len() >= RUNS_MAX {
            self.missed = Some(self.missed.map_or(first, |missed| missed.min(first)));
            return;
        }
        self.insert(first, count);
    }

    /// The shortest run of at least `count` clusters; if there is none, the longest one, if it has `least`.
    pub(super) fn fit(&self, count: u64, least: u64) -> Option<Run> {
        let enough = self.by_len.range((count, 0)..).next();
        let longest = || self.by_len.last().filter(|(len, _)| *len >= least);
        enough.or_else(longest).map(|(len, place)| Run { first: *place, count: *len })
    }

    /// Takes the front of a listed run.
    pub(super) fn take(&mut self, run: Run) {
        let Some(len) = self.by_place.get(&run.first).copied() else { return };
        self.remove(run.first, len);
        if len > run.count {
            self.insert(run.first + run.count, len - run.count);
        }
    }

    /// Forgets those of a block, which begins there, and of all behind it.
    pub(super) fn cut(&mut self, start: u64) {
        for (place, len) in self.by_place.split_off(&start) {
            self.by_len.remove(&(len, place));
        }
    }

    /// Where those begin that are not listed, once.
    pub(super) fn take_missed(&mut self) -> Option<u64> {
        self.missed.take()
    }

    fn insert(&mut self, place: u64, len: u64) {
        self.by_place.insert(place, len);
        self.by_len.insert((len, place));
    }

    fn remove(&mut self, place: u64, len: u64) {
        self.by_place.remove(&place);
        self.by_len.remove(&(len, place));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(first: u64, count: u64) -> Run {
        Run { first, count }
    }

    #[test]
    fn runs_join_within_a_block_and_the_shortest_that_fits_is_found() {
        let mut free = FreeRuns::new(16);
        for first in [1, 3, 2, 8, 15, 16, 17] {
            free.add(run(first, 1));
        }
        assert_eq!(free.fit(1, 1), Some(run(8, 1)));
        assert_eq!(free.fit(2, 1), Some(run(16, 2)));
        assert_eq!(free.fit(3, 3), Some(run(1, 3)));
        assert_eq!((free.fit(9, 3), free.fit(9, 4)), (Some(run(1, 3)), None));
        free.take(run(1, 2));
        assert_eq!(free.fit(9, 1), Some(run(16, 2)));
        free.cut(16);
        assert_eq!(free.fit(9, 1), Some(run(15, 1)));
        free.take(run(15, 1));
        free.take(run(8, 1));
        assert_eq!(free.fit(9, 1), Some(run(3, 1)));
        free.take(run(3, 1));
        assert!(free.is_empty() && free.by_len.is_empty());
    }

    #[test]
    fn a_list_that_is_full_notes_where_others_are() {
        let mut free = FreeRuns::new(1 << 30);
        (0..RUNS_MAX as u64).for_each(|number| free.add(run(100 + 2 * number, 1)));
        assert_eq!(free.take_missed(), None);
        free.add(run(50, 1));
        free.add(run(70, 1));
        assert_eq!((free.by_place.len(), free.take_missed(), free.take_missed()), (RUNS_MAX, Some(50), None));
        // Where it joins two there is room again.
        free.add(run(101, 1));
        assert_eq!((free.by_place.len(), free.fit(3, 3)), (RUNS_MAX - 1, Some(run(100, 3))));
        free.add(run(50, 1));
        assert_eq!(free.take_missed(), None);
    }
}
