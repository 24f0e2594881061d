//! The two queues that a ring shares with the kernel, and the operations that pass through them.
//!
//! Invariants:
//! * A buffer and a descriptor that the kernel was told of live in a slot until their completion arrived.
//! * No more operations are in flight than the completion queue holds, so it never overflows.
#![allow(unsafe_code, reason = "the kernel reads and writes memory behind the compiler's back")]

use std::collections::VecDeque;
use std::io;
use std::os::fd::AsRawFd;

use io_uring::{IoUring, opcode, squeue, types};
use rustix::io::Errno;

use super::slots::{Direction, Operation, Outcome, Slots};
use crate::real::transfer;

/// Operations submitted by one system call at most.
pub(super) const SUBMISSIONS: u32 = 128;
/// Operations in flight at most; more wait in the backlog.
pub(super) const IN_FLIGHT_MAX: usize = 1024;
/// Bytes of one submission; longer transfers continue. The kernel stops a little below 2 GiB.
const PIECE_BYTES: usize = 1 << 30;

/// One ring's operations, and where they are.
pub(super) struct Queue {
    // Dropped first, so that the kernel has let go of what the slots hold.
    ring: IoUring,
    pub(super) slots: Slots,
    /// Not pushed yet.
    backlog: VecDeque<usize>,
    /// Pushed, but not taken by the kernel yet.
    pushed: VecDeque<usize>,
    /// Pushed, and not completed yet.
    in_flight: usize,
    /// Takes nothing new.
    pub(super) closed: bool,
    /// The kernel does not let us in any more.
    pub(super) broken: bool,
}

impl Queue {
    pub(super) fn new(ring: IoUring) -> Self {
        Self {
            ring,
            slots: Slots::default(),
            backlog: VecDeque::new(),
            pushed: VecDeque::new(),
            in_flight: 0,
            closed: false,
            broken: false,
        }
    }

    /// Takes an operation in and answers its key in `slots`.
    pub(super) fn add(&mut self, operation: Operation) -> usize {
        let key = self.slots.insert(operation);
        if self.closed {
            // Just inserted, so nobody can have abandoned it.
            drop(self.slots.finish(key, Outcome::Refused));
        } else {
            self.backlog.push_back(key);
        }
        key
    }

    /// Whether nothing is with the kernel.
    pub(super) fn is_idle(&self) -> bool {
        self.in_flight == 0
    }

    /// Gives up what a broken ring has in flight: the kernel may still write into these buffers, and will
    /// never say so. They stay for ever.
    pub(super) fn leak(&mut self) {
        std::mem::forget(std::mem::take(&mut self.slots));
        self.in_flight = 0;
    }

    /// Moves operations from the backlog to the submission queue.
    pub(super) fn push(&mut self) {
        while self.in_flight < IN_FLIGHT_MAX && !self.ring.submission().is_full() {
            let Some(key) = self.backlog.pop_front() else { return };
            let Some(operation) = self.slots.operation(key) else { continue };
            let entry = entry(operation).user_data(key as u64);
            // SAFETY: the slot keeps the buffer (whose memory never moves) and the descriptor until `reap`
            // sees this entry's completion, or `enter` learns that the kernel will never take it.
            if unsafe { self.ring.submission().push(&entry) }.is_err() {
                self.backlog.push_front(key);
                return;
            }
            self.pushed.push_back(key);
            self.in_flight += 1;
        }
    }

    /// Tells the kernel what is new and lets it deliver, waiting for `wanted` completions. True when the
    /// kernel is short of memory and wants to be asked again.
    pub(super) fn enter(&mut self, wanted: usize) -> bool {
        let flags = self.ring.submission();
        let idle = flags.is_empty() && !flags.taskrun() && !flags.cq_overflow() && wanted == 0;
        drop(flags);
        if idle {
            return false;
        }
        match self.ring.submit_and_wait(wanted) {
            Ok(taken) => drop(self.pushed.drain(..taken.min(self.pushed.len()))),
            Err(error) => match Errno::from_io_error(&error) {
                Some(Errno::INTR) => {}
                Some(Errno::AGAIN | Errno::BUSY | Errno::NOMEM) => return true,
                _ => self.break_down(),
            },
        }
        false
    }

    /// The kernel does not let us in any more (a filter came later): what it has not taken goes back.
    fn break_down(&mut self) {
        self.closed = true;
        self.broken = true;
        self.in_flight -= self.pushed.len();
        self.backlog.append(&mut self.pushed);
    }

    /// Hands out completions. Answers abandoned operations that ended, to be dropped.
    pub(super) fn reap(&mut self) -> Vec<Operation> {
        let mut abandoned = Vec::new();
        while let Some(completion) = { self.ring.completion().next() } {
            let key = completion.user_data() as usize;
            self.in_flight -= 1;
            let Some(operation) = self.slots.operation(key) else { continue };
            match advance(operation, completion.result()) {
                Some(outcome) => abandoned.extend(self.slots.finish(key, outcome)),
                None => self.backlog.push_back(key),
            }
        }
        if self.closed {
            abandoned.append(&mut self.refuse_backlog());
        }
        abandoned
    }

    pub(super) fn refuse_backlog(&mut self) -> Vec<Operation> {
        let keys = std::mem::take(&mut self.backlog);
        keys.into_iter().filter_map(|key| self.slots.finish(key, Outcome::Refused)).collect()
    }

    pub(super) fn has_work(&mut self) -> bool {
        let room = self.in_flight < IN_FLIGHT_MAX;
        let completed = !self.ring.completion().is_empty();
        let flags = self.ring.submission();
        completed
            || !flags.is_empty()
            || flags.taskrun()
            || flags.cq_overflow()
            || (room && !self.backlog.is_empty())
    }
}

/// The submission of what is left of `operation`.
fn entry(operation: &mut Operation) -> squeue::Entry {
    let (fd, offset) = (types::Fd(operation.fd.as_raw_fd()), operation.offset + operation.done as u64);
    let rest = &mut operation.lease[operation.done..];
    let flags = operation.flags.bits().cast_signed();
    let (at, len) = (rest.as_mut_ptr(), rest.len().min(PIECE_BYTES) as u32);
    match operation.direction {
        Direction::Read => opcode::Read::new(fd, at, len).offset(offset).rw_flags(flags).build(),
        Direction::Write => opcode::Write::new(fd, at, len).offset(offset).rw_flags(flags).build(),
    }
}

/// Takes note of one completion; `None` when the operation has to go on.
fn advance(operation: &mut Operation, result: i32) -> Option<Outcome> {
    let Ok(moved) = usize::try_from(result) else {
        return match Errno::from_raw_os_error(-result) {
            Errno::INTR => None,
            // Old kernels know rings, but not these operations, or not on this kind of file.
            Errno::AGAIN | Errno::OPNOTSUPP | Errno::CANCELED => Some(Outcome::Refused),
            error => Some(Outcome::Done(Err(error.into()))),
        };
    };
    operation.done += moved;
    let (done, direction) = (operation.done, operation.direction);
    if direction == Direction::Read && transfer::ends_file(moved, done, operation.alignment) {
        operation.lease[done..].fill(0);
    } else if direction == Direction::Write && moved == 0 && !operation.lease.is_empty() {
        return Some(Outcome::Done(Err(io::ErrorKind::WriteZero.into())));
    } else if done < operation.lease.len() {
        return None;
    }
    Some(Outcome::Done(Ok(())))
}
