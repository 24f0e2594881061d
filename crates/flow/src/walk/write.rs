//! Writes that may wait: in place where the format allows it, else prepare, move, commit.

use std::sync::Arc;

use block::{Alignment, BlockError, ByteRange, ErrorKind, Place, Result};
use futures_util::future::try_join_all;
use io::Lease;
use io::select::{Either, race};

use super::read::joined;
use super::resolve::{self, Step, resolve};
use crate::contract::Changes;
use crate::joins::{Join, Leader, Outcome, Writer};
use crate::next::Next;
use crate::node::Body;
use crate::recorder::Recorded;
use crate::request::{Flags, Op, Request};
use crate::view::{View, ViewIndex};

/// Writes at a format node.
pub(super) async fn write(
    view: &View,
    index: ViewIndex,
    mut rq: Request,
    mut lease: Lease,
) -> (Result<()>, Lease) {
    let Some(target) = Target::new(view, index) else {
        let context = format!("node '{}' cannot be written", view.node(index).name());
        return (Err(BlockError::new(ErrorKind::ReadOnly, context)), lease);
    };
    let _recorded = match Recorded::begin(target.changes, &rq, target.next()).await {
        Ok(recorded) => recorded,
        Err(error) => return (Err(super::at_node(view, index, error)), lease),
    };
    let mut head = lease.split_to(rq.done as usize);
    while !rq.rest().is_empty() {
        let step = match target.next_step(&rq).await {
            Ok(step) => step,
            Err(error) => return (Err(error), joined(head, lease)),
        };
        let (result, part) = match step {
            How::Skip(len) => (Ok(()), lease.split_to(len as usize)),
            How::InPlace { child, at, guard } => {
                let mut part = lease.split_to(at.len() as usize);
                // An abandoned write holds the cluster until it has landed.
                part.carry(guard);
                let (result, mut part) = super::execute(view, child, rq.on(at), part).await;
                part.unload();
                (result, part)
            }
            How::Allocate => target.allocate(&rq, &mut lease).await,
        };
        rq.done += part.len() as u32;
        rq.acted = 0;
        head.join(part);
        if let Err(error) = result {
            return (Err(error), joined(head, lease));
        }
    }
    (Ok(()), joined(head, lease))
}

/// How the first bytes of what is left get written.
enum How {
    /// Not at all: they are held already and must stay unchanged.
    Skip(u64),
    /// Where they are.
    InPlace { child: ViewIndex, at: ByteRange, guard: crate::guard::OwnedGuard },
    /// To new room.
    Allocate,
}

/// A format node that is written.
#[derive(Clone, Copy)]
struct Target<'a> {
    view: &'a View,
    index: ViewIndex,
    changes: &'a dyn Changes,
}

impl<'a> Target<'a> {
    fn new(view: &'a View, index: ViewIndex) -> Option<Self> {
        let Body::Maps(format) = view.node(index).body() else { return None };
        Some(Self { view, index, changes: format.changes()? })
    }

