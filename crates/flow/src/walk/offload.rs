//! Copies that are left to the kernel: both walks have to end at nodes that lie in files, so that nobody on the way
//! misses what passes.
//!
//! A write takes the same steps as one of bytes in memory: in place where the format allows it, else prepare, move,
//! commit. Only whole clusters are written so: nothing has to be copied around them, and nobody joins.
//!
//! Invariants: what is written stays where it is until it has landed, whoever still waits; new data is never mapped
//! before it is there.

use std::sync::Arc;

use block::{Alignment, BlockError, ByteRange, Place, Result};
use io::file::Offload;
use io::{File, Lease, LocalFut};

use super::resolve::{Step, Target, overflows, resolve};
use super::write::around;
use crate::contract::{Changes, Format};
use crate::guard::Guard;
use crate::next::Next;
use crate::node::{Body, NodeId};
use crate::powers::Taken;
use crate::request::Op;
use crate::view::{DetectZeroes, View, ViewIndex};

/// A run of bytes of a node that lies in a file. The file has it as long as this is held.
pub struct Lies<'a> {
    /// The node whose file it is.
    pub node: NodeId,
    /// The file.
    pub file: Arc<dyn File>,
    /// Where in the file.
    pub range: ByteRange,
    _guards: Vec<Guard<'a>>,
}

/// Where the first bytes of `range` lie, if in a file, and how many share the answer.
pub(crate) async fn lies(view: &View, range: ByteRange) -> Result<(Option<Lies<'_>>, u64)> {
    // Before anything is looked up: what we find stays where it is until we are through.
    let guards = view.changing().iter().map(|at| view.node(*at).reclaim().waits().enter()).collect();
    let mut from = (ViewIndex::ROOT, range);
    loop {
        match resolve(view, from.0, from.1)? {
            Step::Load { index, range } => {
                super::read::load(view, index, range).await?;
                from = (index, range);
            }
            Step::Found(Target::Execute { index, offset }, len) => {
                let node = view.node(index);
                let Some(power) = node.powers().in_file else { return Ok((None, len)) };
                let (file, range) = (power.file().clone(), ByteRange::new(offset, len));
                return Ok((Some(Lies { node: node.id(), file, range, _guards: guards }), len));
            }
            Step::Found(_, len) => return Ok((None, len)),
        }
    }
}

/// Whether somebody has to see what is written, or that it is.
fn looks_at_bytes(view: &View) -> bool {
    view.records() || view.detect_zeroes() != DetectZeroes::Off
}

/// Whether a file below the root may ever take bytes from `source`.
pub(crate) async fn may_take(view: &View, source: &dyn File, how: Offload) -> bool {
    if looks_at_bytes(view) {
        return false;
    }
    for node in view.nodes() {
        if let Some(power) = node.powers().in_file
            && power.file().may_take(source, how).await
        {
            return true;
        }
    }
    false
}

/// Has the root take `source` in place of what it holds in `range`, which is as long. After anything but
/// [`Taken::All`] a part of it may have been taken.
pub(crate) async fn take(view: &View, range: ByteRange, source: &Lies<'_>, how: Offload) -> Result<Taken> {
    if looks_at_bytes(view) {
        return Ok(Taken::Never);
    }
    let from = From { file: &*source.file, offset: source.range.start(), how };
    take_at(view, ViewIndex::ROOT, range, from, Lease::empty()).await
}

/// What is taken, and how.
#[derive(Clone, Copy)]
struct From<'a> {
    file: &'a dyn File,
    /// Where in the file it begins.
    offset: u64,
    how: Offload,
}

impl From<'_> {
    fn skip(self, len: u64) -> Self {
        Self { offset: self.offset + len, ..self }
    }
}

/// `lease` carries what the write to this node holds.
fn take_at<'a>(
    view: &'a View,
    index: ViewIndex,
    range: ByteRange,
    from: From<'a>,
    lease: Lease,
) -> LocalFut<'a, Result<Taken>> {
    match view.node(index).body() {
        Body::Maps(format) => Box::pin(async move {
            let Some(changes) = format.changes() else { return Ok(Taken::Never) };
            let taker = Taker { view, index, format: &**format, changes };
            taker.take(range, from, &lease).await
        }),
        Body::Executes(_) => Box::pin(async move {
            let node = view.node(index);
            let Some(power) = node.powers().in_file else { return Ok(Taken::Never) };
            // Where blocks are read to be written again with something changed, that goes first, or comes later.
            let _lock = node.state().locks.shared(range).await;
            power.take(range.start(), from.file, range.at(from.offset), from.how, lease).await.0
        }),
    }
}

