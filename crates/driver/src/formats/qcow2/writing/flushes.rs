//! Who waits for which flush of an image, and who runs them.
//!
//! Invariants: flushes run one after the other; those who ask while one runs share the next. Whoever waits for one
//! that he has not asked for waits for one that is under way: between two there may be no next one, and nobody else who
//! asks.

use std::mem::take;
use std::sync::{Mutex, MutexGuard, PoisonError};

use block::{BlockError, Result};
use io::sync::{Notify, oneshot};

/// Who waits for a flush.
#[derive(Default)]
pub(crate) struct Flushes {
    queue: Mutex<Queue>,
    /// One has ended.
    ended: Notify,
}

#[derive(Default)]
struct Queue {
    /// Somebody sees to it that all that are wanted are run.
    running: bool,
    /// Another one is wanted, perhaps by nobody who waits.
    wanted: bool,
    /// One has begun and not ended.
    under_way: bool,
    waiting: Vec<oneshot::Sender<Result<()>>>,
    /// Whether the last one failed.
    failed: bool,
}

impl Flushes {
    fn queue(&self) -> MutexGuard<'_, Queue> {
        // The queue is whole between any two statements that hold it.
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Asks for a flush; answers whether the caller has to see to it that they are run.
    pub(crate) fn ask(&self, who: Option<oneshot::Sender<Result<()>>>) -> bool {
        let mut queue = self.queue();
        queue.wanted = true;
        queue.waiting.extend(who);
        !std::mem::replace(&mut queue.running, true)
    }

    /// Whether one will end without being asked for again, and well if the last one did.
    pub(crate) fn is_under_way(&self) -> bool {
        let queue = self.queue();
        queue.under_way && !queue.failed
    }

    /// Whether one that has not ended yet was asked for.
    pub(crate) fn is_busy(&self) -> bool {
        let queue = self.queue();
        queue.under_way || queue.wanted
    }

    /// Who waits for the next one, which is under way now; `None` when nobody wants any: whoever does later runs it.
    pub(crate) fn begin(&self) -> Option<Vec<oneshot::Sender<Result<()>>>> {
        let mut queue = self.queue();
        queue.under_way = take(&mut queue.wanted);
        queue.running = queue.under_way;
        queue.under_way.then(|| take(&mut queue.waiting))
    }

    /// The one that is under way has ended.
    pub(crate) fn end(&self, waiting: Vec<oneshot::Sender<Result<()>>>, result: &Result<()>) {
        {
            let mut queue = self.queue();
            (queue.under_way, queue.failed) = (false, result.is_err());
        }
        for who in waiting {
            // Nobody may be waiting any more.
            let _ = who.send(result.as_ref().map_err(again).copied());
        }
        self.ended.notify_waiters();
    }

    /// Waits for the end of one, from now on.
    pub(crate) fn next_end(&self) -> impl Future<Output = ()> + '_ {
        self.ended.notified()
    }

    /// Nobody runs them any more, with whatever was under way.
    pub(crate) fn give_up(&self) {
        *self.queue() = Queue { failed: true, ..Queue::default() };
        self.ended.notify_waiters();
    }
}

/// The same error for another who waits.
fn again(error: &BlockError) -> BlockError {
    BlockError::new(error.kind(), error.to_string())
}

#[cfg(test)]
mod tests {
    use block::ErrorKind;

    use super::*;

    #[test]
    fn between_two_flushes_none_is_waited_for_that_nobody_asks_for() {
        let flushes = Flushes::default();
        assert!(flushes.ask(None), "somebody has to run it");
        assert!(flushes.is_busy() && !flushes.is_under_way());
        let waiting = flushes.begin().expect("it is wanted");
        assert!(flushes.is_under_way());
        flushes.end(waiting, &Ok(()));
        // The one who runs them has not looked for another one yet.
        assert!(!flushes.is_busy() && !flushes.is_under_way(), "nothing will end by itself");
        let (tell, mut told) = oneshot::channel();
        assert!(!flushes.ask(Some(tell)), "he is still there");
        let waiting = flushes.begin().expect("he was asked");
        flushes.end(waiting, &Ok(()));
        assert!(matches!(told.try_recv(), Ok(Ok(()))));
        assert!(flushes.begin().is_none());
        assert!(flushes.ask(None), "now he has gone");
    }

    #[test]
    fn after_a_flush_that_failed_each_asks_for_himself() {
        let flushes = Flushes::default();
        flushes.ask(None);
        let waiting = flushes.begin().expect("it is wanted");
        flushes.end(waiting, &Err(BlockError::new(ErrorKind::Io, "no")));
        flushes.ask(None);
        flushes.begin().expect("it is wanted");
        assert!(flushes.is_busy() && !flushes.is_under_way());
        flushes.give_up();
        assert!(!flushes.is_busy() && flushes.ask(None));
        // Its runner has never begun.
        flushes.give_up();
        assert!(!flushes.is_busy() && flushes.ask(None));
    }
}
