//! Range locks: requests that overlap are ordered where they must be (QEMU's tracked and serialising requests).
//!
//! First come, first served: an entry is granted when no earlier entry that overlaps it excludes it, so nobody
//! starves. A dropped guard or a dropped wait removes its entry.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use block::ByteRange;
use io::sync::Notify;

use crate::sabotage::{self, Rule};

/// The locks of one node.
#[derive(Default)]
pub struct RangeLocks(Arc<Shared>);

#[derive(Default)]
struct Shared {
    entries: Mutex<Entries>,
    released: Notify,
}

#[derive(Default)]
struct Entries {
    next: u64,
    list: Vec<Entry>,
}

#[derive(Clone, Copy)]
struct Entry {
    ticket: u64,
    range: ByteRange,
    exclusive: bool,
}

impl Entries {
    fn blocked(&self, ticket: u64) -> bool {
        let Some(at) = self.list.iter().position(|e| e.ticket == ticket) else { return false };
        let me = self.list[at];
        self.list[..at].iter().any(|e| (e.exclusive || me.exclusive) && e.range.overlaps(me.range))
    }
}

impl RangeLocks {
    /// Holds `range` against everybody; waits for those who came before.
    pub async fn exclusive(&self, range: ByteRange) -> RangeGuard {
        self.lock(range, true).await
    }

    /// Holds `range` against exclusive holders; waits for those who came before.
    pub async fn shared(&self, range: ByteRange) -> RangeGuard {
        self.lock(range, false).await
    }

    async fn lock(&self, range: ByteRange, exclusive: bool) -> RangeGuard {
        let ticket = {
            let mut entries = self.0.entries();
            let ticket = entries.next;
            entries.next += 1;
            entries.list.push(Entry { ticket, range, exclusive });
            ticket
        };
        let guard = RangeGuard { locks: self.0.clone(), ticket };
        loop {
            let released = self.0.released.notified();
            if sabotage::broken(Rule::RangeLocks) || !self.0.entries().blocked(ticket) {
                return guard;
            }
            released.await;
        }
    }
}

impl Shared {
    fn entries(&self) -> MutexGuard<'_, Entries> {
        // The list is consistent between any two statements that hold it.
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A held (or awaited) range; released when dropped. It can travel with a buffer.
#[must_use]
pub struct RangeGuard {
    locks: Arc<Shared>,
    ticket: u64,
}

impl Drop for RangeGuard {
    fn drop(&mut self) {
        let waiters = {
            let mut entries = self.locks.entries();
            entries.list.retain(|e| e.ticket != self.ticket);
            !entries.list.is_empty()
        };
        if waiters {
            self.locks.released.notify_waiters();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::FutureExt;

    fn r(start: u64, end: u64) -> ByteRange {
        ByteRange::between(start, end)
    }

    #[test]
    fn overlap_waits_and_neighbours_do_not() {
        let locks = RangeLocks::default();
        let first = locks.exclusive(r(0, 10)).now_or_never().expect("free");
        let mut second = Box::pin(locks.exclusive(r(5, 15)));
        assert!(second.as_mut().now_or_never().is_none());
        let third = locks.exclusive(r(15, 20)).now_or_never().expect("a neighbour does not wait");
        drop(first);
        assert!(second.now_or_never().is_some());
        drop(third);
    }

    #[test]
    fn readers_share_and_a_waiting_writer_is_not_overtaken() {
        let locks = RangeLocks::default();
        let a = locks.shared(r(0, 10)).now_or_never().expect("free");
        let b = locks.shared(r(0, 10)).now_or_never().expect("shared");
        let mut writer = Box::pin(locks.exclusive(r(0, 10)));
        assert!(writer.as_mut().now_or_never().is_none());
        let mut late = Box::pin(locks.shared(r(0, 10)));
        assert!(late.as_mut().now_or_never().is_none(), "late reader overtook the writer");
        drop((a, b));
        let held = writer.now_or_never().expect("first in line");
        assert!(late.as_mut().now_or_never().is_none());
        drop(held);
        assert!(late.now_or_never().is_some());
    }

    #[test]
    fn a_wait_that_is_given_up_blocks_nobody() {
        let locks = RangeLocks::default();
        let first = locks.exclusive(r(0, 10)).now_or_never().expect("free");
        let mut given_up = Box::pin(locks.exclusive(r(0, 20)));
        assert!(given_up.as_mut().now_or_never().is_none());
        drop(given_up);
        assert!(locks.exclusive(r(10, 20)).now_or_never().is_some());
        drop(first);
    }
}
