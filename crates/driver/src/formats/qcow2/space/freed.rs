//! Clusters that were dropped from the tables and are not free yet.
//!
//! Invariant: a dropped cluster loses its reference only when nobody can see it mapped any more, here (guards: turns,
//! waiting requests, abandoned I/O) or on disk (the table that dropped it is durable). One that was prepared and never
//! mapped has only its own I/O to wait for, which is over when it comes here. Its bytes in the file go after that, and
//! it is handed out only when they have gone.

use std::collections::VecDeque;

use flow::sabotage::{self, Rule};
use flow::{Reclaim, Tag};
use qcow2::Entry;

use super::Run;

/// Why a cluster was dropped.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Why {
    /// A client has discarded it, or zeroed it and let its storage go.
    Request,
    /// Something else has taken its place.
    Other,
    /// The disk ends before it now: what is gone shall not take space.
    Cut,
}

/// Whose clusters are given back to the file (`pass-discard-*`).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Passes {
    pub(crate) request: bool,
    pub(crate) other: bool,
    /// What a change of snapshots leaves: see `snapshots/give_back.rs`.
    pub(crate) snapshot: bool,
}

impl Passes {
    fn passes(self, why: Why) -> bool {
        match why {
            Why::Request => self.request,
            Why::Other => self.other,
            Why::Cut => true,
        }
    }
}

/// What waits to be free.
pub(crate) struct Freed {
    passes: Passes,
    dropped: VecDeque<Dropped>,
    abandoned: Vec<Run>,
    /// Number of the flush that began last, and of the last one that ended well.
    begun: u64,
    durable: u64,
}

struct Dropped {
    tag: Tag,
    /// The flush that makes it durable that this was dropped.
    flush: u64,
    run: Run,
    /// Its bytes in the file go, too.
    pass: bool,
}

impl Freed {
    pub(crate) fn new(passes: Passes) -> Self {
        Self { passes, dropped: VecDeque::new(), abandoned: Vec::new(), begun: 0, durable: 0 }
    }

    /// Dropped just now; generations are bumped. Runs lie in one refcount block each.
    pub(crate) fn retire(&mut self, runs: impl Iterator<Item = Run>, why: Why, reclaim: &Reclaim) {
        let mut runs = runs.peekable();
        if runs.peek().is_none() {
            return;
        }
        let (tag, flush) = (reclaim.tag(), self.begun + 1);
        let pass = self.passes.passes(why);
        self.dropped.extend(runs.map(|run| Dropped { tag, flush, run, pass }));
    }

    /// Never mapped, or not by anything that counts any more.
    pub(crate) fn abandon(&mut self, runs: impl Iterator<Item = Run>) {
        self.abandoned.extend(runs);
    }

    /// The next run that may be free, and whether its bytes in the file go; `seen` says whether others than those of
    /// `reclaim` may see what was dropped.
    pub(crate) fn next(&self, reclaim: &Reclaim, seen: bool) -> Option<(Run, bool)> {
        if let Some(run) = self.abandoned.last() {
            return Some((*run, self.passes.other));
        }
        let first = self.dropped.front()?;
        let durable = first.flush <= self.durable || sabotage::broken(Rule::DurableDrop);
        (!seen && durable && reclaim.passed(first.tag)).then_some((first.run, first.pass))
    }

    /// That run is dealt with.
    pub(crate) fn done(&mut self) {
        if self.abandoned.pop().is_none() {
            self.dropped.pop_front();
        }
    }

    /// How many runs wait for a flush or for readers.
    pub(crate) fn waiting(&self) -> usize {
        self.dropped.len()
    }

    /// A flush begins that covers all that was dropped so far; answers its number.
    pub(crate) fn begin_flush(&mut self) -> u64 {
        self.begun += 1;
        self.begun
    }

    /// That flush has ended well.
    pub(crate) fn end_flush(&mut self, number: u64) {
        self.durable = number;
    }
}

/// Appends the clusters that an entry refers to.
pub(crate) fn push_hosts(runs: &mut Vec<Run>, entry: &Entry) {
    let hosts = match entry {
        Entry::Plain { host: Some(host), .. } => *host..host + 1,
        Entry::Compressed { hosts } => hosts.clone(),
        Entry::Plain { host: None, .. } => return,
    };
    match runs.last_mut() {
        Some(last) if last.first + last.count == hosts.start => last.count += hosts.end - hosts.start,
        _ => runs.push(Run { first: hosts.start, count: hosts.end - hosts.start }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use qcow2::Parts;

    fn freed() -> Freed {
        Freed::new(Passes { request: true, other: false, snapshot: false })
    }

    fn run(first: u64) -> Run {
        Run { first, count: 1 }
    }

    #[test]
    fn what_was_dropped_waits_for_a_flush_that_began_later_and_for_readers() {
        let (mut freed, reclaim) = (freed(), Reclaim::default());
        let under_way = freed.begin_flush();
        freed.retire([run(5)].into_iter(), Why::Request, &reclaim);
        freed.end_flush(under_way);
        assert_eq!(freed.next(&reclaim, false), None, "the flush had begun before");
        let later = freed.begin_flush();
        freed.end_flush(later);
        assert_eq!(freed.next(&reclaim, true), None, "somebody else may look");
        assert_eq!(freed.next(&reclaim, false), Some((run(5), true)));
        freed.done();
        let reader = reclaim.waits().enter_owned();
        freed.retire([run(6)].into_iter(), Why::Other, &reclaim);
        let later = freed.begin_flush();
        freed.end_flush(later);
        assert_eq!(freed.next(&reclaim, false), None, "the reader was there before");
        drop(reader);
        assert_eq!(freed.next(&reclaim, false), Some((run(6), false)));
    }

    #[test]
    fn what_was_never_mapped_is_free_at_once() {
        let (mut freed, reclaim) = (freed(), Reclaim::default());
        freed.abandon([run(1), run(2)].into_iter());
        assert_eq!(freed.next(&reclaim, true), Some((run(2), false)));
        freed.done();
        assert_eq!(freed.next(&reclaim, true), Some((run(1), false)));
        freed.done();
        assert_eq!(freed.next(&reclaim, false), None);
    }

    #[test]
    fn neighbours_are_one_run_and_shared_compressed_clusters_are_not() {
        let mut runs = Vec::new();
        let plain = |host, parts| Entry::Plain { host, exclusive: true, parts };
        let (data, zero) = (Parts { allocated: 1, zero: 0 }, Parts { allocated: 0, zero: 1 });
        push_hosts(&mut runs, &plain(Some(4), data));
        push_hosts(&mut runs, &plain(Some(5), zero));
        push_hosts(&mut runs, &plain(None, zero));
        push_hosts(&mut runs, &Entry::Compressed { hosts: 5..7 });
        push_hosts(&mut runs, &Entry::Compressed { hosts: 6..7 });
        let found: Vec<_> = runs.iter().map(|run| (run.first, run.count)).collect();
        assert_eq!(found, [(4, 2), (5, 2), (6, 1)]);
    }
}
