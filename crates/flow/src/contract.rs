//! The two kinds of nodes.

use std::any::Any;
use std::sync::Arc;
use std::sync::atomic::AtomicU32;

use block::{BlockError, ByteRange, ChildIndex, Extent, ExtentState, Mapping, Result};
use io::{Lease, LocalFut};

use crate::next::Next;
use crate::node::Limits;
use crate::powers::Powers;
use crate::prepared::Prepared;
use crate::recorder::Recorder;
use crate::request::{Now, Op, Request, Window};

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
    /// older views ([`View::newest_version`](crate::View::newest_version)) that come yet.
    fn release(&self) {}

    /// The process is about to end: requests that wait here for their moment, now or later, go on at once, and those
    /// that wait for what may never come fail. What is being carried out goes on.
    fn call_off(&self) {}

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

    /// Where the format keeps room for the first bytes of `run`, of which [`Format::map_now`] has just said that they
    /// read as zeros or are not held, and how many share the answer: for those who show where things are.
    fn kept_room(&self, run: ByteRange) -> Result<(Option<(ChildIndex, u64)>, u64)> {
        Ok((None, run.len()))
    }

    /// [`Format::map_now`] was an error for who reads (or only looks) or writes at `range`; answers the error that he
    /// is told.
    fn unmapped(&self, error: BlockError, _op: Op, _range: ByteRange, _next: Next<'_>) -> BlockError {
        error
    }

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
///
/// The children in `next` are those of one view. Requests on other views of the node, older or newer, may run at the
/// same time with others: what is no longer allocated shows *their* backing child.
pub trait Changes: Send + Sync {
    /// Allocates room for the first bytes of `range`, which are not writable in place. `None` when they are
    /// by now. Touches no mapping that a reader could see.
    fn prepare<'a>(&'a self, range: ByteRange, next: Next<'a>) -> LocalFut<'a, Result<Option<Prepared>>>;

    /// Whether the room reads as zeros where nobody has written yet, also after a crash: zeros need not be copied
    /// around new bytes then.
    fn is_clean(&self, _prepared: &Prepared) -> bool {
        false
    }

    /// Maps what was prepared and written; bumps the generations before it returns. Memory only: a flush
    /// makes it durable, after the data.
    fn commit(&self, prepared: Prepared, next: Next<'_>) -> Result<()>;

    /// Carries out a [`crate::Op::WriteZeroes`], [`crate::Op::Discard`] or [`crate::Op::Flush`], bumping the
    /// generations before it returns.
    ///
    /// Its future may be dropped while I/O of its own is under way: what goes to a cluster is written with a buffer
    /// that carries what keeps the cluster ([`Lease::carry`]), not zeroed without one.
    fn change<'a>(&'a self, rq: Request, next: Next<'a>) -> LocalFut<'a, Result<()>>;

    /// Who is told of each change, while anything is recorded. What it answers is looked at when a view is built as
    /// well: whoever begins to record has the views that are in use built anew, and counts from when the older ones are
    /// gone.
    fn recorder(&self) -> Option<&dyn Recorder> {
        None
    }

    /// What a recorded change waits for before it begins: that its file says so.
    fn admit<'a>(&'a self, _next: Next<'a>) -> LocalFut<'a, Result<()>> {
        Box::pin(async { Ok(()) })
    }

    /// Nobody is going to change it for now: what says in its file that somebody is goes, once all else is durable, and
    /// comes back before the next change. Changes that are under way do no harm.
    fn rest<'a>(&'a self, _next: Next<'a>) -> LocalFut<'a, Result<()>> {
        Box::pin(async { Ok(()) })
    }

    /// The generation of the 2 MiB region around `offset`; `None` when mappings there never change.
    fn generation(&self, offset: u64) -> Option<&AtomicU32>;
}
