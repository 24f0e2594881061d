//! The two kinds of nodes, and how they reach their children.

use std::any::Any;
use std::sync::Arc;
use std::sync::atomic::AtomicU32;

use block::{ByteRange, ChildIndex, Extent, ExtentState, Mapping, Result};
use io::{Lease, LocalFut};

use crate::guard::Reclaim;
use crate::node::{Limits, Node};
use crate::powers::Powers;
use crate::request::{Now, Request, Window};
use crate::view::{View, ViewIndex};
use crate::walk;

/// A node that carries requests out: a filter (it has no size of its own) or a protocol.
///
/// Requests arrive in bounds and aligned to [`Limits::alignment`], no longer than [`Limits::max_transfer`].
pub trait Execute: Send + Sync {
    /// Size in bytes of a protocol; `None` of a filter, whose child has the size.
    fn size(&self) -> Option<u64>;

    /// What requests must look like.
    fn limits(&self) -> Limits;

    /// Carries out as much as needs no wait. On [`Now::Wait`] nothing has been consumed except what `rq`
    /// records (`done`, `acted`), which [`Execute::execute`] honours. Must not block, wait or allocate.
    fn try_now(&self, rq: &mut Request, window: Window<'_>, next: Next<'_>) -> Result<Now>;

    /// Carries out the rest of `rq` (from `rq.done` on). The lease is as long as `rq.range` for reads and
    /// writes, empty otherwise; it comes back, whole, unless the future is dropped: then it stays with
    /// the I/O in flight.
    fn execute<'a>(&'a self, rq: Request, lease: Lease, next: Next<'a>) -> LocalFut<'a, (Result<()>, Lease)>;

    /// Which parts of `range` are data, zeros or holes, in order and without gaps from its first byte; may
    /// end before it does. Filters answer for their child.
    fn extents<'a>(&'a self, range: ByteRange, next: Next<'a>) -> LocalFut<'a, Result<Vec<Extent>>> {
        if self.size().is_none() {
            return next.extents(ChildIndex(0), range);
        }
        Box::pin(async move { Ok(vec![Extent { range, state: ExtentState::Data }]) })
    }

    /// What its driver wants back when the node is reopened: contents in memory, a file that holds locks.
    fn keep(&self) -> Option<Arc<dyn Any + Send + Sync>> {
        None
    }

    /// The filter was taken out of every path: requests that wait in it go on to its child now, and so do those of
    /// older views ([`View::newest_version`]) that come yet.
    fn release(&self) {}

    /// Its optional powers.
    fn powers(&self) -> Powers<'_> {
        Powers::default()
    }
}

/// A node that maps: it says where bytes are, and the core moves them.
pub trait Format: Send + Sync {
    /// Virtual size in bytes. Not asked for where [`Format::sized_by`] answers.
    fn size(&self) -> u64;

    /// A format without a size of its own (raw) is as long as this child from this offset on, at any time.
    fn sized_by(&self) -> Option<(ChildIndex, u64)> {
        None
    }

    /// What requests must look like. `granule` is the cluster size.
    fn limits(&self) -> Limits;

    /// Where the first bytes of `range` (never empty, in bounds) lie. `None`: a table has to be loaded
    /// first. Must not block, wait or allocate.
    fn map_now(&self, range: ByteRange) -> Result<Option<Mapping>>;

    /// Loads what [`Format::map_now`] needs for the first byte of `range`.
    fn load<'a>(&'a self, range: ByteRange, next: Next<'a>) -> LocalFut<'a, Result<()>>;

    /// Fills the lease with the bytes of `range`, which was mapped [`block::Place::Special`].
    fn read_special<'a>(
        &'a self,
        range: ByteRange,
        lease: Lease,
        next: Next<'a>,
    ) -> LocalFut<'a, (Result<()>, Lease)>;

    /// How it is changed; `None` when this layer cannot change.
    fn changes(&self) -> Option<&dyn Changes>;

    /// As [`Execute::keep`]: a table in memory, whatever requests of older views may still change.
    fn keep(&self) -> Option<Arc<dyn Any + Send + Sync>> {
        None
    }

    /// Its optional powers.
    fn powers(&self) -> Powers<'_> {
        Powers::default()
    }
}

/// How a format is changed. The core holds the range lock of the clusters concerned during `prepare` to
/// `commit` and during `change`.
pub trait Changes: Send + Sync {
    /// Allocates room for the first bytes of `range`, which are not writable in place. `None` when they are
    /// by now. Touches no mapping that a reader could see.
    fn prepare<'a>(&'a self, range: ByteRange, next: Next<'a>) -> LocalFut<'a, Result<Option<Prepared>>>;