    fn next(&self) -> Next<'a> {
        Next::new(self.view, self.index)
    }

    async fn next_step(&self, rq: &Request) -> Result<How> {
        loop {
            let guard = self.next().reclaim().writes().enter_owned();
            let Some((place, len)) = self.map(rq.rest())? else {
                super::read::load(self.view, self.index, rq.rest()).await?;
                continue;
            };
            let unchanged = rq.flags.has(Flags::UNCHANGED);
            return Ok(match place {
                Place::Unallocated => How::Allocate,
                _ if unchanged => How::Skip(len),
                Place::Data { child, offset, exclusive: true } => {
                    let child = self.view.child(self.index, child)?;
                    let at = ByteRange::checked(offset, len)
                        .ok_or_else(|| super::resolve::overflows(self.view, self.index, offset))?;
                    How::InPlace { child, at, guard }
                }
                _ => How::Allocate,
            });
        }
    }

    fn map(&self, range: ByteRange) -> Result<Option<(Place, u64)>> {
        let Body::Maps(format) = self.view.node(self.index).body() else { return Ok(None) };
        let mapping = super::map(self.view, self.index, &**format, Op::Write, range)?;
        Ok(mapping.map(|m| (m.place, m.len.min(range.len()))))
    }

    /// Writes the first bytes of what is left to new room; answers the part of the lease that is written
    /// (empty when the world changed meanwhile and the caller has to look again).
    async fn allocate(&self, rq: &Request, lease: &mut Lease) -> (Result<()>, Lease) {
        let state = self.view.node(self.index).state();
        let lock = state.locks.exclusive(self.clusters(rq.rest()));
        // Those who must leave held bytes unchanged look again under the lock instead of joining.
        if rq.flags.has(Flags::UNCHANGED) {
            let _lock = lock.await;
            return self.lead(rq, lease).await;
        }
        // Whoever waits for the lock may find that its holder opens a join meanwhile.
        match race(state.joins.enter(rq.rest()), lock).await {
            Either::First(writer) => self.follow(rq, lease, writer).await,
            Either::Second(_lock) => self.lead(rq, lease).await,
        }
    }

    /// Holding the lock of the clusters.
    async fn lead(&self, rq: &Request, lease: &mut Lease) -> (Result<()>, Lease) {
        let range = match self.still_to_allocate(rq).await {
            Ok(range) if range.is_empty() => return (Ok(()), Lease::empty()),
            Ok(range) => range,
            Err(error) => return (Err(error), Lease::empty()),
        };
        let prepared = match self.changes.prepare(range, self.next()).await {
            Ok(Some(prepared)) => prepared,
            Ok(None) => return (Ok(()), Lease::empty()),
            Err(error) => return (Err(super::at_node(self.view, self.index, error)), Lease::empty()),
        };
        let clean = self.changes.is_clean(&prepared);
        let unchanged = if rq.flags.has(Flags::UNCHANGED) { range } else { ByteRange::default() };
        let (leader, writer) = self.view.node(self.index).state().joins.lead(prepared, unchanged);
        let (result, part) = self.move_in(rq, lease, writer).await;
        if let Err(error) = result {
            return (Err(error), part);
        }
        (self.finish(rq, leader, clean).await, part)
    }

    /// Under the lock: the front of what is left that is still to be allocated.
    async fn still_to_allocate(&self, rq: &Request) -> Result<ByteRange> {
        loop {
            let Some((place, len)) = self.map(rq.rest())? else {
                super::read::load(self.view, self.index, rq.rest()).await?;
                continue;
            };
            let wanted = match place {
                Place::Unallocated => true,
                Place::Data { exclusive, .. } => !exclusive && !rq.flags.has(Flags::UNCHANGED),
                Place::Zero | Place::Special => !rq.flags.has(Flags::UNCHANGED),
            };
            return Ok(if wanted { rq.rest().head(len) } else { ByteRange::default() });
        }
    }

    /// Copies what nobody has written, all of it at the same time, commits, and lets the joiners answer.
    async fn finish(&self, rq: &Request, leader: Leader<'_>, clean: bool) -> Result<()> {
        let gaps = leader.seal().await;
        try_join_all(gaps.into_iter().map(|gap| self.fill_gap(rq, &leader.join, gap, clean))).await?;
        let Some(prepared) = leader.take() else { return Ok(()) };
        self.changes.commit(prepared, self.next()).map_err(|e| super::at_node(self.view, self.index, e))?;
        leader.committed();
        Ok(())
    }

    /// Writes into somebody else's new room and waits for the commit.
    async fn follow(&self, rq: &Request, lease: &mut Lease, writer: Writer) -> (Result<()>, Lease) {
        let join = writer.join.clone();
        let (result, mut part) = self.move_in(rq, lease, writer).await;
        if result.is_ok() && join.ended().await == Outcome::Abandoned {
            // Nothing was mapped: put the bytes back and let the caller look again.
            let rest = std::mem::replace(lease, Lease::empty());
            part.join(rest);
            *lease = part;
            return (Ok(()), Lease::empty());
        }
        (result, part)
    }

    async fn move_in(&self, rq: &Request, lease: &mut Lease, writer: Writer) -> (Result<()>, Lease) {
        let join = writer.join.clone();
        let guest = rq.rest().intersection(join.guest);
        let mut part = lease.split_to(guest.len() as usize);
        // We are inside until this buffer's I/O has ended, whatever becomes of us.
        part.carry(writer);
        let (result, mut part) = self.pass_down(rq, &join, guest, part).await;
        if result.is_ok() {
            join.cover(guest);
        }
        part.unload();
        (result, part)
    }

    /// Copies what nobody has written; `clean`: the room reads as zeros.
    async fn fill_gap(&self, rq: &Request, join: &Arc<Join>, gap: ByteRange, clean: bool) -> Result<()> {
        match clean {
            true => self.copy_data(rq, join, gap).await,
            false => self.copy_old(rq, join, gap).await,
        }
    }

    /// Copies what the tables do not say to be zeros.
    async fn copy_data(&self, rq: &Request, join: &Arc<Join>, gap: ByteRange) -> Result<()> {
        let mut rest = gap;
        while !rest.is_empty() {
            match resolve(self.view, self.index, rest)? {
                Step::Load { index, range } => super::read::load(self.view, index, range).await?,
                Step::Found(place, len) => {
                    if place != resolve::Target::Zero {
                        self.copy_old(rq, join, rest.head(len)).await?;
                    }
                    rest = rest.skip(len);
                }
            }
        }
        Ok(())
    }

    async fn copy_old(&self, rq: &Request, join: &Arc<Join>, gap: ByteRange) -> Result<()> {
        let mut read = rq.on(gap);
        (read.op, read.flags, read.acted) = (Op::Read, Flags::NONE, 0);
        let (result, mut old) =
            super::execute(self.view, self.index, read, Lease::new(gap.len() as usize)).await;
        result?;
        old.carry(join.clone());
        self.pass_down(rq, join, gap, old).await.0
    }

    async fn pass_down(
        &self,
        rq: &Request,
        join: &Join,
        guest: ByteRange,
        part: Lease,
    ) -> (Result<()>, Lease) {
        let mut sub = rq.on(join.place(guest));
        (sub.op, sub.flags) = (Op::Write, Flags::NONE);
        match self.view.child(self.index, join.child) {
            Ok(child) => super::execute(self.view, child, sub, part).await,
            Err(error) => (Err(error), part),
        }
    }

    fn clusters(&self, range: ByteRange) -> ByteRange {
        around(range, self.view.limits_of(self.index).granule)
    }
}

/// The whole clusters around `range`.
pub(super) fn around(range: ByteRange, granule: u64) -> ByteRange {
    Alignment::new(granule).unwrap_or_default().around(range)
}
