//! An io_uring of each I/O thread, for requests that wait for the disk.
//!
//! Futures put operations into a backlog; one task per ring, woken once however many came, submits them all
//! with one system call and hands out what has completed.
//!
//! Invariants: only the thread that made a ring touches it; a ring is closed only when nothing is in flight,
//! and what is in flight keeps its buffer, whatever happens to its future, its task or the thread.

mod queue;
mod setup;
mod slots;

use std::cell::{Cell, RefCell};
use std::future::{Future, poll_fn};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use rustix::event::{EventfdFlags, eventfd};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use self::queue::Queue;
pub(super) use self::setup::probe;
use self::setup::set_up;
pub(super) use self::slots::{Direction, Operation, Outcome};
use super::watch::watch;
use crate::{Lease, here};

/// Rounds of one turn, so that a ring that is always ready does not keep its thread to itself.
const ROUNDS_MAX: usize = 8;

thread_local! {
    static RING: RefCell<Current> = const { RefCell::new(Current::Unasked) };
}

/// What is known about the ring of this thread.
enum Current {
    Unasked,
    Open(Rc<Ring>),
    /// It could not be had; asking again for each request would be slow.
    Refused,
}

/// The ring of this I/O thread, made when first asked for; `None` when it cannot be had.
pub(super) fn current() -> Option<Rc<Ring>> {
    RING.with_borrow_mut(|current| {
        if let Current::Unasked = current {
            *current = Ring::open(0).map_or(Current::Refused, Current::Open);
        }
        match current {
            Current::Open(ring) => Some(ring.clone()),
            _ => None,
        }
    })
}

/// Waits for what this thread's ring has in flight; it takes nothing new. Called before tasks are dropped.
pub(super) fn drain() {
    let ring = RING.with_borrow(|current| match current {
        Current::Open(ring) => Some(ring.clone()),
        _ => None,
    });
    ring.into_iter().for_each(|ring| ring.drain());
}

/// Lets go of this thread's ring. Called after all tasks were dropped.
pub(super) fn close() {
    drop(RING.replace(Current::Unasked));
}

pub(super) struct Ring {
    queue: RefCell<Queue>,
    /// The task that drives this ring, while it sleeps.
    driver: Cell<Option<Waker>>,
}

impl Ring {
    /// `newest` as in [`set_up`].
    fn open(newest: u32) -> io::Result<Rc<Self>> {
        let ring = set_up(newest)?;
        let events = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        ring.submitter().register_eventfd(events.as_raw_fd())?;
        let events = watch(events, Interest::READABLE)?;
        let ring = Rc::new(Self { queue: RefCell::new(Queue::new(ring)), driver: Cell::new(None) });
        here::spawn(drive(ring.clone(), events));
        Ok(ring)
    }

    /// Carries `operation` out. Dropping the future leaves the buffer here until the kernel has let go of it.
    pub(super) fn transfer(self: Rc<Self>, operation: Operation) -> Transfer {
        let key = self.queue.borrow_mut().add(operation);
        self.driver.take().into_iter().for_each(Waker::wake);
        Transfer { ring: self, key: Some(key) }
    }

    /// Submits and completes what there is; true when there is more than a turn may do.
    fn turn(&self) -> bool {
        for _ in 0..ROUNDS_MAX {
            let mut queue = self.queue.borrow_mut();
            queue.push();
            let retry = queue.enter(0);
            let abandoned = queue.reap();
            let more = queue.has_work();
            drop(queue);
            // What a buffer carries may do anything when it is dropped, so not while the ring is borrowed.
            drop(abandoned);
            if !more {
                return false;
            }
            if retry {
                return true;
            }
        }
        true
    }

    fn drain(&self) {
        self.queue.borrow_mut().closed = true;
        loop {
            let mut queue = self.queue.borrow_mut();
            let mut abandoned = queue.refuse_backlog();
            if queue.broken {
                queue.leak();
            }
            let busy = !queue.is_idle();
            if busy {
                queue.enter(1);
                abandoned.append(&mut queue.reap());
            }
            drop(queue);
            drop(abandoned);
            if !busy {
                return;
            }
        }
    }
}

