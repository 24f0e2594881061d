//! The structure of the graph as tables: nodes, names, who is above whom, users.
//!
//! Invariants: every child edge of a row in `nodes` and every row in `roots` has its row in `parents`, and the
//! other way round; a node's tally counts the demands of exactly its parents.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;
use std::sync::Arc;

use flow::{DetectZeroes, Node, NodeId, Role, Root};

use crate::permissions::{Demand, EdgeDemand};
use crate::tally::Tally;
use crate::user::{RootId, User};

/// Who is directly above a node.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Hash)]
pub enum Parent {
    /// A node, to which it is a child of this role.
    Node(NodeId, Role),
    /// A user.
    Root(RootId),
}

impl Parent {
    /// Before and behind all others.
    const ENDS: (Self, Self) = (Self::Node(NodeId(0), Role::File), Self::Root(RootId(u64::MAX)));
}

/// An edge to a child.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Edge {
    /// What the child is.
    pub role: Role,
    /// Which node it is.
    pub child: NodeId,
    /// What the edge demands of it.
    pub demand: Demand,
}

#[derive(Clone)]
pub(crate) struct NodeRow {
    pub(crate) node: Arc<Node>,
    /// The user's own reference: it was added by name and stays until it is deleted.
    pub(crate) owned: bool,
    pub(crate) read_only: bool,
    pub(crate) detect_zeroes: DetectZeroes,
    /// At most one of each role, in the order of roles.
    pub(crate) children: Vec<Edge>,
    /// What the node asks of children beyond their roles.
    pub(crate) extra: Vec<(Role, EdgeDemand)>,
    /// What its parents demand.
    pub(crate) tally: Tally,
}

impl NodeRow {
    pub(crate) fn child(&self, role: Role) -> Option<&Edge> {
        self.children.iter().find(|edge| edge.role == role)
    }

    pub(crate) fn extra(&self, role: Role) -> EdgeDemand {
        self.extra.iter().find(|(r, _)| *r == role).map_or(EdgeDemand::default(), |(_, extra)| *extra)
    }
}

#[derive(Clone)]
pub(crate) struct RootRow {
    pub(crate) at: NodeId,
    pub(crate) user: User,
    pub(crate) demand: Demand,
    /// `None` only until the edit that attaches it is applied.
    pub(crate) root: Option<Arc<Root>>,
}

#[derive(Default)]
pub(crate) struct Tables {
    pub(crate) nodes: BTreeMap<NodeId, NodeRow>,
    pub(crate) names: BTreeMap<Arc<str>, NodeId>,
    pub(crate) parents: BTreeMap<(NodeId, Parent), ()>,
    pub(crate) roots: BTreeMap<RootId, RootRow>,
}

/// The keys of all parents of a node.
pub(crate) fn parents_of(child: NodeId) -> RangeInclusive<(NodeId, Parent)> {
    (child, Parent::ENDS.0)..=(child, Parent::ENDS.1)
}

/// The keys of the parents of a node that are users: a base image may have thousands of others.
pub(crate) fn users_of(child: NodeId) -> RangeInclusive<(NodeId, Parent)> {
    (child, Parent::Root(RootId(0)))..=(child, Parent::ENDS.1)
}
