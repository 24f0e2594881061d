//! The graph: its tables, and the doors to check, make and ask.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use block::{BlockError, ErrorKind, Result};
use flow::guard::Domain;
use flow::{Body, Node, NodeId, NodeState, Root, View};

use crate::draft::{Draft, no_root};
use crate::drained::{Drained, Unwatched};
use crate::edit::Edit;
use crate::names::{self, AutoNames, NodeName};
use crate::operations::Operation;
use crate::permits::Permits;
use crate::plan::Plan;
use crate::tables::{Parent, Tables, parents_of};
use crate::user::RootId;

/// The nodes of a process, who stands on whom, and who uses them.
///
/// Belongs to the control plane: one thread edits it at a time, and no method waits. I/O threads see the views
/// that it publishes to [`Root`]s.
#[derive(Default)]
pub struct Graph {
    pub(crate) turns: Arc<Domain>,
    pub(crate) tables: Tables,
    /// How many edits were made.
    pub(crate) edits: u64,
    pub(crate) permits: Permits,
    pub(crate) unwatched: Unwatched,
    ids: AtomicU64,
    auto_names: AutoNames,
}

impl Graph {
    /// An empty graph.
    pub fn new() -> Self {
        Self::default()
    }

    /// A name for a new node: the one that the user wants, which must be well-formed and not taken, or an automatic
    /// one (`#block000`).
    pub fn name(&self, wanted: Option<&str>) -> Result<NodeName> {
        let Some(wanted) = wanted else { return Ok(self.auto_names.next()) };
        let name = NodeName::new(wanted)?;
        match self.tables.names.contains_key(name.text()) {
            true => Err(names::taken(wanted)),
            false => Ok(name),
        }
    }

    /// A node to be added with [`Edit::AddNode`]: its identity and state are this graph's.
    pub fn new_node(&self, name: &NodeName, driver: &'static str, body: Body) -> Arc<Node> {
        let state = NodeState::new(self.turns.clone());
        Arc::new(Node::new(self.new_node_id(), name.text().clone(), driver, body, state))
    }

    /// A root to be attached with [`Edit::AttachRoot`].
    pub fn new_root(&self) -> RootId {
        RootId(self.ids.fetch_add(1, Ordering::Relaxed))
    }

    pub(crate) fn new_node_id(&self) -> NodeId {
        NodeId(self.ids.fetch_add(1, Ordering::Relaxed))
    }

    /// Checks `edits` as a whole: made one after the other, do they end in a graph without cycles, with unique names,
    /// where nobody does what another excludes? Each edit sees the ones before it; cycles and permissions are
    /// checked at the end. Changes nothing.
    pub fn check(&self, edits: &[Edit]) -> Result<Plan> {
        let mut draft = self.draft(edits)?;
        let views = draft.finish()?;
        Ok(Plan::new(self.edits, draft, views))
    }

    /// Checks and makes `edits`. On an error nothing has changed.
    pub fn edit(&mut self, edits: &[Edit]) -> Result<Drained> {
        let plan = self.check(edits)?;
        self.apply(plan)
    }

    /// What a user of `node` would see after `edits`, which are not made: what a driver needs to read headers of
    /// children that are not in the graph yet. Permissions are not checked.
    pub fn preview(&self, edits: &[Edit], node: NodeId) -> Result<Arc<View>> {
        self.draft(edits)?.compile(node)
    }

    /// Fails when `operation` is refused on `node` as the graph is now.
    pub fn permitted(&self, operation: Operation, node: NodeId) -> Result<()> {
        Draft::new(&self.tables).permitted(operation, node, None)
    }

    /// Waits for the requests that are in flight at a root now; later ones do not count and are not held up.
    pub fn drain_root(&self, root: RootId) -> Result<Drained> {
        self.drain([root])
    }

    /// Waits for the requests that are in flight at any root above `node` now.
    pub fn drain_node(&self, node: NodeId) -> Result<Drained> {
        self.drain(self.users_above(node))
    }

    /// Publishes the same views once more and waits for the old ones.
    fn drain(&self, roots: impl IntoIterator<Item = RootId>) -> Result<Drained> {
        let draft = Draft::new(&self.tables);
        let mut fresh = Vec::new();
        for id in roots {
            let row = self.tables.roots.get(&id).ok_or_else(|| no_root(id))?;
            fresh.extend(row.root.as_ref().map(|root| Ok((root, draft.compile(row.at)?))));
        }
        let fresh: Vec<(&Arc<Root>, Arc<View>)> = fresh.into_iter().collect::<Result<_>>()?;
        let retiring = fresh.into_iter().map(|(root, view)| root.publish(view)).collect();
        Ok(Drained::new(retiring, None, &self.unwatched))
    }

    /// Gives up what only requests needed that have ended by now (locks); every edit does so as well.
    pub fn settle(&self) {
        self.unwatched.settle();
        self.permits.settle();
    }

    /// The node called `name`.
    pub fn find(&self, name: &str) -> Result<NodeId> {
        let found = self.tables.names.get(name).copied();
        found.ok_or_else(|| {
            let context = format!("Failed to find node with node-name='{name}'");
            BlockError::new(ErrorKind::NotFound, context)
        })
    }

    /// The root that was attached as `id`.
    pub fn root(&self, id: RootId) -> Result<Arc<Root>> {
        let root = self.tables.roots.get(&id).and_then(|row| row.root.clone());
        root.ok_or_else(|| no_root(id))
    }

    pub(crate) fn has_user(&self, node: NodeId) -> bool {
        !self.users_above(node).is_empty()
    }

    fn users_above(&self, node: NodeId) -> BTreeSet<RootId> {
        let (mut users, mut seen, mut ahead) = (BTreeSet::new(), BTreeSet::from([node]), vec![node]);
        while let Some(id) = ahead.pop() {
            for (_, parent) in self.tables.parents.range(parents_of(id)).map(|(key, ())| key) {
                match parent {
                    Parent::Root(root) => drop(users.insert(*root)),
                    Parent::Node(above, _) if seen.insert(*above) => ahead.push(*above),
                    Parent::Node(..) => {}
                }
            }
        }
        users
    }

    fn draft(&self, edits: &[Edit]) -> Result<Draft<'_>> {
        let mut draft = Draft::new(&self.tables);
        edits.iter().try_for_each(|edit| draft.edit(edit))?;
        Ok(draft)
    }
}