/// A format node that takes bytes.
#[derive(Clone, Copy)]
struct Taker<'a> {
    view: &'a View,
    index: ViewIndex,
    format: &'a dyn Format,
    changes: &'a dyn Changes,
}

impl<'a> Taker<'a> {
    async fn take(self, mut range: ByteRange, mut from: From<'a>, held: &Lease) -> Result<Taken> {
        // Whoever records changes sees to it before they begin.
        if self.changes.recorder().is_some() {
            return Ok(Taken::Never);
        }
        while !range.is_empty() {
            let guard = self.next().reclaim().writes().enter_owned();
            let (place, len) = self.map(range).await?;
            let (taken, len) = match place {
                Place::Data { child, offset, exclusive: true } => {
                    let at = ByteRange::checked(offset, len);
                    let at = at.ok_or_else(|| overflows(self.view, self.index, offset))?;
                    let mut lease = Lease::empty();
                    lease.carry_along(held);
                    // Given up, it holds the cluster until it has landed.
                    lease.carry(guard);
                    let child = self.view.child(self.index, child)?;
                    (take_at(self.view, child, at, from, lease).await?, len)
                }
                _ => self.allocate(range, from, held).await?,
            };
            if taken != Taken::All {
                return Ok(taken);
            }
            (range, from) = (range.skip(len), from.skip(len));
        }
        Ok(Taken::All)
    }

    /// Has new room take the first bytes of `range`; answers how many.
    async fn allocate(&self, range: ByteRange, from: From<'a>, held: &Lease) -> Result<(Taken, u64)> {
        let state = self.view.node(self.index).state();
        let granule = self.view.limits_of(self.index).granule;
        let whole = self.whole(range, granule);
        if whole.start() > range.start() || whole.is_empty() {
            return Ok((Taken::NotThese, 0));
        }
        let _lock = state.locks.exclusive(around(whole, granule)).await;
        let (place, len) = self.map(whole).await?;
        if matches!(place, Place::Data { exclusive: true, .. }) {
            // Somebody else has made room meanwhile: look again.
            return Ok((Taken::All, 0));
        }
        let prepared = self.changes.prepare(whole.head(len), self.next()).await.map_err(|e| self.named(e))?;
        let Some(prepared) = prepared else { return Ok((Taken::All, 0)) };
        let (guest, child, at) = (prepared.guest, prepared.child, prepared.offset);
        if guest.start() != range.start() || !whole.contains(guest) {
            // A part of it would have to be copied from elsewhere.
            return Ok((Taken::NotThese, 0));
        }
        // Nobody joins who writes anything else there.
        let (leader, writer) = state.joins.lead(prepared, guest);
        let mut lease = Lease::empty();
        lease.carry_along(held);
        lease.carry(writer);
        let child = self.view.child(self.index, child)?;
        let taken = take_at(self.view, child, guest.at(at), from, lease).await?;
        if taken == Taken::All {
            // Until whatever carried it has let go.
            leader.seal().await;
            if let Some(prepared) = leader.take() {
                self.changes.commit(prepared, self.next()).map_err(|e| self.named(e))?;
                leader.committed();
            }
        }
        Ok((taken, guest.len()))
    }

    /// The whole clusters of `range`; the last one may end with the node.
    fn whole(&self, range: ByteRange, granule: u64) -> ByteRange {
        let unit = Alignment::new(granule).unwrap_or_default();
        let (start, size) = (unit.up(range.start()), self.view.size_of(self.index));
        let end = if range.end() == size { size } else { unit.down(range.end()) };
        ByteRange::between(start, end.max(start))
    }

    /// Where the first bytes of `range` lie.
    async fn map(&self, range: ByteRange) -> Result<(Place, u64)> {
        loop {
            if let Some(mapping) = super::map(self.view, self.index, self.format, Op::Write, range)? {
                return Ok((mapping.place, mapping.len.min(range.len())));
            }
            super::read::load(self.view, self.index, range).await?;
        }
    }

    fn next(&self) -> Next<'a> {
        Next::new(self.view, self.index)
    }

    fn named(&self, error: BlockError) -> BlockError {
        super::at_node(self.view, self.index, error)
    }
}
