//! What a node can have done by its children.

use block::{ByteRange, ChildIndex, Extent, Result};
use io::{Lease, LocalFut};

use super::{Whence, execute, extents, granule, quota, resize, try_now, whence, whence_now};
use crate::next::Next;
use crate::node::{Body, NodeId};
use crate::powers::Quota;
use crate::request::{Now, Op, Request, Window};
use crate::view::{View, ViewIndex};

impl<'a> Next<'a> {
    /// Passes a request to a child as far as that needs no wait. Only from within
    /// [`Execute::try_now`](crate::Execute::try_now): the mappings below are used under the guard of the turn.
    pub fn try_now(&self, child: ChildIndex, rq: &mut Request, window: Window<'_>) -> Result<Now> {
        try_now(self.view, self.child(child)?, rq, window)
    }

    /// Passes a request to a child. The request must lie within the child (a read may reach beyond its end
    /// and gets zeros there).
    pub fn execute(&self, child: ChildIndex, rq: Request, lease: Lease) -> LocalFut<'a, (Result<()>, Lease)> {
        match self.child(child) {
            Ok(index) if rq.op == Op::Read && ends_before(self.view, index, rq.range) => {
                Box::pin(read_beyond(self.view, index, rq, lease))
            }
            Ok(index) => execute(self.view, index, rq, lease),
            Err(error) => Box::pin(async move { (Err(error), lease) }),
        }
    }

    /// Makes a child `size` bytes long.
    pub fn resize(&self, child: ChildIndex, size: u64) -> LocalFut<'a, Result<()>> {
        match self.child(child) {
            Ok(index) => resize(self.view, index, size),
            Err(error) => Box::pin(async move { Err(error) }),
        }
    }

    /// Which parts of a child's `range` are data, zeros or holes.
    pub fn extents(&self, child: ChildIndex, range: ByteRange) -> LocalFut<'a, Result<Vec<Extent>>> {
        match self.child(child) {
            Ok(index) => extents(self.view, index, range),
            Err(error) => Box::pin(async move { Err(error) }),
        }
    }

    /// In what units (bytes) that which [`Next::whence_now`] tells of is allocated: below filters, too. 1 where nothing
    /// is.
    pub fn granule(&self, child: ChildIndex) -> Result<u64> {
        Ok(granule(self.view, self.child(child)?))
    }

    /// The bound on what [`Next::whence_now`] tells of, if there is one: below filters, too.
    pub fn quota(&self, child: ChildIndex) -> Result<Option<&'a dyn Quota>> {
        Ok(quota(self.view, self.child(child)?))
    }

    /// Which layer has the first bytes of a child's `range`: the child itself (its first format layer), one between it
    /// and `bottom` (all that lie below it without one), or one further below; and how many bytes share that answer.
    /// `None`: a table has to be loaded, see [`Next::whence`].
    pub fn whence_now(
        &self,
        child: ChildIndex,
        bottom: Option<NodeId>,
        range: ByteRange,
    ) -> Result<Option<(Whence, u64)>> {
        whence_now(self.view, self.child(child)?, bottom, range)
    }

    /// As [`Next::whence_now`], loading tables as needed.
    pub async fn whence(
        &self,
        child: ChildIndex,
        bottom: Option<NodeId>,
        range: ByteRange,
    ) -> Result<(Whence, u64)> {
        whence(self.view, self.child(child)?, bottom, range).await
    }
}

/// Whether a format ends within the range. What lies below it would show there, longer than it is itself.
fn ends_before(view: &View, index: ViewIndex, range: ByteRange) -> bool {
    matches!(view.node(index).body(), Body::Maps(_)) && range.end() > view.size_of(index)
}

/// Reads up to the end of a node, and zeros behind it.
async fn read_beyond(view: &View, index: ViewIndex, rq: Request, mut lease: Lease) -> (Result<()>, Lease) {
    let inside = rq.range.head(view.size_of(index).saturating_sub(rq.range.start()));
    let mut head = lease.split_to(inside.len() as usize);
    lease.fill(0);
    let mut outcome = Ok(());
    if u64::from(rq.done) < inside.len() {
        let part = Request { range: inside, ..rq };
        (outcome, head) = execute(view, index, part, head).await;
    }
    head.join(lease);
    (outcome, head)
}
