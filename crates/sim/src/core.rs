//! What every part of a simulated world shares: the clock, what is ready, the dice, the trace, its threads.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use crate::clock::Clock;
use crate::locked;
use crate::ready::{Ready, TaskId, ThreadId};
use crate::rng::Rng;
use crate::trace::Trace;
use crate::world::{Options, Order};

/// The thread that runs the main future.
pub(crate) const MAIN_THREAD: ThreadId = 0;
/// The main future.
pub(crate) const MAIN_TASK: TaskId = 0;

pub(crate) struct Core {
    pub(crate) seed: u64,
    pub(crate) turn_cost: std::time::Duration,
    pub(crate) max_turns: u64,
    pub(crate) clock: Clock,
    pub(crate) ready: Arc<Ready>,
    pub(crate) trace: Trace,
    dice: Mutex<Rng>,
    tasks: AtomicU64,
    threads: Mutex<Threads>,
    cut: AtomicBool,
}

struct Threads {
    next: ThreadId,
    /// Index of each running thread.
    running: BTreeMap<ThreadId, usize>,
}

impl Core {
    pub(crate) fn new(seed: u64, options: &Options, rng: &mut Rng) -> Arc<Self> {
        let mut dice = || rng.fork();
        let random = matches!(options.order, Order::Random);
        Arc::new(Self {
            seed,
            turn_cost: options.turn_cost,
            max_turns: options.max_turns,
            clock: Clock::new(Some(dice()).filter(|_| random)),
            ready: Arc::new(Ready::new(Some(dice()).filter(|_| random))),
            trace: Trace::default(),
            dice: Mutex::new(dice()),
            tasks: AtomicU64::new(MAIN_TASK + 1),
            threads: Mutex::new(Threads {
                next: MAIN_THREAD + 1,
                running: BTreeMap::from([(MAIN_THREAD, 0)]),
            }),
            cut: AtomicBool::new(false),
        })
    }

    pub(crate) fn random(&self) -> u64 {
        locked(&self.dice).u64()
    }

    pub(crate) fn next_task(&self) -> TaskId {
        self.tasks.fetch_add(1, Ordering::Relaxed)
    }

    /// Adds a thread with the smallest index that is free.
    pub(crate) fn add_thread(&self) -> ThreadId {
        let mut threads = locked(&self.threads);
        let id = threads.next;
        threads.next += 1;
        let free = (0..).find(|index| !threads.running.values().any(|used| used == index));
        threads.running.insert(id, free.unwrap_or(usize::MAX));
        id
    }

    /// Index of a running thread.
    pub(crate) fn thread_index(&self, id: ThreadId) -> Option<usize> {
        locked(&self.threads).running.get(&id).copied()
    }

    /// False when it had ended before.
    pub(crate) fn remove_thread(&self, id: ThreadId) -> bool {
        locked(&self.threads).running.remove(&id).is_some()
    }

    /// Ends the run at once: the power is gone.
    pub(crate) fn cut(&self) {
        self.cut.store(true, Ordering::Relaxed);
    }

    pub(crate) fn is_cut(&self) -> bool {
        self.cut.load(Ordering::Relaxed)
    }

    pub(crate) fn note(&self, what: &'static str, a: u64, b: u64) {
        self.trace.note(self.clock.now(), what, a, b);
    }
}
