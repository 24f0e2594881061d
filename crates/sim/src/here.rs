//! A simulated I/O thread from the inside: its tasks and what `io::here` answers there.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Waker};

use io::{Here, LocalFut, Moment};

use crate::clock::{Event, EventKey};
use crate::core::Core;
use crate::ready::{TaskId, TaskWaker, ThreadId, Work};

/// A thread with its tasks. Tasks are dropped with the thread's services installed.
pub(crate) struct Local {
    core: Arc<Core>,
    id: ThreadId,
    index: usize,
    tasks: RefCell<BTreeMap<TaskId, Task>>,
    stopped: Cell<bool>,
}

struct Task {
    future: LocalFut<'static, ()>,
    waker: Arc<TaskWaker>,
}

impl Local {
    pub(crate) fn new(core: Arc<Core>, id: ThreadId, index: usize) -> Rc<Self> {
        Rc::new(Self { core, id, index, tasks: RefCell::default(), stopped: Cell::new(false) })
    }

    /// Polls one of its tasks, if that is still there.
    pub(crate) fn resume(self: &Rc<Self>, id: TaskId) {
        // Out of the map while it runs: it may spawn, or stop its own thread.
        // Installed first, so that a panic drops the task before the services go.
        let _installed = Installed::new(self.clone());
        let Some(mut task) = self.tasks.borrow_mut().remove(&id) else { return };
        task.waker.queued.store(false, Ordering::Release);
        let waker = Waker::from(task.waker.clone());
        let poll = task.future.as_mut().poll(&mut Context::from_waker(&waker));
        if poll.is_pending() && !self.stopped.get() {
            self.tasks.borrow_mut().insert(id, task);
        } else {
            drop(task);
        }
    }

    /// Drops all its tasks; what they spawn while they are dropped is dropped too.
    pub(crate) fn stop(self: &Rc<Self>) {
        self.stopped.set(true);
        let _installed = Installed::new(self.clone());
        let tasks = std::mem::take(&mut *self.tasks.borrow_mut());
        drop(tasks);
    }

    pub(crate) fn task_count(&self) -> usize {
        self.tasks.borrow().len()
    }
}

impl Here for Local {
    fn spawn(&self, future: LocalFut<'static, ()>) {
        if self.stopped.get() {
            return;
        }
        let (id, ready) = (self.core.next_task(), self.core.ready.clone());
        let waker = TaskWaker { ready, thread: self.id, task: id, queued: AtomicBool::new(true) };
        self.tasks.borrow_mut().insert(id, Task { future, waker: Arc::new(waker) });
        self.core.ready.push(self.id, Work::Resume(id));
    }

    fn now(&self) -> Moment {
        self.core.clock.now()
    }

    fn sleep_until(&self, when: Moment) -> LocalFut<'static, ()> {
        Box::pin(Sleep { core: self.core.clone(), when, key: None })
    }

    fn random(&self) -> u64 {
        self.core.random()
    }

    fn thread_index(&self) -> usize {
        self.index
    }
}

/// While it lives, `io::here` answers for a thread; afterwards for whoever it was before.
pub(crate) struct Installed(Option<Rc<dyn Here>>);

impl Installed {
    pub(crate) fn new(local: Rc<Local>) -> Self {
        Self(io::here::install(Some(local)))
    }
}

impl Drop for Installed {
    fn drop(&mut self) {
        io::here::install(self.0.take());
    }
}

struct Sleep {
    core: Arc<Core>,
    when: Moment,
    key: Option<EventKey>,
}

impl Future for Sleep {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        if self.core.clock.now() >= self.when {
            return Poll::Ready(());
        }
        // The end of time never comes: who sleeps until then alone is in a deadlock.
        if self.when < Moment(u64::MAX)
            && !self.key.is_some_and(|key| self.core.clock.rewake(key, cx.waker()))
        {
            self.key = Some(self.core.clock.at(self.when, Event::Wake(cx.waker().clone())));
        }
        Poll::Pending
    }
}

impl Drop for Sleep {
    fn drop(&mut self) {
        if let Some(key) = self.key {
            drop(self.core.clock.cancel(key));
        }
    }
}
