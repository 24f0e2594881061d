//! The pool: a few OS threads for system calls that wait and cannot go to the ring.
//!
//! Invariants: jobs start in the order they came; a job that was handed over runs to its end whether or not
//! anyone still waits for it, also when the pool is dropped; threads are started only when jobs wait; jobs of one
//! lane never run at the same time.

use std::collections::VecDeque;
use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{Builder, JoinHandle};

use tokio::sync::oneshot;

/// Threads at most. Enough to keep a disk's queue busy when there is no ring; few enough to be harmless.
const THREADS_MAX: usize = 16;
/// The jobs are system calls: they need little stack.
const STACK_BYTES: usize = 256 << 10;

type Job = Box<dyn FnOnce() + Send>;

pub(super) struct Pool {
    name: &'static str,
    inner: Arc<Inner>,
}

#[derive(Default)]
struct Inner {
    state: Mutex<State>,
    work: Condvar,
    /// A thread has nothing to do, and somebody waits for that.
    rest: Condvar,
}

#[derive(Default)]
struct State {
    queue: VecDeque<Job>,
    threads: Vec<JoinHandle<()>>,
    idle: usize,
    /// How many wait until all is done: telling them costs a system call, whether or not there is one.
    settling: usize,
    closing: bool,
}

impl Pool {
    /// A pool whose threads will bear `name`; none runs yet.
    pub(super) fn new(name: &'static str) -> Self {
        Self { name, inner: Arc::default() }
    }

    /// Hands `job` to a thread at once; the future answers what the job does. Dropping the future does not
    /// stop the job.
    pub(super) fn run<T, F>(&self, job: F) -> impl Future<Output = T> + use<T, F>
    where
        T: Send + 'static,
        F: FnOnce() -> T + Send + 'static,
    {
        let (job, answer) = answering(job);
        self.submit(job);
        answer
    }

    /// As [`Self::run`], after all jobs of the lane that came before.
    pub(super) fn run_in<T, F>(&self, lane: &Arc<Lane>, job: F) -> impl Future<Output = T> + use<T, F>
    where
        T: Send + 'static,
        F: FnOnce() -> T + Send + 'static,
    {
        let (job, answer) = answering(job);
        if lane.push(job) {
            let lane = lane.clone();
            self.submit(Box::new(move || lane.work()));
        }
        answer
    }

    /// Waits until all jobs that were handed over are done. Blocks.
    pub(super) fn settle(&self) {
        let mut state = self.inner.lock();
        state.settling += 1;
        while !state.queue.is_empty() || state.idle < state.threads.len() {
            state = self.inner.rest.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        state.settling -= 1;
    }

    fn submit(&self, job: Job) {
        let mut state = self.inner.lock();
        state.queue.push_back(job);
        if state.queue.len() <= state.idle {
            // It would wake up only to wait for us.
            drop(state);
            self.inner.work.notify_one();
        } else if state.threads.len() < THREADS_MAX {
            self.grow(state);
        }
    }

    fn grow(&self, mut state: MutexGuard<'_, State>) {
        let inner = self.inner.clone();
        let builder = Builder::new().name(self.name.to_owned()).stack_size(STACK_BYTES);
        match builder.spawn(move || inner.work()) {
            Ok(thread) => state.threads.push(thread),
            // Those that run will come to it. When there is none at all, waiting is better than never.
            Err(_) if state.threads.is_empty() => {
                let job = state.queue.pop_back();
                drop(state);
                job.into_iter().for_each(|job| job());
            }
            Err(_) => {}
        }
    }
}

/// A job that tells what it did, and the future that is told.
fn answering<T, F>(job: F) -> (Job, impl Future<Output = T> + use<T, F>)
where
    T: Send + 'static,
    F: FnOnce() -> T + Send + 'static,
{
    let (tell, told) = oneshot::channel();
    let job = move || {
        // Nobody waits any more: then the answer is dropped here, and the buffer in it.
        let _ = tell.send(job());
    };
    // Jobs are ours and do not panic; if one does, its waiter must not go on with half a result.
    (Box::new(job), async move { told.await.expect("a job of the pool panicked") })
}

/// Jobs that the kernel would do one after the other anyway (buffered writes to one file): one thread does them,
/// since several would only wait for each other, and busily.
#[derive(Default)]
pub(super) struct Lane(Mutex<LaneState>);

#[derive(Default)]
struct LaneState {
    queue: VecDeque<Job>,
    /// Whether a thread is on it, or will be.
    taken: bool,
}

impl Lane {
    fn lock(&self) -> MutexGuard<'_, LaneState> {
        // Jobs run outside the lock, so the state is whole whatever panicked.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Answers whether a thread is needed.
    fn push(&self, job: Job) -> bool {
        let mut state = self.lock();
        state.queue.push_back(job);
        !std::mem::replace(&mut state.taken, true)
    }

