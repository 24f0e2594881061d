//! Neighbouring writers of one new cluster share it: copying around the new bytes is put off until those who
//! write at the same time have written, and then only what is left is copied.
//!
//! State of a join: open (writers may enter) -> sealed (the leader waits for the writers inside, copies the gaps)
//! -> committed or abandoned.
//!
//! Invariants: a writer is inside until the I/O of its buffer has ended, whatever becomes of its future, so nothing
//! lands in the room after the commit; an abandoned room returns to the format only then, too; a writer is answered
//! only after the commit; nobody writes at the same time what the leader stores on condition that it is unchanged.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use block::{ByteRange, ChildIndex, RangeSet};
use io::sync::Notify;

use crate::prepared::Prepared;

/// The open joins of a node.
#[derive(Default)]
pub(crate) struct Joins {
    open: Mutex<Vec<Arc<Join>>>,
    opened: Notify,
}

/// How a join ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Outcome {
    Committed,
    /// The leader failed or was dropped: each writer starts again by itself.
    Abandoned,
}

/// One new run of clusters and those who write into it.
pub(crate) struct Join {
    pub(crate) guest: ByteRange,
    pub(crate) child: ChildIndex,
    offset: u64,
    /// What the leader writes only because nobody else has: no writer of it may enter.
    unchanged: ByteRange,
    state: Mutex<State>,
    changed: Notify,
}

struct State {
    prepared: Option<Prepared>,
    covered: RangeSet,
    writers: usize,
    sealed: bool,
    outcome: Option<Outcome>,
}

impl Joins {
    /// Enters a join to write the first bytes of `range`, as soon as one is open that takes it.
    pub(crate) async fn enter(&self, range: ByteRange) -> Writer {
        loop {
            let opened = self.opened.notified();
            let entered = self.open().iter().find_map(|join| join.enter(range));
            if let Some(writer) = entered {
                return writer;
            }
            opened.await;
        }
    }

    /// Opens a join for what the leader has prepared; the leader is its first writer. `unchanged` is empty, or
    /// what the leader writes only because nobody else has.
    pub(crate) fn lead(&self, prepared: Prepared, unchanged: ByteRange) -> (Leader<'_>, Writer) {
        let join = Arc::new(Join {
            guest: prepared.guest,
            child: prepared.child,
            offset: prepared.offset,
            unchanged,
            state: Mutex::new(State {
                prepared: Some(prepared),
                covered: RangeSet::new(),
                writers: 1,
                sealed: false,
                outcome: None,
            }),
            changed: Notify::new(),
        });
        self.open().push(join.clone());
        self.opened.notify_waiters();
        (Leader { joins: self, join: join.clone() }, Writer { join })
    }

    fn open(&self) -> MutexGuard<'_, Vec<Arc<Join>>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Join {
    /// Where `guest` (inside the join) lies in the child.
    pub(crate) fn place(&self, guest: ByteRange) -> ByteRange {
        guest.at(self.offset + (guest.start() - self.guest.start()))
    }

    fn enter(self: &Arc<Self>, range: ByteRange) -> Option<Writer> {
        let takes = self.guest.contains(range.head(1)) && !self.unchanged.overlaps(range);
        let mut state = self.state();
        if !takes || state.sealed {
            return None;
        }
        state.writers += 1;
        Some(Writer { join: self.clone() })
    }

    /// Notes that `range` has been written.
    pub(crate) fn cover(&self, range: ByteRange) {
        self.state().covered.insert(range);
    }

    /// Waits until the join has ended.
    pub(crate) async fn ended(&self) -> Outcome {
        loop {
            let changed = self.changed.notified();
            let outcome = self.state().outcome;
            if let Some(outcome) = outcome {
                return outcome;
            }
            changed.await;
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Somebody who writes into a join; travels with the buffer, and leaves when it is dropped.
pub(crate) struct Writer {
    pub(crate) join: Arc<Join>,
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.join.state().writers -= 1;
        self.join.changed.notify_waiters();
    }
}

/// The one who prepared it. Dropped before the commit, it abandons the join.
pub(crate) struct Leader<'a> {
    joins: &'a Joins,
    pub(crate) join: Arc<Join>,
}

impl Leader<'_> {
    /// Lets nobody in any more and waits for those inside; answers what nobody has written.
    pub(crate) async fn seal(&self) -> Vec<ByteRange> {
        self.close();
        loop {
            let changed = self.join.changed.notified();
            {
                let mut state = self.join.state();
                state.sealed = true;
                if state.writers == 0 {
                    return state.covered.gaps(self.join.guest);
                }
            }
            changed.await;
        }
    }

    /// Takes the room out to commit it.
    pub(crate) fn take(&self) -> Option<Prepared> {
        self.join.state().prepared.take()
    }

    /// The commit has happened: lets the writers answer.
    pub(crate) fn committed(self) {
        self.end(Outcome::Committed);
    }

    fn close(&self) {
        self.joins.open().retain(|join| !Arc::ptr_eq(join, &self.join));
    }

    fn end(&self, outcome: Outcome) {
        self.close();
        let mut state = self.join.state();
        state.sealed = true;
        state.outcome.get_or_insert(outcome);
        drop(state);
        self.join.changed.notify_waiters();
    }
}

impl Drop for Leader<'_> {
    fn drop(&mut self) {
        self.end(Outcome::Abandoned);
    }
}