impl Drop for Ring {
    fn drop(&mut self) {
        // Nothing is left to do unless the thread is unwinding from a panic.
        self.drain();
    }
}

/// The task of a ring: runs a turn whenever something was put in or has completed.
async fn drive(ring: Rc<Ring>, events: AsyncFd<OwnedFd>) {
    poll_fn(|cx| {
        // The counter is never read: each completion raises a new edge, and that is all there is to know.
        while let Poll::Ready(event) = events.poll_read_ready(cx) {
            match event {
                Ok(mut event) => event.clear_ready(),
                // The runtime is being dropped.
                Err(_) => return Poll::Ready(()),
            }
        }
        if ring.turn() {
            cx.waker().wake_by_ref();
        }
        ring.driver.set(Some(cx.waker().clone()));
        Poll::Pending
    })
    .await
}

/// An operation under way.
pub(super) struct Transfer {
    ring: Rc<Ring>,
    /// `None` after the answer was given.
    key: Option<usize>,
}

impl Future for Transfer {
    type Output = (Outcome, Lease);

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let Some(key) = self.key else { return Poll::Pending };
        let answer = self.ring.queue.borrow_mut().slots.poll(key, cx);
        if answer.is_ready() {
            self.key = None;
        }
        answer
    }
}

impl Drop for Transfer {
    fn drop(&mut self) {
        let Some(key) = self.key else { return };
        let ended = self.ring.queue.borrow_mut().slots.abandon(key);
        drop(ended);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::real::RealWorld;
    use block::Alignment;
    use std::sync::Arc;

    const BLOCK: usize = 4096;
    const BLOCKS: usize = 512;

    fn file() -> Arc<OwnedFd> {
        let mut bytes = vec![0; BLOCK * BLOCKS];
        for (i, block) in bytes.chunks_mut(BLOCK).enumerate() {
            block.fill(i as u8);
        }
        let mut file = tempfile::tempfile_in("/var/tmp").unwrap();
        io::Write::write_all(&mut file, &bytes).unwrap();
        Arc::new(file.into())
    }

    fn read(ring: &Rc<Ring>, fd: &Arc<OwnedFd>, block: usize) -> Transfer {
        let (fd, lease) = (fd.clone(), Lease::new(BLOCK));
        let (direction, alignment, offset) = (Direction::Read, Alignment::BYTE, (block * BLOCK) as u64);
        let flags = crate::real::transfer::PLAIN;
        ring.clone().transfer(Operation { direction, fd, offset, alignment, flags, lease, done: 0 })
    }

    /// More than fits at once, every third given up, on each way of setting up.
    #[test]
    fn takes_more_than_it_holds() {
        if probe().is_err() {
            println!("skipped: takes_more_than_it_holds: no io_uring");
            return;
        }
        let fd = file();
        for level in 0..3 {
            RealWorld::new().block_on(async {
                let ring = Ring::open(level).unwrap();
                let reads: Vec<_> =
                    (0..5 * queue::IN_FLIGHT_MAX).map(|i| (i, read(&ring, &fd, i % BLOCKS))).collect();
                for (i, read) in reads {
                    if i % 3 == 0 {
                        continue;
                    }
                    let (Outcome::Done(Ok(())), lease) = read.await else { panic!("block {i}") };
                    assert!(lease.iter().all(|byte| *byte == (i % BLOCKS) as u8), "block {i}");
                }
                ring.drain();
                let queue = ring.queue.borrow();
                assert!(queue.is_idle() && queue.slots.len() == 0);
            });
        }
    }

    #[test]
    fn a_drained_ring_refuses() {
        if probe().is_err() {
            println!("skipped: a_drained_ring_refuses: no io_uring");
            return;
        }
        let fd = file();
        RealWorld::new().block_on(async {
            let ring = Ring::open(0).unwrap();
            let before = read(&ring, &fd, 1);
            ring.drain();
            let after = read(&ring, &fd, 1);
            assert!(matches!(before.await.0, Outcome::Refused) && matches!(after.await.0, Outcome::Refused));
        });
    }
}