    /// Does all there is and all that comes meanwhile.
    fn work(&self) {
        let mut jobs = VecDeque::new();
        loop {
            {
                let mut state = self.lock();
                std::mem::swap(&mut state.queue, &mut jobs);
                state.taken = !jobs.is_empty();
            }
            if jobs.is_empty() {
                return;
            }
            for job in jobs.drain(..) {
                let _ = catch_unwind(AssertUnwindSafe(job));
            }
        }
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        let threads = {
            let mut state = self.inner.lock();
            state.closing = true;
            std::mem::take(&mut state.threads)
        };
        self.inner.work.notify_all();
        let here = std::thread::current().id();
        // What a finished job leaves behind may hold the last reference to us: then we are one of them.
        for thread in threads.into_iter().filter(|thread| thread.thread().id() != here) {
            let _ = thread.join();
        }
    }
}

impl Inner {
    fn lock(&self) -> MutexGuard<'_, State> {
        // Jobs run outside the lock, so the state is whole whatever panicked.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn work(&self) {
        let mut state = self.lock();
        loop {
            if let Some(job) = state.queue.pop_front() {
                drop(state);
                // Reported by the panic hook, and to the waiter by its answer that never comes.
                let _ = catch_unwind(AssertUnwindSafe(job));
                state = self.lock();
            } else if state.closing {
                return;
            } else {
                state.idle += 1;
                if state.settling > 0 {
                    self.rest.notify_all();
                }
                state = self.work.wait(state).unwrap_or_else(PoisonError::into_inner);
                state.idle -= 1;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::sync::mpsc;

    #[test]
    fn every_job_runs_though_its_future_and_the_pool_are_dropped() {
        let (pool, ran) = (Pool::new("test"), Arc::new(AtomicUsize::new(0)));
        for _ in 0..1000 {
            let ran = ran.clone();
            drop(pool.run(move || ran.fetch_add(1, Ordering::Relaxed)));
        }
        drop(pool);
        assert_eq!(ran.load(Ordering::Relaxed), 1000);
    }

    #[test]
    fn settled_is_when_all_jobs_are_done() {
        let (pool, ran) = (Pool::new("test"), Arc::new(AtomicUsize::new(0)));
        pool.settle();
        for round in 1..20 {
            for _ in 0..THREADS_MAX {
                let ran = ran.clone();
                drop(pool.run(move || {
                    std::thread::yield_now();
                    ran.fetch_add(1, Ordering::Relaxed);
                }));
            }
            pool.settle();
            assert_eq!(ran.load(Ordering::Relaxed), round * THREADS_MAX);
        }
    }

    #[test]
    fn a_job_that_waits_does_not_hold_up_another() {
        let pool = Pool::new("test");
        let (send, receive) = mpsc::channel::<()>();
        let first = pool.run(move || receive.recv().is_ok());
        let second = pool.run(move || send.send(()).is_ok());
        let both = async { (first.await, second.await) };
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        assert_eq!(runtime.block_on(both), (true, true));
    }

    #[test]
    fn jobs_of_a_lane_run_one_after_the_other_in_their_order() {
        let (pool, lane, ran) = (Pool::new("test"), Arc::<Lane>::default(), Arc::new(Mutex::new(Vec::new())));
        for number in 0..1000 {
            let ran = ran.clone();
            drop(pool.run_in(&lane, move || {
                // Anyone else in here would find it locked.
                ran.try_lock().unwrap().push(number);
                assert!(number % 7 != 0, "on purpose");
            }));
        }
        drop(pool);
        assert_eq!(*ran.lock().unwrap_or_else(PoisonError::into_inner), (0..1000).collect::<Vec<_>>());
    }

    #[test]
    fn a_panic_in_a_job_leaves_the_pool_working() {
        let pool = Pool::new("test");
        for _ in 0..THREADS_MAX + 1 {
            drop(pool.run(|| panic!("on purpose")));
        }
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        assert_eq!(runtime.block_on(pool.run(|| 7)), 7);
    }
}
