//! The graph as it would be after some edits: each edit changes rows of an overlay, nothing else.
//!
//! Invariants: the primitives ([`Draft::link`], [`Draft::unlink`], ...) keep the tables consistent with each other
//! and note what has to be looked at before the draft may become a plan: whose demands change (`dirty`), below
//! whom the shape changed (`reshaped`), who lost a parent (`orphans`). Cycles and permissions are not checked here.

use std::cell::Cell;
use std::collections::BTreeSet;
use std::sync::Arc;

use block::{BlockError, ErrorKind, Result};
use flow::{Body, NodeId, Role};

use crate::operations::{self, Condition, Operation, Words};
use crate::overlay::Overlay;
use crate::permissions::Demand;
use crate::tables::{Edge, NodeRow, Parent, RootRow, Tables, parents_of, users_of};
use crate::user::{RootId, User, UserKind};

pub(crate) struct Draft<'a> {
    pub(crate) nodes: Overlay<'a, NodeId, NodeRow>,
    pub(crate) names: Overlay<'a, Arc<str>, NodeId>,
    pub(crate) parents: Overlay<'a, (NodeId, Parent), ()>,
    pub(crate) roots: Overlay<'a, RootId, RootRow>,
    /// Nodes whose parents' demands, children or flags changed.
    pub(crate) dirty: BTreeSet<NodeId>,
    /// Nodes that look different to those above.
    pub(crate) reshaped: BTreeSet<NodeId>,
    /// Users that were attached, moved or changed.
    pub(crate) moved: BTreeSet<RootId>,
    /// Nodes that lost a parent, or came without one.
    pub(crate) orphans: BTreeSet<NodeId>,
    /// Edges that were added: a cycle goes through one of them.
    pub(crate) linked: Vec<(NodeId, Role)>,
    visited: Cell<usize>,
}

/// What kind of node a body makes.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Protocol,
    Format,
    Filter,
}

impl Kind {
    pub(crate) fn of(body: &Body) -> Self {
        match body {
            Body::Maps(_) => Self::Format,
            Body::Executes(node) if node.size().is_some() => Self::Protocol,
            Body::Executes(_) => Self::Filter,
        }
    }

    /// Whether it may have a child of this role; which ones a format needs, its driver knows.
    const fn takes(self, role: Role) -> bool {
        match self {
            Self::Protocol => false,
            Self::Format => true,
            Self::Filter => matches!(role, Role::Filtered),
        }
    }
}

impl<'a> Draft<'a> {
    pub(crate) fn new(tables: &'a Tables) -> Self {
        Self {
            nodes: Overlay::new(&tables.nodes),
            names: Overlay::new(&tables.names),
            parents: Overlay::new(&tables.parents),
            roots: Overlay::new(&tables.roots),
            dirty: BTreeSet::new(),
            reshaped: BTreeSet::new(),
            moved: BTreeSet::new(),
            orphans: BTreeSet::new(),
            linked: Vec::new(),
            visited: Cell::new(0),
        }
    }

    /// How many nodes and parents were looked at so far.
    pub(crate) fn visited(&self) -> usize {
        self.visited.get()
    }

    fn visit(&self) {
        self.visited.set(self.visited.get() + 1);
    }

    pub(crate) fn node(&self, id: NodeId) -> Result<&NodeRow> {
        self.visit();
        self.nodes.get(&id).ok_or_else(|| missing(id))
    }

    pub(crate) fn node_mut(&mut self, id: NodeId) -> Result<&mut NodeRow> {
        self.visit();
        self.nodes.get_mut(&id).ok_or_else(|| missing(id))
    }

    pub(crate) fn name(&self, id: NodeId) -> Result<Arc<str>> {
        Ok(self.node(id)?.node.name().clone())
    }

    pub(crate) fn root(&self, id: RootId) -> Result<&RootRow> {
        self.roots.get(&id).ok_or_else(|| no_root(id))
    }

    pub(crate) fn parents(&self, child: NodeId) -> impl Iterator<Item = Parent> {
        self.parents.range(parents_of(child)).inspect(|_| self.visit()).map(|((_, parent), ())| *parent)
    }

    /// The node that `filter`, which must be one, passes requests to.
    pub(crate) fn filtered(&self, filter: NodeId) -> Result<NodeId> {
        let row = self.node(filter)?;
        match row.child(Role::Filtered) {
            Some(edge) if Kind::of(row.node.body()) == Kind::Filter => Ok(edge.child),
            _ => {
                let context = format!("Node '{}' is not a filter", row.node.name());
                Err(BlockError::new(ErrorKind::Invalid, context))
            }
        }
    }

    /// `top` and all nodes that it stands on.
    pub(crate) fn below(&self, top: NodeId) -> Result<BTreeSet<NodeId>> {
        let (mut seen, mut ahead) = (BTreeSet::from([top]), vec![top]);
        while let Some(id) = ahead.pop() {
            ahead.extend(self.node(id)?.children.iter().map(|e| e.child).filter(|c| seen.insert(*c)));
        }
        Ok(seen)
    }

    /// Gives `parent`, which has no child of this role, one.
    pub(crate) fn link(&mut self, parent: NodeId, role: Role, child: NodeId) -> Result<()> {
        self.node(child)?;
        let row = self.node_mut(parent)?;
        if !Kind::of(row.node.body()).takes(role) {
            let context = format!("node {:?} cannot have a '{}' child", row.node, role.name());
            return Err(BlockError::new(ErrorKind::Invalid, context));
        }
        let children = &mut row.children;
        let at = children.iter().position(|e| e.role > role).unwrap_or(children.len());
        children.insert(at, Edge { role, child, demand: Demand::NOTHING });
        self.parents.insert((child, Parent::Node(parent, role)), ());
        self.linked.push((parent, role));
        self.reshape(parent);
        Ok(())
    }