    /// Maps what was prepared and written; bumps the generations before it returns. Memory only: a flush
    /// makes it durable, after the data.
    fn commit(&self, prepared: Prepared, next: Next<'_>) -> Result<()>;

    /// Carries out a [`crate::Op::WriteZeroes`], [`crate::Op::Discard`] or [`crate::Op::Flush`], bumping the generations
    /// before it returns.
    ///
    /// Its future may be dropped while I/O of its own is under way: what goes to a cluster is written with a buffer
    /// that carries what keeps the cluster ([`Lease::carry`]), not zeroed without one.
    fn change<'a>(&'a self, rq: Request, next: Next<'a>) -> LocalFut<'a, Result<()>>;

    /// The generation of the 2 MiB region around `offset`; `None` when mappings there never change.
    fn generation(&self, offset: u64) -> Option<&AtomicU32>;
}

/// Room that a format has allocated for guest bytes which it does not map yet.
///
/// The core writes all of `guest` to the child before it commits. Dropping it gives the room back; it travels
/// with the buffers that are written there, so that this happens only after their I/O has ended.
pub struct Prepared {
    /// The guest bytes (whole clusters, clipped to the virtual size) that commit will map.
    pub guest: ByteRange,
    /// The child that holds the room.
    pub child: ChildIndex,
    /// Offset in that child of the first byte of `guest`.
    pub offset: u64,
    /// What the format needs to commit; its drop gives the room back.
    pub token: Box<dyn Any + Send>,
}

/// A node's view of what lies below it. Drivers reach their children through this and nothing else.
#[derive(Clone, Copy)]
pub struct Next<'a> {
    view: &'a View,
    index: ViewIndex,
}

impl<'a> Next<'a> {
    pub(crate) fn new(view: &'a View, index: ViewIndex) -> Self {
        Self { view, index }
    }

    /// The same for work that outlives the request that began it (a store behind a read). Whoever drains the view
    /// waits for it.
    pub fn hold(&self) -> Hold {
        // Views are only ever lent out of the Arc that they were built in.
        let view = self.view.another().expect("a view that is borrowed is alive");
        Hold { view, index: self.index }
    }

    /// The node that this is the view of.
    pub fn node(&self) -> &'a Node {
        self.view.node(self.index)
    }

    /// Version of the view that this belongs to (see [`View::version`]).
    pub fn version(&self) -> u64 {
        self.view.version()
    }

    /// The bit of this filter in [`Request::acted`].
    pub fn slot(&self) -> u64 {
        self.view.slot(self.index)
    }

    /// Tells when freed clusters of this node have no readers left.
    pub fn reclaim(&self) -> &'a Reclaim {
        self.node().reclaim()
    }

    /// Number of children.
    pub fn children(&self) -> usize {
        self.view.children(self.index).len()
    }

    /// The backing child, if there is one.
    pub fn backing(&self) -> Option<ChildIndex> {
        self.view.backing_child(self.index)
    }

    fn child(&self, child: ChildIndex) -> Result<ViewIndex> {
        self.view.child(self.index, child)
    }

    /// Size of a child in bytes.
    pub fn size(&self, child: ChildIndex) -> Result<u64> {
        Ok(self.view.size_of(self.child(child)?))
    }

    /// Whether writes beyond the end of a child make it longer: it is carried out by a node that can be resized.
    pub fn grows(&self, child: ChildIndex) -> Result<bool> {
        Ok(self.view.grows(self.child(child)?))
    }

    /// Limits of a child.
    pub fn limits(&self, child: ChildIndex) -> Result<Limits> {
        Ok(*self.view.limits_of(self.child(child)?))
    }

    /// Passes a request to a child as far as that needs no wait. Only from within [`Execute::try_now`]: the
    /// mappings below are used under the guard of the turn.
    pub fn try_now(&self, child: ChildIndex, rq: &mut Request, window: Window<'_>) -> Result<Now> {
        walk::try_now(self.view, self.child(child)?, rq, window)
    }

    /// Passes a request to a child. The request must lie within the child (a read may reach beyond its end
    /// and gets zeros there).
    pub fn execute(&self, child: ChildIndex, rq: Request, lease: Lease) -> LocalFut<'a, (Result<()>, Lease)> {
        match self.child(child) {
            Ok(index) => walk::execute(self.view, index, rq, lease),
            Err(error) => Box::pin(async move { (Err(error), lease) }),
        }
    }

    /// Makes a child `size` bytes long.
    pub fn resize(&self, child: ChildIndex, size: u64) -> LocalFut<'a, Result<()>> {
        match self.child(child) {
            Ok(index) => walk::resize(self.view, index, size),
            Err(error) => Box::pin(async move { Err(error) }),
        }
    }

    /// Which parts of a child's `range` are data, zeros or holes.
    pub fn extents(&self, child: ChildIndex, range: ByteRange) -> LocalFut<'a, Result<Vec<Extent>>> {
        match self.child(child) {
            Ok(index) => walk::extents(self.view, index, range),
            Err(error) => Box::pin(async move { Err(error) }),
        }
    }

    /// In what units (bytes) that which [`Next::held_now`] tells of is allocated: below filters, too. 1 where nothing
    /// is.
    pub fn granule(&self, child: ChildIndex) -> Result<u64> {
        Ok(walk::granule(self.view, self.child(child)?))
    }

    /// Whether the first bytes of a child's `range` are held by the child itself (its first format layer),
    /// and how many share that answer. `None`: a table has to be loaded, see [`Next::held`].
    pub fn held_now(&self, child: ChildIndex, range: ByteRange) -> Result<Option<(bool, u64)>> {
        walk::held_now(self.view, self.child(child)?, range)
    }

    /// As [`Next::held_now`], loading tables as needed.
    pub async fn held(&self, child: ChildIndex, range: ByteRange) -> Result<(bool, u64)> {
        walk::held(self.view, self.child(child)?, range).await
    }
}

/// A [`Next`] that holds its view.
pub struct Hold {
    view: Arc<View>,
    index: ViewIndex,
}

impl Hold {
    /// The view of what lies below.
    pub fn next(&self) -> Next<'_> {
        Next { view: &self.view, index: self.index }
    }
}
