//! What a node can have done by its children.

use block::{ByteRange, ChildIndex, Extent, Result};
use io::{Lease, LocalFut};

use super::{execute, extents, granule, held, held_now, quota, resize, try_now};
use crate::next::Next;
use crate::powers::Quota;
use crate::request::{Now, Request, Window};

impl<'a> Next<'a> {
    /// Passes a request to a child as far as that needs no wait. Only from within [`Execute::try_now`]: the
    /// mappings below are used under the guard of the turn.
    pub fn try_now(&self, child: ChildIndex, rq: &mut Request, window: Window<'_>) -> Result<Now> {
        try_now(self.view, self.child(child)?, rq, window)
    }

    /// Passes a request to a child. The request must lie within the child (a read may reach beyond its end
    /// and gets zeros there).
    pub fn execute(&self, child: ChildIndex, rq: Request, lease: Lease) -> LocalFut<'a, (Result<()>, Lease)> {
        match self.child(child) {
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

    /// In what units (bytes) that which [`Next::held_now`] tells of is allocated: below filters, too. 1 where nothing
    /// is.
    pub fn granule(&self, child: ChildIndex) -> Result<u64> {
        Ok(granule(self.view, self.child(child)?))
    }

    /// The bound on what [`Next::held_now`] tells of, if there is one: below filters, too.
    pub fn quota(&self, child: ChildIndex) -> Result<Option<&'a dyn Quota>> {
        Ok(quota(self.view, self.child(child)?))
    }

    /// Whether the first bytes of a child's `range` are held by the child itself (its first format layer),
    /// and how many share that answer. `None`: a table has to be loaded, see [`Next::held`].
    pub fn held_now(&self, child: ChildIndex, range: ByteRange) -> Result<Option<(bool, u64)>> {
        held_now(self.view, self.child(child)?, range)
    }

    /// As [`Next::held_now`], loading tables as needed.
    pub async fn held(&self, child: ChildIndex, range: ByteRange) -> Result<(bool, u64)> {
        held(self.view, self.child(child)?, range).await
    }
}
