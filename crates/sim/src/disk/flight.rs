//! Operations on their way: from the first poll of their future to their end, whoever still waits.
//!
//! An operation takes place in steps of a plan, each an event of the clock: one or two parts, then the end,
//! when the waiting future (if any) gets the lease back.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use block::{ByteRange, Errno, Extent};
use io::Lease;
use io::file::ZeroMode;
use io::sync::oneshot;

use super::control::{Op, OpId, OpKind, Verdict};
use super::file::Open;
use super::inode::{Change, SECTOR};
use super::state::State;
use super::{SimDisk, os_error};
use crate::locked;

/// What an operation does with the range of its [`Op`].
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Action {
    Read,
    Write,
    Zero(ZeroMode),
    Discard,
    Flush,
    SetLen,
    Extents,
}

impl Action {
    pub(crate) fn kind(self) -> OpKind {
        match self {
            Self::Read => OpKind::Read,
            Self::Write => OpKind::Write,
            Self::Zero(_) => OpKind::Zero,
            Self::Discard => OpKind::Discard,
            Self::Flush => OpKind::Flush,
            Self::SetLen => OpKind::SetLen,
            Self::Extents => OpKind::Extents,
        }
    }
}

/// How an operation ended.
pub(crate) struct Done {
    pub(crate) result: std::io::Result<()>,
    pub(crate) lease: Option<Lease>,
    pub(crate) extents: Vec<Extent>,
}

/// One step of an operation, and how long after the step before it.
struct Step {
    after: Duration,
    /// Bytes of the range from here to there; `None` is the end.
    part: Option<(u64, u64)>,
}

pub(crate) struct Flight {
    pub(crate) op: Op,
    open: Arc<Open>,
    action: Action,
    done: Done,
    reply: oneshot::Sender<Done>,
    /// Changes made before this one started: what a flush covers.
    mark: u64,
    latency: Duration,
    /// Not empty unless it is held.
    plan: VecDeque<Step>,
}

impl Flight {
    pub(crate) fn is_held(&self) -> bool {
        self.plan.is_empty()
    }

    pub(crate) fn inode(&self) -> usize {
        self.open.inode
    }

    /// What it is about to change; `None` when nothing that a crash could tell.
    pub(crate) fn change(&self, state: &State) -> Option<Change> {
        let range = self.op.range;
        match self.action {
            Action::Write => {
                let around = SECTOR.around(range);
                let mut bytes = vec![0; usize::try_from(around.len()).ok()?];
                state.inodes[self.inode()].live.bytes.read(around.start(), &mut bytes);
                // Below a sector, so it fits.
                let at = (range.start() - around.start()) as usize;
                let new = self.done.lease.as_deref()?;
                bytes[at..at + new.len()].copy_from_slice(new);
                Some(Change::Write { offset: around.start(), bytes, end: range.end() })
            }
            Action::Zero(_) => Some(Change::Punch { range: SECTOR.inside(range) }),
            Action::SetLen => Some(Change::Len { len: range.start() }),
            Action::Read | Action::Discard | Action::Flush | Action::Extents => None,
        }
        .filter(|change| !change.range().is_some_and(ByteRange::is_empty))
    }

    /// How much has landed of a write that got so far: sectors, the last one whole or not at all.
    fn landed(&self, len: u64, whole: bool) -> u64 {
        let (start, end) = (self.op.range.start(), self.op.range.start() + len);
        let end = if whole { SECTOR.up(end).min(self.op.range.end()) } else { SECTOR.down(end) };
        end.saturating_sub(start)
    }

    /// The steps that it will take.
    fn lay_plan(&mut self, state: &mut State) {
        let len = self.op.range.len();
        let splits =
            matches!(self.action, Action::Read | Action::Write) && state.rng.chance(state.options.split);
        let fails = self.done.result.is_err();
        // A write that fails leaves some of its sectors behind.
        let len = if fails { self.landed(state.rng.below(len + 1), state.rng.chance(0.5)) } else { len };
        let cut = if splits { SECTOR.up(state.rng.below(len + 1)).min(len) } else { len };
        let mut parts = vec![(0, cut), (cut, len)];
        parts.retain(|(from, to)| from < to);
        if fails && self.action != Action::Write {
            parts.clear();
        } else if !matches!(self.action, Action::Read | Action::Write) {
            parts = vec![(0, len)];
        }
        let mut left = self.latency;
        for part in parts {
            let after = state.rng.span(&(Duration::ZERO..=left));
            left -= after;
            self.plan.push_back(Step { after, part: Some(part) });
        }
        self.plan.push_back(Step { after: left, part: None });
    }
}

impl SimDisk {
    /// Starts an operation; the answer comes through the receiver, which may be dropped.
    pub(crate) fn start(
        &self,
        open: &Arc<Open>,
        action: Action,
        range: ByteRange,
        lease: Option<Lease>,
    ) -> oneshot::Receiver<Done> {
        let (reply, receiver) = oneshot::channel();
        let mut state = locked(&self.0);
        if state.dead {
            drop(state);
            drop(lease);
            return receiver;
        }
        let op = Op { path: open.path.clone(), kind: action.kind(), range, inline: false };
        state.note("begin", range.start(), range.len());
        let refused = open.refuses(&op, lease.as_ref()).map(Verdict::Fail);
        let verdict = refused.unwrap_or_else(|| state.judge(&op));
        let latency = state.latency();
        let mark = state.inodes[open.inode].mark();
        let done = Done { result: Ok(()), lease, extents: Vec::new() };
        let mut flight =
            Flight { op, open: open.clone(), action, done, reply, mark, latency, plan: VecDeque::new() };
        match verdict {
            Verdict::Delay(latency) => flight.latency = latency,
            Verdict::Fail(errno) => flight.done.result = Err(os_error(errno)),
            Verdict::Go | Verdict::Hold => {}
        }
        if verdict != Verdict::Hold {
            flight.lay_plan(&mut state);
        }
        let id = OpId(state.next_serial());
        state.flights.insert(id, flight);
        drop(state);
        self.schedule(id);
        receiver
    }

