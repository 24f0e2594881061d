//! Which clusters of the file child are free, prepared, mapped or waiting for their readers.
//!
//! Invariants: the lock is held for moments only, and all changes of table entries happen under it, so that who
//! holds it sees entries and clusters agree; a freed cluster is taken again only when [`Reclaim::passed`] says
//! that everybody who may have seen it mapped has left. Durability of the table plays no part: it is in memory.

use std::collections::{BTreeMap, VecDeque};
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use block::ByteRange;
use flow::{Reclaim, Tag};

/// The clusters of one node.
pub(super) struct Clusters {
    cluster: u64,
    /// Most bytes held, as the options state it.
    quota: Option<u64>,
    books: Mutex<Books>,
}

/// A run of clusters: its first, and how many.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Run {
    pub(super) first: u64,
    pub(super) count: u64,
}

/// Why there is no room.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Full {
    /// The quota is used up.
    Quota,
    /// The file child is used up.
    File,
    /// As above, but clusters wait for their readers: it is worth asking again.
    Waiting,
}

/// The state behind the lock.
#[derive(Default)]
pub(super) struct Books {
    /// First cluster that was never used.
    fresh: u64,
    free: BTreeMap<u64, u64>,
    waiting: VecDeque<(Tag, Run)>,
    pub(super) prepared: BTreeMap<u64, u64>,
    prepared_count: u64,
    pub(super) mapped: u64,
}

impl Clusters {
    pub(super) fn new(cluster: u64, quota: Option<u64>) -> Self {
        Self { cluster, quota, books: Mutex::default() }
    }

    pub(super) fn quota(&self) -> Option<u64> {
        self.quota
    }

    /// Bytes of clusters that are mapped or prepared.
    pub(super) fn used(&self) -> u64 {
        self.books().held() * self.cluster
    }

    /// The same of clusters for `range`.
    pub(super) fn cost(&self, range: ByteRange) -> u64 {
        range.end().next_multiple_of(self.cluster) - range.start() / self.cluster * self.cluster
    }

    pub(super) fn books(&self) -> MutexGuard<'_, Books> {
        // The books are consistent between any two statements that hold them.
        self.books.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes up to `count` clusters (in one run), none beyond the first `end` clusters of the file child.
    pub(super) fn take(self: &Arc<Self>, count: u64, end: u64, reclaim: &Reclaim) -> Result<Room, Full> {
        let mut books = self.books();
        let allowed = self.quota.map_or(u64::MAX, |q| (q / self.cluster).saturating_sub(books.held()));
        if allowed == 0 {
            return Err(Full::Quota);
        }
        books.sweep(reclaim);
        let run = books.find(count.min(allowed), end)?;
        books.prepared.insert(run.first, run.count);
        books.prepared_count += run.count;
        Ok(Room { run, clusters: self.clone(), mapped: AtomicBool::new(false) })
    }
}

impl Books {
    fn held(&self) -> u64 {
        self.mapped + self.prepared_count
    }

    /// A run of `count` clusters if there is one, else a shorter one.
    fn find(&mut self, count: u64, end: u64) -> Result<Run, Full> {
        if let Some(first) = self.free.iter().find(|(_, n)| **n >= count).map(|(first, _)| *first) {
            return Ok(self.cut(first, count));
        }
        let fresh = end.saturating_sub(self.fresh).min(count);
        let longest = self.free.iter().max_by_key(|(_, n)| **n).map(|(first, n)| (*first, *n));
        match longest {
            // Much shorter is not worth it while there is fresh room.
            Some((first, n)) if n * 2 >= fresh => Ok(self.cut(first, n)),
            _ if fresh > 0 => {
                self.fresh += fresh;
                Ok(Run { first: self.fresh - fresh, count: fresh })
            }
            _ if self.waiting.is_empty() => Err(Full::File),
            _ => Err(Full::Waiting),
        }
    }

    /// Takes the first `count` clusters of the free run at `first`.
    fn cut(&mut self, first: u64, count: u64) -> Run {
        let had = self.free.remove(&first).unwrap_or(count);
        if had > count {
            self.free.insert(first + count, had - count);
        }
        Run { first, count }
    }

    fn give(&mut self, run: Run) {
        let mut run = run;
        let before = self.free.range(..run.first).next_back().map(|(f, n)| (*f, *n));
        if let Some((first, count)) = before
            && first + count == run.first
        {
            self.free.remove(&first);
            run = Run { first, count: count + run.count };
        }
        if let Some(count) = self.free.remove(&(run.first + run.count)) {
            run.count += count;
        }
        self.free.insert(run.first, run.count);
    }

    /// Unmapped just now, generations bumped: the runs wait for those who may have seen them mapped.
    pub(super) fn retire(&mut self, runs: Vec<Run>, reclaim: &Reclaim) {
        if runs.is_empty() {
            return;
        }
        let tag = reclaim.tag();
        for run in runs {
            self.mapped -= run.count;
            self.waiting.push_back((tag, run));
        }
    }

