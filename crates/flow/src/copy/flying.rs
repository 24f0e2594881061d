//! Requests that are under way side by side.
//!
//! Invariant: whoever waits for something else while they fly has them go on: one of them may hold what he waits for,
//! such as a table that it is about to load for all.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::pin::pin;
use std::task::Poll;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;

/// Futures under way, and what came of those that have landed.
pub(super) struct Flying<F: Future> {
    under_way: FuturesUnordered<F>,
    landed: VecDeque<F::Output>,
}

impl<F: Future> Flying<F> {
    /// None.
    pub(super) fn new() -> Self {
        Self { under_way: FuturesUnordered::new(), landed: VecDeque::new() }
    }

    /// One more.
    pub(super) fn push(&mut self, future: F) {
        self.under_way.push(future);
    }

    /// How many are under way.
    pub(super) fn len(&self) -> usize {
        self.under_way.len()
    }

    /// Whether nothing is under way, and nothing has landed that was not asked for.
    pub(super) fn is_empty(&self) -> bool {
        self.under_way.is_empty() && self.landed.is_empty()
    }

    /// Does `work` while they go on.
    pub(super) async fn beside<T>(&mut self, work: impl Future<Output = T>) -> T {
        let mut work = pin!(work);
        poll_fn(|cx| {
            while let Poll::Ready(Some(landed)) = self.under_way.poll_next_unpin(cx) {
                self.landed.push_back(landed);
            }
            work.as_mut().poll(cx)
        })
        .await
    }

    /// What has landed already.
    pub(super) fn landed(&mut self) -> Option<F::Output> {
        self.landed.pop_front()
    }

    /// The next one that lands; `None` when nothing flies. Dropped, it takes nothing.
    pub(super) async fn next(&mut self) -> Option<F::Output> {
        match self.landed.pop_front() {
            Some(landed) => Some(landed),
            None => self.under_way.next().await,
        }
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;
    use futures_util::future::LocalBoxFuture;
    use io::sync::Notify;

    use super::*;

    #[test]
    fn they_go_on_while_something_else_is_waited_for() {
        let loaded = Notify::new();
        let mut flying: Flying<LocalBoxFuture<'_, u8>> = Flying::new();
        flying.push(Box::pin(async {
            loaded.notify_waiters();
            7
        }));
        let waits = loaded.notified();
        assert_eq!(flying.beside(waits).now_or_never(), Some(()), "it is what the other one brings");
        assert_eq!((flying.len(), flying.is_empty()), (0, false));
        assert_eq!(flying.next().now_or_never(), Some(Some(7)));
        assert_eq!(flying.next().now_or_never(), Some(None));
    }
}