    /// Takes a child from `parent`, if it has one of this role.
    pub(crate) fn unlink(&mut self, parent: NodeId, role: Role) -> Result<()> {
        let row = self.node_mut(parent)?;
        let Some(at) = row.children.iter().position(|e| e.role == role) else { return Ok(()) };
        let edge = row.children.remove(at);
        self.leave(edge.child, Parent::Node(parent, role), edge.demand)?;
        self.reshape(parent);
        Ok(())
    }

    /// Its parent of that demand is gone.
    fn leave(&mut self, child: NodeId, parent: Parent, demand: Demand) -> Result<()> {
        self.node_mut(child)?.tally.remove(demand);
        self.parents.remove(&(child, parent));
        self.dirty.insert(child);
        self.orphans.insert(child);
        Ok(())
    }

    /// The node looks different to those above and may demand something else of its children.
    pub(crate) fn reshape(&mut self, id: NodeId) {
        self.dirty.insert(id);
        self.reshaped.insert(id);
    }

    pub(crate) fn attach(&mut self, id: RootId, row: RootRow) -> Result<()> {
        self.node_mut(row.at)?.tally.add(row.demand);
        self.parents.insert((row.at, Parent::Root(id)), ());
        self.dirty.insert(row.at);
        self.moved.insert(id);
        self.roots.insert(id, row);
        Ok(())
    }

    pub(crate) fn detach(&mut self, id: RootId) -> Result<RootRow> {
        let row = self.root(id)?.clone();
        self.leave(row.at, Parent::Root(id), row.demand)?;
        self.roots.remove(&id);
        self.moved.insert(id);
        Ok(row)
    }

    pub(crate) fn move_root(&mut self, id: RootId, to: NodeId) -> Result<()> {
        let row = self.detach(id)?;
        self.attach(id, RootRow { at: to, ..row })
    }

    /// Takes a node without parents out of the graph, and with it the children that only it had.
    pub(crate) fn remove_unreferenced(&mut self, id: NodeId) -> Result<()> {
        let mut ahead = vec![id];
        while let Some(id) = ahead.pop() {
            let Some(row) = self.nodes.get(&id) else { continue };
            if row.owned || self.parents(id).next().is_some() {
                continue;
            }
            let (name, children) = (row.node.name().clone(), row.children.clone());
            for edge in children {
                self.unlink(id, edge.role)?;
                ahead.push(edge.child);
            }
            self.names.remove(&name);
            self.nodes.remove(&id);
        }
        Ok(())
    }

    /// Fails when the table of operations refuses `operation` on the node; `link` is the one that it is about.
    pub(crate) fn permitted(&self, operation: Operation, node: NodeId, link: Option<Role>) -> Result<()> {
        let row = self.node(node)?;
        for rule in operations::rules(operation) {
            let Some(by) = self.condition(row, node, rule.condition)? else { continue };
            let child = match link.and_then(|role| row.child(role)) {
                Some(edge) => self.name(edge.child)?,
                None => Arc::from(""),
            };
            let role = link.map_or("", Role::name);
            return Err(rule.refusal(Words { node: row.node.name(), by: &by, role, child: &child }));
        }
        Ok(())
    }

    /// Who brings it about that the node is in this condition; nobody when it is not.
    fn condition(&self, row: &NodeRow, id: NodeId, condition: Condition) -> Result<Option<Arc<str>>> {
        let nameless = |holds: bool| holds.then(|| Arc::from(""));
        Ok(match condition {
            Condition::NotOwned => nameless(!row.owned),
            Condition::ReadOnly => nameless(row.read_only),
            Condition::HasParents => self.parent_node(id, |_| true)?,
            Condition::UsedAsBacking => self.parent_node(id, |role| role == Role::Backing)?,
            Condition::UsedByExport => self.user(id, |user| !matches!(user.kind(), UserKind::Job(_))),
            Condition::UsedByJob => self.user(id, |user| matches!(user.kind(), UserKind::Job(_))),
            Condition::PinnedByJob => self.user(id, |user| !user.follows()),
        })
    }

    fn parent_node(&self, id: NodeId, fits: impl Fn(Role) -> bool) -> Result<Option<Arc<str>>> {
        let found = self.parents(id).find_map(|parent| match parent {
            Parent::Node(node, role) if fits(role) => Some(node),
            _ => None,
        });
        found.map(|node| self.name(node)).transpose()
    }

    /// The type of the job that fits, or nothing of another user that does.
    fn user(&self, id: NodeId, fits: impl Fn(&User) -> bool) -> Option<Arc<str>> {
        self.parents.range(users_of(id)).inspect(|_| self.visit()).find_map(
            |((_, parent), ())| match parent {
                Parent::Root(root) => match &self.roots.get(root)?.user {
                    user if !fits(user) => None,
                    user => Some(user.job_type().unwrap_or_default()),
                },
                Parent::Node(..) => None,
            },
        )
    }
}

#[cold]
pub(crate) fn missing(id: NodeId) -> BlockError {
    BlockError::new(ErrorKind::NotFound, format!("there is no node number {}", id.0))
}

#[cold]
pub(crate) fn no_root(id: RootId) -> BlockError {
    BlockError::new(ErrorKind::NotFound, format!("there is no root number {}", id.0))
}