    /// Lets a held operation go on, to fail or not.
    pub(crate) fn let_go(&self, id: OpId, errno: Option<Errno>) -> bool {
        let mut state = locked(&self.0);
        let Some(mut flight) = state.flights.remove(&id) else { return false };
        let held = flight.is_held();
        if held {
            flight.done.result = errno.map_or(Ok(()), |errno| Err(os_error(errno)));
            flight.lay_plan(&mut state);
        }
        state.flights.insert(id, flight);
        drop(state);
        if held {
            self.schedule(id);
        }
        held
    }

    /// Has the next step of an operation take place in time.
    fn schedule(&self, id: OpId) {
        let state = locked(&self.0);
        let step = state.flights.get(&id).and_then(|flight| flight.plan.front());
        if let (Some(step), Some(core)) = (step, &state.core) {
            let disk = self.clone();
            core.clock.run_after(step.after, move || disk.step(id));
        }
    }

    fn step(&self, id: OpId) {
        let mut state = locked(&self.0);
        if state.dead {
            return;
        }
        let Some(mut flight) = state.flights.remove(&id) else { return };
        match flight.plan.pop_front().and_then(|step| step.part) {
            Some((from, to)) => {
                if flight.done.result.is_ok() || flight.action == Action::Write {
                    state.take_part(&mut flight, from, to);
                }
                state.flights.insert(id, flight);
                drop(state);
                self.schedule(id);
            }
            None => {
                if flight.action == Action::Flush && !state.flush_now(&mut flight) {
                    state.flights.insert(id, flight);
                    return;
                }
                state.note("end", id.0, u64::from(flight.done.result.is_err()));
                drop(state);
                // Dropped here, outside the lock, when nobody waits.
                let _ = flight.reply.send(flight.done);
            }
        }
    }
}

impl State {
    /// Carries out the bytes `from..to` of an operation's range.
    fn take_part(&mut self, flight: &mut Flight, from: u64, to: u64) {
        let (inode, range) = (flight.inode(), flight.op.range);
        // Inside the lease, so they fit.
        let part = from as usize..to as usize;
        let result = match (flight.action, &mut flight.done.lease) {
            (Action::Read, Some(lease)) => {
                self.inodes[inode].live.bytes.read(range.start() + from, &mut lease[part]);
                self.counts.read_bytes += to - from;
                Ok(())
            }
            (Action::Write, Some(lease)) => self.write_now(inode, range.start() + from, &lease[part]),
            (Action::Zero(mode), _) => self.zero_now(inode, range, mode),
            (Action::Discard, _) => {
                self.discard_now(inode, range);
                Ok(())
            }
            (Action::SetLen, _) => {
                self.inodes[inode].set_len(range.start());
                self.changed(inode, OpKind::SetLen, range);
                Ok(())
            }
            (Action::Extents, _) => {
                flight.done.extents = self.extents_now(inode, range);
                Ok(())
            }
            _ => Ok(()),
        };
        if flight.done.result.is_ok() {
            flight.done.result = result;
        }
    }

    fn zero_now(&mut self, inode: usize, range: ByteRange, mode: ZeroMode) -> std::io::Result<()> {
        if self.options.fast_zeroes {
            self.inodes[inode].punch(range);
        } else if mode.only_fast {
            return Err(os_error(Errno::NOTSUP));
        } else {
            self.make_room(inode, range)?;
            let mut left = range;
            while !left.is_empty() {
                let piece = left.head(1 << 16);
                // At most 64 KiB.
                self.inodes[inode].write(piece.start(), &vec![0; piece.len() as usize]);
                left = left.skip(piece.len());
            }
        }
        self.changed(inode, OpKind::Zero, range);
        Ok(())
    }

    fn discard_now(&mut self, inode: usize, range: ByteRange) {
        let range = range.intersection(ByteRange::new(0, self.inodes[inode].live.len));
        if self.rng.chance(self.options.discard_rubbish) {
            let Self { inodes, rng, .. } = self;
            inodes[inode].spoil(range, rng);
        } else if self.rng.chance(0.5) {
            self.inodes[inode].punch(range);
        }
        self.changed(inode, OpKind::Discard, range);
    }

    fn extents_now(&mut self, inode: usize, range: ByteRange) -> Vec<Extent> {
        let mut extents = self.inodes[inode].live.extents(range);
        if self.rng.chance(self.options.short) {
            extents.truncate(self.rng.index(extents.len()) + 1);
        }
        extents
    }

    /// Makes durable what a flush covers; false when the power went just before.
    fn flush_now(&mut self, flight: &mut Flight) -> bool {
        self.counts.flushes += 1;
        self.note(OpKind::Flush.name(), self.counts.flushes, flight.mark);
        if self.crash_at == Some(super::CrashPoint::Flush(self.counts.flushes)) {
            self.die();
            return false;
        }
        let Self { inodes, rng, .. } = self;
        match flight.done.result {
            Ok(()) => inodes[flight.inode()].flush(flight.mark),
            Err(_) => inodes[flight.inode()].lose_some(rng),
        }
        true
    }
}
