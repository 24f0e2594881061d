//! The services of a real I/O thread: its runtime's tasks and timers, the monotonic clock, the system's dice.

use std::cell::Cell;
use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::task::Context;
use std::time::{Duration, Instant};

use rustix::rand::{GetRandomFlags, getrandom};

use super::world::{Index, Shared};
use crate::LocalFut;
use crate::here::{Here, Moment};

/// Longer than any sleep that a process can see the end of; keeps the arithmetic of the clock in range.
const SLEEP_MAX: Duration = Duration::from_hours(24 * 365 * 30);
/// Numbers taken from the system at once.
const RANDOM_BATCH: usize = 32;

/// What a real I/O thread installs as its [`Here`].
pub(super) struct RealHere {
    shared: Arc<Shared>,
    index: Index,
    dice: Cell<Dice>,
}

/// Random numbers that were fetched but not handed out yet.
#[derive(Clone, Copy, Default)]
struct Dice {
    numbers: [u64; RANDOM_BATCH],
    left: usize,
}

impl RealHere {
    pub(super) fn new(shared: &Arc<Shared>) -> Self {
        Self { shared: shared.clone(), index: Index::take(shared), dice: Cell::default() }
    }
}

impl Here for RealHere {
    fn spawn(&self, task: LocalFut<'static, ()>) {
        tokio::task::spawn_local(task);
    }

    fn now(&self) -> Moment {
        Moment::default().after(self.shared.began.elapsed())
    }

    fn sleep_until(&self, when: Moment) -> LocalFut<'static, ()> {
        let span = when.since(Moment::default()).min(self.shared.began.elapsed() + SLEEP_MAX);
        let deadline: Instant = self.shared.began + span;
        Box::pin(tokio::time::sleep_until(deadline.into()))
    }

    fn random(&self) -> u64 {
        let mut dice = self.dice.get();
        if dice.left == 0 {
            dice = Dice::fetch();
        }
        dice.left -= 1;
        let number = dice.numbers[dice.left];
        self.dice.set(dice);
        number
    }

    fn thread_index(&self) -> usize {
        self.index.number
    }

    fn defer(&self, cx: &mut Context<'_>) {
        // Waking at once would run the task again before the runtime asks the sockets. Its own yield hands the
        // waker over when it is polled first, and waits for nothing else.
        let yielded = pin!(tokio::task::yield_now());
        let _ = yielded.poll(cx);
    }
}

impl Dice {
    fn fetch() -> Self {
        let mut bytes = [0; RANDOM_BATCH * 8];
        let mut done = 0;
        while done < bytes.len() {
            match getrandom(&mut bytes[done..], GetRandomFlags::empty()) {
                Ok(n) => done += n,
                Err(rustix::io::Errno::INTR) => {}
                // A kernel without getrandom is older than anything that this program runs on.
                Err(error) => panic!("getrandom: {error}"),
            }
        }
        let (numbers, _) = bytes.as_chunks::<8>();
        Self { numbers: std::array::from_fn(|i| u64::from_ne_bytes(numbers[i])), left: RANDOM_BATCH }
    }
}
