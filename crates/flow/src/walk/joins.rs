//! Neighbouring writers of one new cluster share it: copying around the new bytes is put off until those who
//! write at the same time have written, and then only what is left is copied.
//!
//! State of a join: open (writers may enter) -> sealed (the leader waits for the writers inside, copies the gaps)
//! -> committed or abandoned. Invariants: the room returns to the format only when the last buffer that was
//! written there is gone; a writer is answered only after the commit.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use block::{ByteRange, ChildIndex, RangeSet};
use io::sync::Notify;

use crate::contract::Prepared;

/// The open joins of a node.
#[derive(Default)]
pub(crate) struct Joins {
    open: Mutex<Vec<Arc<Join>>>,
}

/// How a join ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Outcome {
    Committed,
    /// The leader failed or was dropped: each writer starts again by itself.
    Abandoned,
}

/// One new run of clusters and those who write into it.
pub(super) struct Join {
    pub(super) guest: ByteRange,
    pub(super) child: ChildIndex,
    offset: u64,
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
    /// The open join that `at` lies in.
    pub(super) fn find(&self, at: u64) -> Option<Arc<Join>> {
        let byte = ByteRange::new(at, 1);
        self.open().iter().find(|join| join.guest.contains(byte)).cloned()
    }

    /// Opens a join for what the leader has prepared.
    pub(super) fn lead(&self, prepared: Prepared) -> Leader<'_> {
        let join = Arc::new(Join {
            guest: prepared.guest,
            child: prepared.child,
            offset: prepared.offset,
            state: Mutex::new(State {
                prepared: Some(prepared),
                covered: RangeSet::new(),
                writers: 0,
                sealed: false,
                outcome: None,
            }),
            changed: Notify::new(),
        });
        self.open().push(join.clone());
        Leader { joins: self, join }
    }

    fn open(&self) -> MutexGuard<'_, Vec<Arc<Join>>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Join {
    /// Where `guest` (inside the join) lies in the child.
    pub(super) fn place(&self, guest: ByteRange) -> ByteRange {
        guest.at(self.offset + (guest.start() - self.guest.start()))
    }

    /// Enters to write; `None` when the join is sealed.
    pub(super) fn enter(self: &Arc<Self>) -> Option<Writer> {
        let mut state = self.state();
        if state.sealed {
            return None;
        }
        state.writers += 1;
        Some(Writer { join: self.clone(), written: None })
    }

    /// Waits until the join has ended.
    pub(super) async fn ended(&self) -> Outcome {
        loop {
            let changed = self.changed.notified();
            if let Some(outcome) = self.state().outcome {
                return outcome;
            }
            changed.await;
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Somebody who writes into a join.
pub(super) struct Writer {
    join: Arc<Join>,
    written: Option<ByteRange>,
}

impl Writer {
    /// Notes that `range` has been written and leaves.
    pub(super) fn wrote(mut self, range: ByteRange) {
        self.written = Some(range);
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        let mut state = self.join.state();
        state.writers -= 1;
        if let Some(range) = self.written {
            state.covered.insert(range);
        }
        drop(state);
        self.join.changed.notify_waiters();
    }
}

/// The one who prepared it. Dropped before the commit, it abandons the join.
pub(super) struct Leader<'a> {
    joins: &'a Joins,
    pub(super) join: Arc<Join>,
}

impl Leader<'_> {
    /// Lets nobody in any more and waits for those inside; answers what nobody has written.
    pub(super) async fn seal(&self) -> Vec<ByteRange> {
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
    pub(super) fn take(&self) -> Option<Prepared> {
        self.join.state().prepared.take()
    }

    /// The commit has happened: lets the writers answer.
    pub(super) fn committed(self) {
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
