//! What belongs to the I/O thread that one runs on: its tasks, its clock, its dice.

use std::cell::{Cell, RefCell};
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;

use crate::LocalFut;
use crate::select::{Either, race};

/// A point in time: nanoseconds since the world began. Never goes back.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default, Hash)]
pub struct Moment(pub u64);

impl Moment {
    /// `span` later, saturating.
    #[must_use]
    pub fn after(self, span: Duration) -> Self {
        Self(self.0.saturating_add(u64::try_from(span.as_nanos()).unwrap_or(u64::MAX)))
    }

    /// Time since `earlier`; zero when that is later.
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }
}

/// The services of the I/O thread that polls us.
pub trait Here {
    /// Runs `task` on this thread, after the one that is running.
    fn spawn(&self, task: LocalFut<'static, ()>);
    /// The time.
    fn now(&self) -> Moment;
    /// Ready at `when` or soon after.
    fn sleep_until(&self, when: Moment) -> LocalFut<'static, ()>;
    /// 64 random bits; unpredictable in the real world, from the seed in the simulated one.
    fn random(&self) -> u64;
    /// A small number that no other running I/O thread of this world has.
    fn thread_index(&self) -> usize;
    /// Wakes the task of `cx` when everything else that is ready by then has had its turn, sockets included.
    fn defer(&self, cx: &mut Context<'_>) {
        cx.waker().wake_by_ref();
    }
}

thread_local! {
    static HERE: RefCell<Option<Rc<dyn Here>>> = const { RefCell::new(None) };
    static INDEX: Cell<usize> = const { Cell::new(0) };
}

/// Makes `here` the services of this OS thread and answers what was there before. Called by worlds only.
pub fn install(here: Option<Rc<dyn Here>>) -> Option<Rc<dyn Here>> {
    INDEX.set(here.as_ref().map_or(0, |h| h.thread_index()));
    HERE.replace(here)
}

fn here() -> Rc<dyn Here> {
    // A bug of ours, never reachable from input: somebody polled a task outside any I/O thread.
    HERE.with_borrow(|h| h.clone()).expect("not on an I/O thread")
}

/// Runs `task` on this thread.
pub fn spawn(task: impl Future<Output = ()> + 'static) {
    here().spawn(Box::pin(task));
}

/// The time.
pub fn now() -> Moment {
    HERE.with_borrow(|h| h.as_ref().map(|h| h.now())).expect("not on an I/O thread")
}

/// Ready at `when` or soon after.
pub fn sleep_until(when: Moment) -> LocalFut<'static, ()> {
    here().sleep_until(when)
}

/// Ready after `span` or soon after.
pub fn sleep(span: Duration) -> LocalFut<'static, ()> {
    sleep_until(now().after(span))
}

/// 64 random bits.
pub fn random() -> u64 {
    here().random()
}

/// The small number of the running I/O thread; 0 outside any.
pub fn thread_index() -> usize {
    INDEX.get()
}

/// What `future` answers, or `None` when `when` comes first. The future is dropped then.
pub async fn timeout_at<T>(when: Moment, future: impl Future<Output = T>) -> Option<T> {
    match race(future, sleep_until(when)).await {
        Either::First(value) => Some(value),
        Either::Second(()) => None,
    }
}

/// Wakes the task of `cx` when everything else that is ready by then has had its turn: for futures that are
/// polled by hand. See [`yield_now`].
pub fn defer(cx: &mut Context<'_>) {
    here().defer(cx);
}

/// Lets every other ready task of this thread run once, those whose socket has become ready included.
pub fn yield_now() -> impl Future<Output = ()> {
    struct Yield(bool);
    impl Future for Yield {
        type Output = ();
        fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
            if std::mem::replace(&mut self.0, true) {
                return Poll::Ready(());
            }
            defer(cx);
            Poll::Pending
        }
    }
    Yield(false)
}
