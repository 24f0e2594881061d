//! Operations under way on a ring: each owns its buffer and its descriptor until the kernel has let go.
//!
//! A slot's life, decided here and nowhere else:
//!
//! | state | its future goes | the operation ends |
//! |---|---|---|
//! | waiting | abandoned | finished, its future is woken |
//! | abandoned | - | removed, the buffer is freed |
//! | finished | removed (with or without the answer being taken) | - |

use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use block::Alignment;
use rustix::io::ReadWriteFlags;

use crate::Lease;

/// Which way the bytes go.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(in crate::real) enum Direction {
    Read,
    Write,
}

/// One transfer between a file and a buffer.
pub(in crate::real) struct Operation {
    pub(in crate::real) direction: Direction,
    pub(in crate::real) fd: Arc<OwnedFd>,
    pub(in crate::real) offset: u64,
    pub(in crate::real) alignment: Alignment,
    pub(in crate::real) flags: ReadWriteFlags,
    pub(in crate::real) lease: Lease,
    /// Bytes moved so far.
    pub(in crate::real) done: usize,
}

/// How an operation ended.
pub(in crate::real) enum Outcome {
    /// It was carried out.
    Done(io::Result<()>),
    /// The ring could not carry it out (and has not begun, or may be asked again): use the pool.
    Refused,
}

enum State {
    Waiting(Option<Waker>),
    Abandoned,
    Finished(Outcome),
}

struct Slot {
    operation: Operation,
    state: State,
}

/// All operations of one ring, by key.
#[derive(Default)]
pub(super) struct Slots {
    slots: Vec<Option<Slot>>,
    free: Vec<usize>,
}

impl Slots {
    /// Takes an operation in and answers its key.
    pub(super) fn insert(&mut self, operation: Operation) -> usize {
        let slot = Some(Slot { operation, state: State::Waiting(None) });
        match self.free.pop() {
            Some(key) => {
                self.slots[key] = slot;
                key
            }
            None => {
                self.slots.push(slot);
                self.slots.len() - 1
            }
        }
    }

    /// How many there are.
    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.slots.len() - self.free.len()
    }

    /// The operation under `key`; `None` when there is none.
    pub(super) fn operation(&mut self, key: usize) -> Option<&mut Operation> {
        self.slots.get_mut(key)?.as_mut().map(|slot| &mut slot.operation)
    }

    /// The operation has ended. An abandoned one comes back, to be dropped by the caller.
    #[must_use]
    pub(super) fn finish(&mut self, key: usize, outcome: Outcome) -> Option<Operation> {
        let slot = self.slots.get_mut(key)?.as_mut()?;
        match std::mem::replace(&mut slot.state, State::Finished(outcome)) {
            State::Abandoned => return self.remove(key).map(|slot| slot.operation),
            State::Waiting(waker) => waker.into_iter().for_each(Waker::wake),
            State::Finished(_) => {}
        }
        None
    }

    /// The answer once it is there; else remembers whom to wake.
    pub(super) fn poll(&mut self, key: usize, cx: &mut Context<'_>) -> Poll<(Outcome, Lease)> {
        match self.slots[key].as_mut().map(|slot| &mut slot.state) {
            Some(State::Waiting(waker)) => {
                *waker = Some(cx.waker().clone());
                Poll::Pending
            }
            _ => match self.remove(key) {
                Some(Slot { operation, state: State::Finished(outcome) }) => {
                    Poll::Ready((outcome, operation.lease))
                }
                // A future polls until it has its answer and abandons at most once.
                _ => unreachable!("a ring operation was asked for after its end"),
            },
        }
    }

    /// Its future is gone. An operation that has ended comes back, to be dropped by the caller.
    #[must_use]
    pub(super) fn abandon(&mut self, key: usize) -> Option<Operation> {
        let slot = self.slots.get_mut(key)?.as_mut()?;
        if let State::Waiting(_) = slot.state {
            slot.state = State::Abandoned;
            return None;
        }
        self.remove(key).map(|slot| slot.operation)
    }

    fn remove(&mut self, key: usize) -> Option<Slot> {
        let slot = self.slots[key].take()?;
        self.free.push(key);
        Some(slot)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn operation(slots: &mut Slots) -> (usize, Arc<()>) {
        let (mut lease, cargo) = (Lease::zeroed(8), Arc::new(()));
        lease.carry(Box::new(cargo.clone()));
        let fd = Arc::new(std::fs::File::open("/dev/null").unwrap().into());
        let (direction, alignment) = (Direction::Read, Alignment::BYTE);
        (
            slots.insert(Operation {
                direction,
                fd,
                offset: 0,
                alignment,
                flags: crate::real::transfer::PLAIN,
                lease,
                done: 0,
            }),
            cargo,
        )
    }

    #[test]
    fn a_buffer_outlives_its_future_until_the_end_of_its_operation() {
        let mut slots = Slots::default();
        let (key, cargo) = operation(&mut slots);
        assert!(slots.abandon(key).is_none() && Arc::strong_count(&cargo) == 2);
        drop(slots.finish(key, Outcome::Done(Ok(()))));
        assert_eq!(Arc::strong_count(&cargo), 1);
        assert!(slots.finish(key, Outcome::Refused).is_none() && slots.operation(key).is_none());
    }

    #[test]
    fn an_answer_waits_for_its_future_and_goes_with_it() {
        let mut slots = Slots::default();
        let (first, kept) = operation(&mut slots);
        let (second, dropped) = operation(&mut slots);
        let cx = &mut Context::from_waker(Waker::noop());
        assert!(slots.poll(first, cx).is_pending());
        for key in [first, second] {
            assert!(slots.finish(key, Outcome::Done(Ok(()))).is_none());
        }
        let Poll::Ready((Outcome::Done(Ok(())), lease)) = slots.poll(first, cx) else { panic!() };
        assert_eq!((Arc::strong_count(&kept), lease.len()), (2, 8));
        drop(slots.abandon(second));
        assert_eq!(Arc::strong_count(&dropped), 1);
        // Keys are used again.
        assert!([first, second].contains(&operation(&mut slots).0));
    }
}
