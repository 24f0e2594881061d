//! The one loop that runs a world: a turn of a ready task, else the next event of the virtual clock.
//!
//! Invariants: one task runs at a time, on the OS thread that called [`run`]; time moves only between turns;
//! the seed decides every choice; when a run ends, however it ends, all tasks of all threads are dropped.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Waker};

use io::Here;

use crate::clock::Event;
use crate::core::{Core, MAIN_TASK, MAIN_THREAD};
use crate::here::{Installed, Local};
use crate::ready::{TaskWaker, ThreadId, Work};

thread_local! {
    /// The run of this OS thread, for whoever stops a simulated thread from inside another one.
    static EXECUTOR: RefCell<Option<Rc<Executor>>> = const { RefCell::new(None) };
}

/// Runs `main` on thread 0 until it is done, or `None` when the power went first. `describe` says in a
/// failure report what else is known.
///
/// Panics with the seed on a deadlock and when the turns are used up.
pub(crate) fn run<T>(
    core: &Arc<Core>,
    describe: &dyn Fn() -> String,
    main: impl Future<Output = T>,
) -> Option<T> {
    let mut run = Run::begin(core, main);
    for _ in 0..core.max_turns {
        if core.is_cut() {
            return None;
        }
        if core.clock.is_due() {
            happen(core);
        } else if let Some((thread, work)) = core.ready.pick() {
            if let Poll::Ready(value) = run.turn(thread, work) {
                return Some(value);
            }
            core.clock.pass(core.turn_cost);
        } else if !happen(core) {
            run.fail("deadlock: nothing is ready and nothing will happen any more", describe);
        }
    }
    run.fail("too many turns (a live-lock, unless max_turns is too small)", describe)
}

/// Lets the next event happen; false when there is none.
fn happen(core: &Core) -> bool {
    match core.clock.next_event() {
        Some(Event::Wake(waker)) => waker.wake(),
        Some(Event::Run(action)) => action(),
        None => return false,
    }
    true
}

/// Drops the tasks of a thread that ends, wherever the caller runs.
pub(crate) fn drop_tasks_of(core: &Arc<Core>, thread: ThreadId) {
    drop(core.ready.forget(thread));
    let running = EXECUTOR.with_borrow(|executor| executor.clone());
    let Some(executor) = running.filter(|executor| Arc::ptr_eq(&executor.core, core)) else { return };
    let local = executor.locals.borrow_mut().remove(&thread);
    if let Some(local) = local {
        local.stop();
    }
}

struct Executor {
    core: Arc<Core>,
    locals: RefCell<BTreeMap<ThreadId, Rc<Local>>>,
}

impl Executor {
    /// The inside of a thread; `None` when it has ended.
    fn local(&self, thread: ThreadId) -> Option<Rc<Local>> {
        let index = self.core.thread_index(thread)?;
        let mut locals = self.locals.borrow_mut();
        Some(locals.entry(thread).or_insert_with(|| Local::new(self.core.clone(), thread, index)).clone())
    }
}

struct Run<F: Future> {
    executor: Rc<Executor>,
    thread: Rc<Local>,
    main: Option<Pin<Box<F>>>,
    waker: Arc<TaskWaker>,
}

impl<F: Future> Run<F> {
    fn begin(core: &Arc<Core>, main: F) -> Self {
        let executor = Rc::new(Executor { core: core.clone(), locals: RefCell::default() });
        let busy = EXECUTOR.with_borrow(Option::is_some);
        assert!(!busy, "a world is running on this OS thread already");
        EXECUTOR.set(Some(executor.clone()));
        let thread = executor.local(MAIN_THREAD).expect("thread 0 never ends");
        let waker = TaskWaker {
            ready: core.ready.clone(),
            thread: MAIN_THREAD,
            task: MAIN_TASK,
            queued: AtomicBool::new(true),
        };
        core.ready.push(MAIN_THREAD, Work::Resume(MAIN_TASK));
        Self { executor, thread, main: Some(Box::pin(main)), waker: Arc::new(waker) }
    }

    /// One turn; ready when the main future is.
    fn turn(&mut self, thread: ThreadId, work: Work) -> Poll<F::Output> {
        let Some(local) = self.executor.local(thread) else { return Poll::Pending };
        match work {
            Work::Resume(MAIN_TASK) => return self.resume_main(),
            Work::Resume(task) => {
                self.executor.core.note("turn", thread, task);
                local.resume(task);
            }
            Work::Start(start) => {
                self.executor.core.note("start", thread, 0);
                let _installed = Installed::new(local.clone());
                local.spawn(start());
            }
        }
        Poll::Pending
    }

    fn resume_main(&mut self) -> Poll<F::Output> {
        self.executor.core.note("turn", MAIN_THREAD, MAIN_TASK);
        let _installed = Installed::new(self.thread.clone());
        self.waker.queued.store(false, Ordering::Release);
        let waker = Waker::from(self.waker.clone());
        match &mut self.main {
            Some(main) => main.as_mut().poll(&mut Context::from_waker(&waker)),
            None => Poll::Pending,
        }
    }

    fn fail(&self, what: &str, describe: &dyn Fn() -> String) -> ! {
        let core = &self.executor.core;
        let mut waiting = Vec::new();
        for (thread, local) in self.executor.locals.borrow().iter() {
            waiting.push(format!("thread {thread}: {} tasks", local.task_count()));
        }
        let (seed, now) = (core.seed, core.clock.now().0);
        panic!("seed {seed}: {what}, at {now} ns ({}; {})", waiting.join(", "), describe());
    }

    fn drop_everything(&mut self) {
        let core = self.executor.core.clone();
        {
            let _installed = Installed::new(self.thread.clone());
            self.main = None;
        }
        loop {
            let first = self.executor.locals.borrow_mut().pop_first();
            let Some((thread, local)) = first else { break };
            local.stop();
            drop(core.ready.forget(thread));
        }
    }
}

impl<F: Future> Drop for Run<F> {
    fn drop(&mut self) {
        let core = self.executor.core.clone();
        if std::thread::panicking() {
            let (seed, now) = (core.seed, core.clock.now().0);
            eprintln!("sim: failed with seed {seed} at {now} ns, after\n{}", core.trace.last_events());
        }
        self.drop_everything();
        EXECUTOR.set(None);
    }
}
