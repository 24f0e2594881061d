//! How a filter holds requests back: no longer than they make sense, and not once it was taken out of every path.
//!
//! A filter that was taken out may come back, in newer views: only requests of views from before its removal go on.

use std::future::Future;
use std::pin::pin;
use std::sync::atomic::{AtomicU64, Ordering};

use block::{BlockError, ErrorKind, Result};
use flow::{Next, Request, View};
use io::select::{Either, race};
use io::sync::Notify;

/// Who may go on without waiting.
#[derive(Default)]
pub(crate) struct Release {
    /// Requests of views up to this version.
    version: AtomicU64,
    released: Notify,
}

impl Release {
    /// Lets all go who wait now or come yet in views of today.
    pub(crate) fn release(&self) {
        self.version.fetch_max(View::newest_version(), Ordering::AcqRel);
        self.released.notify_waiters();
    }

    /// Lets all go, now and for ever.
    pub(crate) fn release_for_good(&self) {
        self.version.store(u64::MAX, Ordering::Release);
        self.released.notify_waiters();
    }

    /// Whether the requests of this view go on without waiting.
    pub(crate) fn frees(&self, next: Next<'_>) -> bool {
        next.version() <= self.version.load(Ordering::Acquire)
    }

    /// Waits for `what`, until the filter is taken out, or until the deadline of `rq`, which is an error.
    pub(crate) async fn wait(
        &self,
        rq: &Request,
        next: Next<'_>,
        what: impl Future<Output = ()>,
    ) -> Result<()> {
        let what = self.or_released(next, what);
        let Some(deadline) = rq.deadline else {
            what.await;
            return Ok(());
        };
        io::timeout_at(deadline, what).await.ok_or_else(|| late(rq, next))
    }

    async fn or_released(&self, next: Next<'_>, what: impl Future<Output = ()>) {
        let mut what = pin!(what);
        loop {
            // Taken before looking: a release in between wakes it.
            let released = self.released.notified();
            if self.frees(next) {
                return;
            }
            if let Either::First(()) = race(what.as_mut(), released).await {
                return;
            }
        }
    }
}

#[cold]
fn late(rq: &Request, next: Next<'_>) -> BlockError {
    let node = next.node();
    let context =
        format!("node '{}': {} held {:?} back past its deadline", node.name(), node.driver(), rq.op);
    BlockError::new(ErrorKind::TimedOut, context)
}
