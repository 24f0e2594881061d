//! Waiting for the requests that an edit found in flight.

use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use flow::Retiring;

use crate::permits::Hold;

type Gone = Pin<Box<dyn Future<Output = ()> + Send>>;

/// Ready when nobody uses the views that an edit replaced: when all requests that began before it, at the roots
/// that it concerned, have ended. Locks that only these needed are given up then. Nobody has to wait for it: dropped,
/// it is looked after at the next edit, or by [`crate::Graph::settle`].
#[must_use = "the edit is made; drop this if nobody needs to wait for the requests before it"]
pub struct Drained {
    draining: Option<Draining>,
    unwatched: Unwatched,
}

struct Draining {
    waiting: Vec<Gone>,
    /// Locks that older views may still need.
    _hold: Option<Hold>,
}

impl Draining {
    fn is_done(&mut self, cx: &mut Context<'_>) -> bool {
        self.waiting.retain_mut(|gone| gone.as_mut().poll(cx).is_pending());
        self.waiting.is_empty()
    }
}

impl Drained {
    pub(crate) fn new(retiring: Vec<Retiring>, hold: Option<Hold>, unwatched: &Unwatched) -> Self {
        let waiting = retiring.into_iter().map(|r| Box::pin(r.gone()) as Gone).collect();
        let mut draining = Draining { waiting, _hold: hold };
        let done = draining.is_done(&mut Context::from_waker(Waker::noop()));
        Self { draining: (!done).then_some(draining), unwatched: unwatched.clone() }
    }

    /// Whether it was ready when it was last looked at.
    pub fn is_ready(&self) -> bool {
        self.draining.is_none()
    }
}

impl Future for Drained {
    type Output = ();
    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        if self.draining.as_mut().is_none_or(|draining| draining.is_done(cx)) {
            self.draining = None;
            return Poll::Ready(());
        }
        Poll::Pending
    }
}

impl Drop for Drained {
    fn drop(&mut self) {
        if let Some(draining) = self.draining.take() {
            self.unwatched.list().push(draining);
        }
    }
}

/// Drains that nobody waits for; looked after at the next edit.
#[derive(Clone, Default)]
pub(crate) struct Unwatched(Arc<Mutex<Vec<Draining>>>);

impl Unwatched {
    /// Lets go of those that are done.
    pub(crate) fn settle(&self) {
        let mut cx = Context::from_waker(Waker::noop());
        self.list().retain_mut(|draining| !draining.is_done(&mut cx));
    }

    fn list(&self) -> MutexGuard<'_, Vec<Draining>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