    /// Frees what nobody can see any more. Tags are in order: the first that has not passed ends it.
    fn sweep(&mut self, reclaim: &Reclaim) {
        while let Some((tag, run)) = self.waiting.front().copied() {
            if !reclaim.passed(tag) {
                break;
            }
            self.waiting.pop_front();
            self.give(run);
        }
    }

    /// Clusters that were taken from the file child and are not free.
    pub(super) fn taken(&self) -> u64 {
        self.fresh - self.free.values().sum::<u64>()
    }

    /// Clusters that wait for their readers.
    pub(super) fn waiting(&self) -> u64 {
        self.waiting.iter().map(|(_, run)| run.count).sum()
    }

    /// Clusters that are prepared.
    pub(super) fn prepared(&self) -> u64 {
        self.prepared_count
    }

    /// Whether `cluster` may be mapped: it was taken, and is neither free, prepared nor waiting.
    pub(super) fn may_be_mapped(&self, cluster: u64) -> bool {
        let in_map = |map: &BTreeMap<u64, u64>| {
            map.range(..=cluster).next_back().is_some_and(|(first, n)| cluster < first + n)
        };
        let in_run = |run: &Run| (run.first..run.first + run.count).contains(&cluster);
        cluster < self.fresh
            && !in_map(&self.free)
            && !in_map(&self.prepared)
            && !self.waiting.iter().any(|(_, run)| in_run(run))
    }
}

/// Clusters that are prepared. Dropped before they are mapped, they are free again.
pub(super) struct Room {
    pub(super) run: Run,
    clusters: Arc<Clusters>,
    mapped: AtomicBool,
}

impl Room {
    /// Notes that the entries point here now; `books` are those of the node.
    pub(super) fn map(&self, books: &mut Books) {
        books.leave_prepared(self.run);
        books.mapped += self.run.count;
        self.mapped.store(true, SeqCst);
    }
}

impl Books {
    fn leave_prepared(&mut self, run: Run) {
        self.prepared.remove(&run.first);
        self.prepared_count -= run.count;
    }
}

impl Drop for Room {
    fn drop(&mut self) {
        if !self.mapped.load(SeqCst) {
            let mut books = self.clusters.books();
            books.leave_prepared(self.run);
            books.give(self.run);
        }
    }
}

/// Appends `cluster` to `runs`, lengthening the last where it continues it.
pub(super) fn push_cluster(runs: &mut Vec<Run>, cluster: u64) {
    match runs.last_mut() {
        Some(last) if last.first + last.count == cluster => last.count += 1,
        _ => runs.push(Run { first: cluster, count: 1 }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn clusters(quota: Option<u64>) -> (Arc<Clusters>, Reclaim) {
        (Arc::new(Clusters::new(10, quota)), Reclaim::default())
    }

    #[test]
    fn dropped_room_is_free_again_and_merges() {
        let (clusters, reclaim) = clusters(None);
        let rooms: Vec<_> = (0..4).map(|_| clusters.take(2, 100, &reclaim).expect("room")).collect();
        assert_eq!(clusters.used(), 80);
        for at in [1, 3, 0, 2] {
            assert_eq!(rooms[at].run, Run { first: at as u64 * 2, count: 2 });
        }
        let mut rooms: Vec<_> = rooms.into_iter().map(Some).collect();
        for at in [1, 3, 0, 2] {
            rooms[at] = None;
        }
        assert_eq!(clusters.books().free, BTreeMap::from([(0, 8)]));
        assert_eq!((clusters.used(), clusters.books().taken()), (0, 0));
    }

    #[test]
    fn what_was_mapped_waits_for_its_readers() {
        let (clusters, reclaim) = clusters(None);
        let room = clusters.take(1, 1, &reclaim).expect("room");
        room.map(&mut clusters.books());
        drop(room);
        let reader = reclaim.waits().enter_owned();
        clusters.books().retire(vec![Run { first: 0, count: 1 }], &reclaim);
        assert_eq!(clusters.take(1, 1, &reclaim).err(), Some(Full::Waiting));
        drop(reader);
        assert_eq!(clusters.take(1, 1, &reclaim).expect("free").run.first, 0);
        assert_eq!(clusters.books().waiting(), 0);
    }

    #[test]
    fn runs_get_shorter_before_there_is_no_room() {
        let (clusters, reclaim) = clusters(None);
        let take = |n| clusters.take(n, 5, &reclaim);
        let first = take(3).expect("room");
        let second = take(3).expect("room");
        assert_eq!((first.run.count, second.run), (3, Run { first: 3, count: 2 }));
        assert_eq!(take(1).err(), Some(Full::File));
        drop(first);
        assert_eq!(take(5).expect("room").run, Run { first: 0, count: 3 });
    }

    #[test]
    fn the_quota_counts_what_is_prepared_and_mapped() {
        let (clusters, reclaim) = clusters(Some(39));
        let room = clusters.take(2, 100, &reclaim).expect("room");
        room.map(&mut clusters.books());
        let last = clusters.take(5, 100, &reclaim).expect("room");
        assert_eq!((last.run.count, clusters.used()), (1, 30));
        assert_eq!(clusters.take(1, 100, &reclaim).err(), Some(Full::Quota));
    }
}
