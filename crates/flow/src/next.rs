//! How a node reaches what lies below it. What it can have done there is the walk's ([`crate::walk`]).

use std::sync::Arc;

use block::{ByteRange, ChildIndex, Result};

use crate::guard::Reclaim;
use crate::locks::RangeGuard;
use crate::node::{Limits, Node};
use crate::view::{View, ViewIndex};

/// A node's view of what lies below it. Drivers reach their children through this and nothing else.
#[derive(Clone, Copy)]
pub struct Next<'a> {
    pub(crate) view: &'a View,
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

    /// The bit of this filter in [`Request::acted`](crate::Request::acted).
    pub fn slot(&self) -> u64 {
        self.view.slot(self.index)
    }

    /// Tells when freed clusters of this node have no readers left.
    pub fn reclaim(&self) -> &'a Reclaim {
        self.node().reclaim()
    }

    /// Holds all of this node until the answer is dropped: who allocates, zeroes or discards there has ended, or waits.
    /// Writes in place and reads go on. For drivers who change what their tables cover, from a task that nobody can
    /// drop.
    pub async fn lock_all(&self) -> RangeGuard {
        self.node().state().locks.exclusive(ByteRange::between(0, u64::MAX)).await
    }

    /// Number of children.
    pub fn children(&self) -> usize {
        self.view.children(self.index).len()
    }

    /// The backing child, if there is one.
    pub fn backing(&self) -> Option<ChildIndex> {
        self.view.backing_child(self.index)
    }

    pub(crate) fn child(&self, child: ChildIndex) -> Result<ViewIndex> {
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
