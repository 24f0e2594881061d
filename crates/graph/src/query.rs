//! Asking the graph what is there.

use std::sync::Arc;

use block::{Permissions, Result};
use flow::{DetectZeroes, Node, NodeId};

use crate::draft::Draft;
use crate::graph::Graph;
use crate::permissions::Demand;
use crate::tables::{Edge, NodeRow, Parent, parents_of};
use crate::user::{RootId, User};

/// A node, as queries see it.
#[derive(Clone, Copy)]
pub struct NodeInfo<'a> {
    /// The node.
    pub node: &'a Arc<Node>,
    /// The user holds a reference to it.
    pub owned: bool,
    /// It refuses writes.
    pub read_only: bool,
    /// What becomes of writes of zeros.
    pub detect_zeroes: DetectZeroes,
    /// Its children, in the order of roles.
    pub children: &'a [Edge],
    /// What all its users together demand.
    pub demand: Demand,
    /// References to it: its parents and users, and the user's own.
    pub references: usize,
}

/// An edge, as `x-debug-query-block-graph` shows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EdgeInfo {
    /// Who is above.
    pub parent: Parent,
    /// Who is below.
    pub child: NodeId,
    /// What the child is to the parent.
    pub name: &'static str,
    /// What the parent does with the child.
    pub uses: Permissions,
    /// What it lets others do.
    pub shares: Permissions,
}

/// A user, as queries see it.
#[derive(Clone, Copy)]
pub struct UserInfo<'a> {
    /// Its root.
    pub root: RootId,
    /// Who.
    pub user: &'a User,
    /// The node that it is attached to.
    pub node: NodeId,
    /// What it demands of the node.
    pub demand: Demand,
}

impl Graph {
    /// Number of nodes.
    pub fn len(&self) -> usize {
        self.tables.nodes.len()
    }

    /// Whether there is no node.
    pub fn is_empty(&self) -> bool {
        self.tables.nodes.is_empty()
    }

    /// A node.
    pub fn node(&self, id: NodeId) -> Result<NodeInfo<'_>> {
        match self.tables.nodes.get(&id) {
            Some(row) => Ok(self.info(id, row)),
            None => Err(crate::draft::missing(id)),
        }
    }

    /// All nodes, oldest first.
    pub fn nodes(&self) -> impl Iterator<Item = NodeInfo<'_>> {
        self.tables.nodes.iter().map(|(id, row)| self.info(*id, row))
    }

    fn info<'a>(&self, id: NodeId, row: &'a NodeRow) -> NodeInfo<'a> {
        NodeInfo {
            node: &row.node,
            owned: row.owned,
            read_only: row.read_only,
            detect_zeroes: row.detect_zeroes,
            children: &row.children,
            demand: row.tally.demand(),
            references: self.parents(id).count() + usize::from(row.owned),
        }
    }

    /// Who is directly above a node.
    pub fn parents(&self, id: NodeId) -> impl Iterator<Item = Parent> {
        self.tables.parents.range(parents_of(id)).map(|((_, parent), ())| *parent)
    }

    /// All users, oldest first.
    pub fn users(&self) -> impl Iterator<Item = UserInfo<'_>> {
        let info = |(id, row): (&RootId, &'_ crate::tables::RootRow)| (*id, row.at, row.demand);
        self.tables.roots.iter().map(move |entry| {
            let (root, node, demand) = info(entry);
            UserInfo { root, user: &entry.1.user, node, demand }
        })
    }

    /// All edges: those of nodes, then those of users.
    pub fn edges(&self) -> impl Iterator<Item = EdgeInfo> {
        let of_nodes = self.tables.nodes.iter().flat_map(|(id, row)| {
            row.children.iter().map(|edge| EdgeInfo {
                parent: Parent::Node(*id, edge.role),
                child: edge.child,
                name: edge.role.name(),
                uses: edge.demand.uses,
                shares: edge.demand.shares,
            })
        });
        of_nodes.chain(self.users().map(|user| EdgeInfo {
            parent: Parent::Root(user.root),
            child: user.node,
            name: user.user.edge(),
            uses: user.demand.uses,
            shares: user.demand.shares,
        }))
    }

    /// What the node's locks were told last: its users' demand, and what requests in flight still need. `None` of
    /// a node without locks.
    pub fn permitted_to(&self, id: NodeId) -> Option<Demand> {
        self.permits.told(id)
    }

    /// What a user of `node` sees.
    pub fn view(&self, node: NodeId) -> Result<Arc<flow::View>> {
        Draft::new(&self.tables).compile(node)
    }
}
