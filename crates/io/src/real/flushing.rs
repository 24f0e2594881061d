//! Flushes of one open file: one after the other, and those who ask while one runs share the next.
//!
//! The kernel tells of bytes that it could not write once per open file, to whoever asks first, and has forgotten which
//! they were.
//!
//! Invariants: whoever asks hears of everything that failed before the flush began that answers it, and so does
//! everybody after them; a flush that was asked for is done whether or not anyone still waits for it; nothing of the
//! file is held for one that was answered.

use std::future::Future;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicI32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rustix::fs::fdatasync;
use rustix::io::retry_on_intr;
use tokio::sync::oneshot;

use super::pool::Pool;

/// Bytes of an open file that were lost: from then on no flush of it succeeds.
#[derive(Default)]
pub(super) struct Lost(AtomicI32);

impl Lost {
    /// Notes why. The first reason counts.
    pub(super) fn note(&self, errno: i32) {
        let _ = self.0.compare_exchange(0, errno, Ordering::AcqRel, Ordering::Acquire);
    }

    fn check(&self) -> Result<(), i32> {
        match self.0.load(Ordering::Acquire) {
            0 => Ok(()),
            errno => Err(errno),
        }
    }
}

/// Those of one file.
pub(super) struct Flushes {
    /// What is lost; nothing is where the page cache is passed by.
    lost: Arc<Lost>,
    buffered: bool,
    queue: Mutex<Queue>,
}

#[derive(Default)]
struct Queue {
    waiting: Vec<Waiting>,
    /// Whether a thread is on it, or will be.
    taken: bool,
}

/// Who asked.
struct Waiting {
    file: Arc<OwnedFd>,
    /// An errno, if it failed.
    tell: oneshot::Sender<Result<(), i32>>,
}

impl Flushes {
    /// Of a file whose losses others may note, too.
    pub(super) fn new(buffered: bool, lost: Arc<Lost>) -> Self {
        Self { lost, buffered, queue: Mutex::default() }
    }

    /// Has `file` flushed; the future answers how that ended. Dropping it does not stop it.
    pub(super) fn run(
        self: &Arc<Self>,
        pool: &Pool,
        file: Arc<OwnedFd>,
    ) -> impl Future<Output = io::Result<()>> + use<> {
        let (tell, told) = oneshot::channel();
        if self.ask(Waiting { file, tell }) {
            let this = self.clone();
            drop(pool.run(move || this.work(&|file| retry_on_intr(|| fdatasync(file)))));
        }
        async move {
            let told = told.await.expect("a flush of the pool panicked");
            told.map_err(io::Error::from_raw_os_error)
        }
    }

    /// Answers whether a thread has to be sent to [`Flushes::work`].
    fn ask(&self, who: Waiting) -> bool {
        let mut queue = self.queue();
        queue.waiting.push(who);
        !std::mem::replace(&mut queue.taken, true)
    }

    /// Flushes until nobody asks any more.
    fn work(&self, flush: &impl Fn(BorrowedFd<'_>) -> rustix::io::Result<()>) {
        loop {
            let waiting = {
                let mut queue = self.queue();
                queue.taken = !queue.waiting.is_empty();
                std::mem::take(&mut queue.waiting)
            };
            let Some(first) = waiting.first() else { return };
            let outcome = self.once(first.file.as_fd(), flush);
            let told: Vec<_> = waiting.into_iter().map(|who| who.tell).collect();
            for tell in told {
                // Nobody may be waiting any more.
                let _ = tell.send(outcome);
            }
        }
    }

    fn once(
        &self,
        file: BorrowedFd<'_>,
        flush: impl Fn(BorrowedFd<'_>) -> rustix::io::Result<()>,
    ) -> Result<(), i32> {
        self.lost.check()?;
        let outcome = flush(file).map_err(rustix::io::Errno::raw_os_error);
        if let (Err(errno), true) = (outcome, self.buffered) {
            self.lost.note(errno);
        }
        // Somebody else may have been told of it meanwhile.
        outcome.and_then(|()| self.lost.check())
    }

    fn queue(&self) -> MutexGuard<'_, Queue> {
        // It is whole between any two statements that hold it.
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    const EIO: i32 = 5;

    /// One who asked, and whether a thread is needed.
    fn ask(flushes: &Flushes) -> (oneshot::Receiver<Result<(), i32>>, bool) {
        let (tell, told) = oneshot::channel();
        let file = Arc::new(std::fs::File::open("/dev/null").unwrap().into());
        let needed = flushes.ask(Waiting { file, tell });
        (told, needed)
    }

    /// A kernel that tells of a loss once.
    fn once_told(told: &Cell<u32>) -> impl Fn(BorrowedFd<'_>) -> rustix::io::Result<()> {
        |_| {
            told.set(told.get() + 1);
            if told.get() == 1 { Err(rustix::io::Errno::IO) } else { Ok(()) }
        }
    }

    #[test]
    fn all_who_ask_hear_of_a_loss_and_so_does_everybody_after_them() {
        let (flushes, times) = (Flushes::new(true, Arc::default()), Cell::new(0));
        let mut asked: Vec<_> = (0..3).map(|_| ask(&flushes)).collect();
        assert_eq!(asked.iter().filter(|(_, needed)| *needed).count(), 1, "one thread is enough");
        flushes.work(&once_told(&times));
        asked.push(ask(&flushes));
        assert!(asked[3].1, "whoever comes later needs a thread again");
        flushes.work(&once_told(&times));
        for (mut told, _) in asked {
            assert_eq!(told.try_recv().unwrap(), Err(EIO));
        }
        assert_eq!(times.get(), 1, "they share one, and nothing is flushed that is lost");
    }

    #[test]
    fn what_others_were_told_counts_too() {
        let lost = Arc::<Lost>::default();
        let flushes = Flushes::new(true, lost.clone());
        let (mut told, _) = ask(&flushes);
        flushes.work(&|_| {
            lost.note(EIO);
            Ok(())
        });
        assert_eq!(told.try_recv().unwrap(), Err(EIO));
    }

    #[test]
    fn past_the_page_cache_a_later_flush_may_succeed() {
        let (flushes, times) = (Flushes::new(false, Arc::default()), Cell::new(0));
        for expected in [Err(EIO), Ok(())] {
            let (mut told, _) = ask(&flushes);
            flushes.work(&once_told(&times));
            assert_eq!(told.try_recv().unwrap(), expected);
        }
    }

    #[test]
    fn many_at_a_time_are_all_answered() {
        let (pool, flushes) = (Pool::new("test"), Arc::new(Flushes::new(true, Arc::default())));
        let file: Arc<OwnedFd> = Arc::new(tempfile::tempfile_in("/var/tmp").unwrap().into());
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        for round in 0..100 {
            let asked: Vec<_> = (0..8).map(|_| flushes.run(&pool, file.clone())).collect();
            runtime.block_on(async {
                for told in asked {
                    told.await.unwrap();
                }
            });
            assert_eq!(Arc::strong_count(&file), 1, "round {round}: nothing of it is held");
        }
    }
}
