//! What becomes of freed clusters: they are handed out again, or rest as long as the image is open.
//!
//! Who reads an image that nobody may change is sent bytes from where they lie ([`flow::Window::Lend`]): they are in
//! the sender's queue, and then in the socket's, for as long as the other side likes. Is the image opened for writing
//! then, the place of a discarded cluster must not get the bytes of another one before they have arrived, and nobody
//! knows when that is. The space is found again when the image is opened the next time.

use std::collections::BTreeMap;

use super::super::Run;
use super::Refcounts;

impl Refcounts {
    /// What is freed from now on rests.
    pub(crate) fn rest_freed(&mut self) {
        self.resting.get_or_insert_default();
    }

    /// That cluster is free.
    pub(crate) fn give(&mut self, cluster: u64) {
        match &mut self.resting {
            Some(resting) => add(resting, cluster),
            None if cluster < self.frontier => self.free.add(Run { first: cluster, count: 1 }),
            // Those that have not been looked at are found by their counters.
            None => {}
        }
    }

    /// The front of `run` that does not rest; else the first cluster behind those that do.
    pub(crate) fn awake(&self, run: Run) -> Result<Run, u64> {
        let Some(resting) = &self.resting else { return Ok(run) };
        let before = resting.range(..=run.first).next_back().map(|(first, count)| first + count);
        if let Some(after) = before.filter(|after| *after > run.first) {
            return Err(after);
        }
        let next = resting.range(run.first..).next().map_or(u64::MAX, |(first, _)| *first);
        Ok(Run { first: run.first, count: run.count.min(next - run.first) })
    }
}

/// Adds a cluster to runs.
fn add(runs: &mut BTreeMap<u64, u64>, cluster: u64) {
    let (mut first, mut count) = (cluster, 1);
    if let Some((before, n)) = runs.range(..cluster).next_back().map(|(f, n)| (*f, *n))
        && before + n == cluster
    {
        runs.remove(&before);
        (first, count) = (before, n + 1);
    }
    if let Some(n) = runs.remove(&(cluster + 1)) {
        count += n;
    }
    runs.insert(first, count);
}
