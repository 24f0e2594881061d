//! Edits that were checked, and making them.
//!
//! Invariants: making a plan fails before anything has changed (the graph was edited since, or a node could not
//! get its locks) or not at all. Locks first, then read-only flags, then views, then filters are released.

use std::collections::BTreeSet;
use std::sync::Arc;

use block::{BlockError, ErrorKind, Result};
use flow::{Body, Node, NodeId, NodeState, Retiring, Root, View, ViewBuilder};

use crate::closed::Closed;
use crate::draft::Draft;
use crate::drained::Drained;
use crate::graph::Graph;
use crate::overlay::{Changes, fold};
use crate::permissions::Demand;
use crate::permits::Change;
use crate::tables::{NodeRow, Parent, RootRow};
use crate::user::RootId;

/// Edits that were checked as a whole and wait to be made.
#[must_use = "a plan changes nothing until it is applied"]
pub struct Plan {
    /// Edits made before it was checked.
    pub(crate) edits_before: u64,
    pub(crate) nodes: Changes<NodeId, NodeRow>,
    pub(crate) names: Changes<Arc<str>, NodeId>,
    pub(crate) parents: Changes<(NodeId, Parent), ()>,
    pub(crate) roots: Changes<RootId, RootRow>,
    pub(crate) views: Vec<(RootId, Arc<View>)>,
    pub(crate) effort: Effort,
}

/// What a plan takes: grows with what it touches, not with the graph.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Effort {
    /// How often a node or a parent of one was looked at.
    pub visited: usize,
    /// Nodes that change.
    pub changed: usize,
    /// Views that are published.
    pub views: usize,
}

impl Plan {
    pub(crate) fn new(edits_before: u64, draft: Draft<'_>, views: Vec<(RootId, Arc<View>)>) -> Self {
        let visited = draft.visited();
        let nodes = draft.nodes.into_changes();
        let effort = Effort { visited, changed: nodes.len(), views: views.len() };
        Self {
            edits_before,
            nodes,
            names: draft.names.into_changes(),
            parents: draft.parents.into_changes(),
            roots: draft.roots.into_changes(),
            views,
            effort,
        }
    }

    /// What it takes.
    pub fn effort(&self) -> Effort {
        self.effort
    }
}

impl Graph {
    /// Makes the edits of `plan`, wholly; or fails and changes nothing, when a node cannot get its locks or the
    /// graph was edited since the plan was checked. Never waits: the answer tells when requests that began
    /// before have ended. A filter sees *every* write from then on.
    pub fn apply(&mut self, plan: Plan) -> Result<Drained> {
        self.settle();
        if plan.edits_before != self.edits {
            return Err(BlockError::new(
                ErrorKind::Busy,
                "the graph was edited meanwhile: check the edits again",
            ));
        }
        let hold = self.permits.take(self.demands(&plan))?;
        self.edits += 1;
        for row in plan.nodes.values().flatten() {
            row.node.set_read_only(row.read_only);
        }
        let detached: Vec<RootRow> = self.detached(&plan);
        fold(&mut self.tables.nodes, plan.nodes);
        fold(&mut self.tables.names, plan.names);
        fold(&mut self.tables.parents, plan.parents);
        fold(&mut self.tables.roots, plan.roots);
        let mut swept = Swept::default();
        for (id, view) in plan.views {
            self.publish(id, view, &mut swept);
        }
        for row in detached {
            self.close(&row, &mut swept);
        }
        swept.release(self);
        Ok(Drained::new(swept.retiring, Some(hold), &self.unwatched))
    }

    /// Nodes whose users demand something else, or whose body is another.
    fn demands(&self, plan: &Plan) -> Vec<Change> {
        let change = |(id, after): (&NodeId, &Option<NodeRow>)| {
            let before = self.tables.nodes.get(id);
            match (before, after) {
                (_, Some(row)) => {
                    Some(Change { node: row.node.clone(), demand: row.tally.demand(), removed: false })
                }
                (Some(row), None) => {
                    Some(Change { node: row.node.clone(), demand: Demand::NOTHING, removed: true })
                }
                (None, None) => None,
            }
        };
        plan.nodes.iter().filter_map(change).collect()
    }

    fn detached(&self, plan: &Plan) -> Vec<RootRow> {
        let gone = plan.roots.iter().filter(|(_, row)| row.is_none());
        gone.filter_map(|(id, _)| self.tables.roots.get(id).cloned()).collect()
    }

    fn publish(&mut self, id: RootId, view: Arc<View>, swept: &mut Swept) {
        let Some(row) = self.tables.roots.get_mut(&id) else { return };
        match &row.root {
            Some(root) => {
                let old = root.view();
                swept.replaced(&old, &view);
                drop(old);
                swept.retiring.push(root.publish(view));
            }
            None => row.root = Some(Arc::new(Root::new(view, self.turns.clone()))),
        }
    }

    /// Lets requests that still come through a detached root go nowhere.
    fn close(&self, row: &RootRow, swept: &mut Swept) {
        let Some(root) = &row.root else { return };
        let old = root.view();
        let body = Body::Executes(Arc::new(Closed { size: old.size(), user: row.user.to_string() }));
        let state = NodeState::new(self.turns.clone());
        let node = Node::new(self.new_node_id(), old.root().name().clone(), "closed", body, state);
        // One node without children: there is nothing that the builder could refuse.
        if let Ok(view) = ViewBuilder::new().node(Arc::new(node), Vec::new()).build() {
            swept.replaced(&old, &view);
            drop(old);
            swept.retiring.push(root.publish(view));
        }
    }
}

/// What an edit swept aside.
#[derive(Default)]
struct Swept {
    retiring: Vec<Retiring>,
    /// Nodes, as they were, that a root no longer sees.
    unseen: Vec<Arc<Node>>,
    listed: BTreeSet<NodeId>,
}

impl Swept {
    fn replaced(&mut self, old: &View, new: &View) {
        let kept: BTreeSet<*const Node> = new.nodes().map(Arc::as_ptr).collect();
        for node in old.nodes().filter(|n| !kept.contains(&Arc::as_ptr(n))) {
            if self.listed.insert(node.id()) {
                self.unseen.push(node.clone());
            }
        }
    }

    /// Filters that are in no path any more let go of the requests that wait in them.
    fn release(&mut self, graph: &Graph) {
        for node in self.unseen.drain(..) {
            let replaced = graph.tables.nodes.get(&node.id()).is_none_or(|row| !same_body(&row.node, &node));
            if replaced || !graph.has_user(node.id()) {
                node.release();
            }
        }
    }
}

/// Whether two nodes share their body: one that was reopened with it does.
pub(crate) fn same_body(a: &Node, b: &Node) -> bool {
    match (a.body(), b.body()) {
        (Body::Maps(a), Body::Maps(b)) => Arc::ptr_eq(a, b),
        (Body::Executes(a), Body::Executes(b)) => Arc::ptr_eq(a, b),
        _ => false,
    }
}
