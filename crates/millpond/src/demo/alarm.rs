//! Sleeping to some tens of microseconds, which a link of 1 ms needs and the I/O threads' own timers (1 ms) are too
//! coarse for: one OS thread waits, and wakes the tasks.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use io::sync::oneshot;
use io::{LocalFut, Moment};

/// The thread's handle; dropping it ends the thread.
pub(super) struct Alarm(Arc<Shared>);

#[derive(Default)]
struct Shared {
    table: Mutex<Table>,
    changed: Condvar,
}

#[derive(Default)]
struct Table {
    /// When, and which of [`Table::sleepers`].
    due: BinaryHeap<Reverse<(Instant, u64)>>,
    sleepers: std::collections::HashMap<u64, oneshot::Sender<()>>,
    next: u64,
    over: bool,
}

impl Alarm {
    /// Starts the thread.
    pub(super) fn start() -> std::io::Result<Arc<Self>> {
        let shared = Arc::new(Shared::default());
        let its = shared.clone();
        std::thread::Builder::new().name("alarm".to_owned()).spawn(move || its.run())?;
        Ok(Arc::new(Self(shared)))
    }

    /// Ready at `when`, a moment of the calling I/O thread.
    pub(super) fn sleep_until(&self, when: Moment) -> LocalFut<'static, ()> {
        let span = when.since(io::now());
        let (wake, woken) = oneshot::channel();
        {
            let mut table = self.0.table();
            let number = table.next;
            table.next += 1;
            table.due.push(Reverse((Instant::now() + span, number)));
            table.sleepers.insert(number, wake);
        }
        self.0.changed.notify_one();
        Box::pin(async move {
            // An error means that the alarm is gone, and nobody waits for anything any more.
            let _ = woken.await;
        })
    }
}

impl Drop for Alarm {
    fn drop(&mut self) {
        self.0.table().over = true;
        self.0.changed.notify_one();
    }
}

impl Shared {
    fn run(&self) {
        let mut table = self.table();
        while !table.over {
            let now = Instant::now();
            let next = table.wake(now);
            table = match next {
                None => self.changed.wait(table).unwrap_or_else(PoisonError::into_inner),
                Some(next) => {
                    let waited = self.changed.wait_timeout(table, next - now);
                    waited.unwrap_or_else(PoisonError::into_inner).0
                }
            };
        }
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Table {
    /// Wakes everybody who is due; answers when the next one is.
    fn wake(&mut self, now: Instant) -> Option<Instant> {
        while let Some(Reverse((at, number))) = self.due.peek().copied() {
            if at > now {
                return Some(at);
            }
            self.due.pop();
            if let Some(sleeper) = self.sleepers.remove(&number) {
                // Whoever slept may be gone.
                let _ = sleeper.send(());
            }
        }
        None
    }
}
