//! A request on its way: from whoever makes it to the thread that owns the sockets, and back.
//!
//! Invariant: the lease travels with the job. It comes back with the answer; when nobody waits for that any more,
//! it stays with the job until its I/O has ended.

use block::{ByteRange, Extent, Priority, Result};
use io::sync::oneshot;
use io::{Lease, Moment};
use nbd::codec::{Command, CommandFlags};

/// What came of a job: extents of a block status, nothing otherwise.
pub(super) type Outcome = Result<Vec<Extent>>;

/// What the server is asked for.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ask {
    pub(super) command: Command,
    pub(super) flags: CommandFlags,
    pub(super) range: ByteRange,
}

impl Ask {
    /// Whether it changes what the export reads as.
    pub(super) fn changes(&self) -> bool {
        matches!(self.command, Command::Write | Command::WriteZeroes | Command::Trim)
    }

    pub(super) fn conflicts(&self, other: &Self) -> bool {
        self.changes() && other.changes() && self.range.overlaps(other.range)
    }
}

/// What the thread that owns the sockets is told.
pub(super) enum Mail {
    /// To carry a job out.
    Job(Job),
    /// To let no job wait for a connection any more.
    CallOff,
}

/// A request and its buffer.
pub(super) struct Job {
    pub(super) ask: Ask,
    pub(super) priority: Priority,
    pub(super) lease: Lease,
    /// When the answer stops making sense.
    pub(super) deadline: Option<Moment>,
    /// When to stop waiting for a connection; set when there is none, or when the one that it was on broke.
    pub(super) give_up: Option<Moment>,
    /// Connections that broke under it.
    pub(super) losses: u32,
    reply: Option<oneshot::Sender<(Outcome, Lease)>>,
}

impl Job {
    pub(super) fn new(
        ask: Ask,
        priority: Priority,
        deadline: Option<Moment>,
        lease: Lease,
    ) -> (Self, oneshot::Receiver<(Outcome, Lease)>) {
        let (reply, answered) = oneshot::channel();
        (Self { ask, priority, lease, deadline, give_up: None, losses: 0, reply: Some(reply) }, answered)
    }

    /// Answers; the lease goes along, or is dropped here when nobody waits.
    pub(super) fn answer(self, outcome: Outcome) {
        if let Some(reply) = self.reply {
            // Who asked may be gone, and the lease has done its work.
            let _ = reply.send((outcome, self.lease));
        }
    }

    /// Answers a job that stays in flight: its I/O goes on in `scratch`, which also takes over what the lease
    /// carries.
    pub(super) fn answer_early(&mut self, outcome: Outcome, mut scratch: Lease) {
        scratch.carry_along(&self.lease);
        self.lease.unload();
        let lease = std::mem::replace(&mut self.lease, scratch);
        self.deadline = None;
        if let Some(reply) = self.reply.take() {
            let _ = reply.send((outcome, lease));
        }
    }

    /// Whether anybody waits for the answer.
    pub(super) fn is_wanted(&self) -> bool {
        self.reply.as_ref().is_some_and(|reply| !reply.is_closed())
    }

    /// Bytes that its I/O moves in either direction.
    pub(super) fn bytes(&self) -> u64 {
        self.lease.len() as u64
    }
}
