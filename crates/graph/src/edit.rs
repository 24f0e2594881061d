//! Edits of the graph, as data.

use std::fmt;
use std::sync::Arc;

use flow::{Body, DetectZeroes, Node, NodeId, Role};

use crate::permissions::{Demand, EdgeDemand};
use crate::user::{RootId, User};

/// One change of the graph. A list of them is checked whole and applied whole, see [`crate::Graph::check`].
#[derive(Clone, Debug)]
pub enum Edit {
    /// Adds a node.
    AddNode(NewNode),
    /// Gives up the user's own reference to a node that nobody uses, and with it the node and the children
    /// that only it had.
    DeleteNode(NodeId),
    /// Gives a node another child of a role, a first one, or (only `backing`) none.
    ReplaceChild {
        /// Whose child.
        parent: NodeId,
        /// Which child.
        role: Role,
        /// The new child.
        child: Option<NodeId>,
    },
    /// Puts `with` in the place of `node`: for all parents and users of `node`, except those that `with` itself
    /// stands on (or is), and except jobs, whose roots stay.
    ReplaceNode {
        /// Which node is replaced. It stays in the graph while anybody refers to it.
        node: NodeId,
        /// What comes in its place.
        with: NodeId,
    },
    /// Puts a filter, whose filtered child is in place already, above that child.
    InsertFilter {
        /// The filter.
        filter: NodeId,
        /// Who shall go through it.
        at: Place,
    },
    /// Takes a filter out: all its parents and users go to its filtered child. Requests that wait in it go on.
    RemoveFilter(NodeId),
    /// Gives a node another body, other children or other flags; its locks, guards and name stay.
    Reopen(Reopen),
    /// Refuses writes from now on, or takes them. Writes that are in flight then may be refused: drain first.
    SetReadOnly {
        /// Which node.
        node: NodeId,
        /// Whether writes are refused.
        read_only: bool,
    },
    /// Attaches a user to a node.
    AttachRoot {
        /// Its root, from [`crate::Graph::new_root`].
        root: RootId,
        /// To which node.
        node: NodeId,
        /// Who.
        user: User,
        /// What it does there and lets others do.
        demand: Demand,
    },
    /// Detaches a user. Requests that still come through its root are answered with an error.
    DetachRoot(RootId),
    /// Moves a user to another node.
    MoveRoot {
        /// Whose root.
        root: RootId,
        /// To which node.
        to: NodeId,
    },
    /// Changes what a user does and lets others do.
    SetDemand {
        /// Whose root.
        root: RootId,
        /// From now on.
        demand: Demand,
    },
}

/// Who goes through an inserted filter.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Place {
    /// Every parent and user of the filtered child, except jobs.
    Above,
    /// One parent.
    Edge {
        /// The parent.
        parent: NodeId,
        /// What the child is to it.
        role: Role,
    },
    /// One user.
    Root(RootId),
}

/// A node to be added.
#[derive(Clone, Debug)]
pub struct NewNode {
    /// The node, from [`crate::Graph::new_node`].
    pub node: Arc<Node>,
    /// Its children.
    pub children: Vec<Child>,
    /// Refuses writes.
    pub read_only: bool,
    /// What becomes of writes of zeros.
    pub detect_zeroes: DetectZeroes,
    /// The user holds a reference: it stays until it is deleted. Else it goes away with its last parent.
    pub owned: bool,
}

impl NewNode {
    /// A writable node without children that the user owns.
    pub fn new(node: Arc<Node>) -> Self {
        Self { node, children: Vec::new(), read_only: false, detect_zeroes: DetectZeroes::Off, owned: true }
    }

    /// With this child.
    #[must_use]
    pub fn child(mut self, role: Role, node: NodeId) -> Self {
        self.children.push(Child::new(role, node));
        self
    }

    /// With a child of which it asks more than the role says.
    #[must_use]
    pub fn demanding(mut self, role: Role, node: NodeId, extra: EdgeDemand) -> Self {
        self.children.push(Child { role, node, extra });
        self
    }

    /// Refusing writes.
    #[must_use]
    pub fn read_only(mut self) -> Self {
        self.read_only = true;
        self
    }

    /// Going away with its last parent, as a child that was given inline does.
    #[must_use]
    pub fn inline(mut self) -> Self {
        self.owned = false;
        self
    }
}

/// A child of a node.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Child {
    /// What it is.
    pub role: Role,
    /// Which node.
    pub node: NodeId,
    /// What the parent asks of it beyond the role; kept for the role when the child is replaced.
    pub extra: EdgeDemand,
}

impl Child {
    /// A child of which no more is asked than its role says.
    pub fn new(role: Role, node: NodeId) -> Self {
        Self { role, node, extra: EdgeDemand::default() }
    }
}

/// How a node is reopened; what is `None` stays as it is.
#[derive(Clone)]
pub struct Reopen {
    /// Which node.
    pub node: NodeId,
    /// Its new body.
    pub body: Option<Body>,
    /// All its children from now on.
    pub children: Option<Vec<Child>>,
    /// Whether it refuses writes.
    pub read_only: Option<bool>,
    /// What becomes of writes of zeros.
    pub detect_zeroes: Option<DetectZeroes>,
}

impl Reopen {
    /// Changes nothing yet.
    pub fn new(node: NodeId) -> Self {
        Self { node, body: None, children: None, read_only: None, detect_zeroes: None }
    }
}

impl fmt::Debug for Reopen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let body = self.body.as_ref().map(|_| "another");
        f.debug_struct("Reopen")
            .field("node", &self.node)
            .field("body", &body)
            .field("children", &self.children)
            .field("read_only", &self.read_only)
            .field("detect_zeroes", &self.detect_zeroes)
            .finish()
    }
}
