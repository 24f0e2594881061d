//! What is ready to run, and which of it the seed picks.

use std::collections::{BTreeMap, VecDeque};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::task::Wake;

use io::thread::Start;

use crate::locked;
use crate::rng::Rng;

/// One in so many turns begins a run of turns on one thread while the others stand still.
const BURST_CHANCE: f64 = 1.0 / 16.0;
/// Turns in such a run, at most.
const BURST_TURNS: u64 = 64;

/// Names a simulated thread for good, unlike its index.
pub(crate) type ThreadId = u64;
/// Names a task of a thread.
pub(crate) type TaskId = u64;

/// Something that a thread can do.
pub(crate) enum Work {
    /// Make the first future of a task and run it.
    Start(Start),
    /// Go on with a task.
    Resume(TaskId),
}

pub(crate) struct Ready(Mutex<State>);

struct State {
    /// `None` keeps the order in which things became ready.
    rng: Option<Rng>,
    serial: u64,
    threads: BTreeMap<ThreadId, VecDeque<(u64, Work)>>,
    /// The thread that runs alone for now, and for how many turns.
    burst: (ThreadId, u64),
}

impl Ready {
    pub(crate) fn new(rng: Option<Rng>) -> Self {
        Self(Mutex::new(State { rng, serial: 0, threads: BTreeMap::new(), burst: (0, 0) }))
    }

    pub(crate) fn push(&self, thread: ThreadId, work: Work) {
        let mut state = locked(&self.0);
        state.serial += 1;
        let item = (state.serial, work);
        state.threads.entry(thread).or_default().push_back(item);
    }

    /// Takes the work that comes next.
    pub(crate) fn pick(&self) -> Option<(ThreadId, Work)> {
        let mut state = locked(&self.0);
        let State { rng, threads, burst, .. } = &mut *state;
        let thread = pick_thread(threads, rng.as_mut(), burst)?;
        let queue = threads.get_mut(&thread)?;
        let at = rng.as_mut().map_or(0, |rng| rng.index(queue.len()));
        let (_, work) = queue.remove(at)?;
        if queue.is_empty() {
            threads.remove(&thread);
        }
        Some((thread, work))
    }

    /// Takes everything that `thread` could do, to be dropped by the caller.
    pub(crate) fn forget(&self, thread: ThreadId) -> VecDeque<(u64, Work)> {
        locked(&self.0).threads.remove(&thread).unwrap_or_default()
    }
}

fn pick_thread(
    threads: &BTreeMap<ThreadId, VecDeque<(u64, Work)>>,
    rng: Option<&mut Rng>,
    burst: &mut (ThreadId, u64),
) -> Option<ThreadId> {
    let Some(rng) = rng else {
        let oldest = threads.iter().min_by_key(|(_, queue)| queue.front().map(|(serial, _)| *serial));
        return oldest.map(|(thread, _)| *thread);
    };
    if burst.1 > 0 && threads.contains_key(&burst.0) {
        burst.1 -= 1;
        return Some(burst.0);
    }
    let thread = *threads.keys().nth(rng.index(threads.len()))?;
    *burst = (thread, if rng.chance(BURST_CHANCE) { rng.below(BURST_TURNS) } else { 0 });
    Some(thread)
}

/// Wakes one task of one thread. May be called from anywhere; a task is queued once however often it is woken.
pub(crate) struct TaskWaker {
    pub(crate) ready: Arc<Ready>,
    pub(crate) thread: ThreadId,
    pub(crate) task: TaskId,
    pub(crate) queued: AtomicBool,
}

impl Wake for TaskWaker {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        if !self.queued.swap(true, Ordering::AcqRel) {
            self.ready.push(self.thread, Work::Resume(self.task));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn order(rng: Option<Rng>) -> Vec<(ThreadId, TaskId)> {
        let ready = Ready::new(rng);
        for (thread, task) in [(1, 10), (2, 20), (1, 11), (2, 21)] {
            ready.push(thread, Work::Resume(task));
        }
        let next = || match ready.pick() {
            Some((thread, Work::Resume(task))) => Some((thread, task)),
            _ => None,
        };
        std::iter::from_fn(next).collect()
    }

    #[test]
    fn the_seed_orders_threads_and_their_tasks() {
        assert_eq!(order(None), [(1, 10), (2, 20), (1, 11), (2, 21)]);
        let orders: std::collections::BTreeSet<_> =
            (0..999).map(|seed| order(Some(Rng::new(seed)))).collect();
        assert_eq!(orders.len(), 24);
    }
}
