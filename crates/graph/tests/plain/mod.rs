//! The graph as it should behave, told plainly: whole copies, every question answered by looking at everything.

use std::collections::{BTreeMap, BTreeSet};

use block::Permissions;
use flow::{Body, NodeId, Role};
use graph::permissions::edge;
use graph::{Child, Demand, EdgeDemand, Edit, NewNode, Parent, Place, Reopen, RootId, User, UserKind};

#[derive(Clone)]
pub(crate) struct PlainNode {
    pub(crate) name: String,
    pub(crate) owned: bool,
    pub(crate) read_only: bool,
    pub(crate) is_filter: bool,
    pub(crate) is_disk: bool,
    pub(crate) children: BTreeMap<Role, NodeId>,
    extra: BTreeMap<Role, EdgeDemand>,
}

impl PlainNode {
    fn takes(&self, role: Role) -> bool {
        !self.is_disk && (!self.is_filter || role == Role::Filtered)
    }
}

#[derive(Clone)]
pub(crate) struct PlainRoot {
    pub(crate) at: NodeId,
    pub(crate) demand: Demand,
    user: User,
}

#[derive(Clone, Default)]
pub(crate) struct Plain {
    pub(crate) nodes: BTreeMap<NodeId, PlainNode>,
    pub(crate) roots: BTreeMap<RootId, PlainRoot>,
    /// Nodes that were added by the present edits and never had a parent.
    never_held: BTreeSet<NodeId>,
}

impl Plain {
    /// What `edits` make of it; `None` when they are to be refused.
    pub(crate) fn after(&self, edits: &[Edit]) -> Option<Self> {
        let mut next = self.clone();
        edits.iter().try_for_each(|edit| next.edit(edit))?;
        next.sweep()?;
        let acyclic = next.nodes.keys().all(|id| !next.stands_on(*id, *id));
        (acyclic && next.demands_are_fine()).then_some(next)
    }

    fn edit(&mut self, edit: &Edit) -> Option<()> {
        match edit {
            Edit::AddNode(new) => self.add(new),
            Edit::DeleteNode(id) => {
                let free = self.nodes.get(id)?.owned && self.parents(*id).is_empty();
                free.then(|| self.remove(*id))
            }
            Edit::ReplaceChild { parent, role, child } => self.replace_child(*parent, *role, *child),
            Edit::ReplaceNode { node, with } => {
                self.nodes.get(node)?;
                (!self.pinned(*node)).then_some(())?;
                self.redirect(*node, *with)
            }
            Edit::InsertFilter { filter, at } => self.insert(*filter, *at),
            Edit::RemoveFilter(filter) => {
                let below = self.filtered(*filter)?;
                (!self.pinned(*filter)).then_some(())?;
                self.redirect(*filter, below)
            }
            Edit::Reopen(reopen) => self.reopen(reopen),
            Edit::SetReadOnly { node, read_only } => {
                self.nodes.get_mut(node)?.read_only = *read_only;
                Some(())
            }
            Edit::AttachRoot { root, node, user, demand } => {
                let fresh = !self.roots.contains_key(root);
                let writes = *user.kind() == UserKind::Export && demand.uses.contains(Permissions::WRITE);
                let refused = self.nodes.get(node)?.read_only && writes;
                self.never_held.remove(node);
                let row = PlainRoot { at: *node, demand: *demand, user: user.clone() };
                (fresh && !refused).then(|| drop(self.roots.insert(*root, row)))
            }
            Edit::DetachRoot(root) => self.roots.remove(root).map(drop),
            Edit::MoveRoot { root, to } => self.move_root(*root, *to),
            Edit::SetDemand { root, demand } => {
                self.roots.get_mut(root)?.demand = *demand;
                Some(())
            }
        }
    }

    fn add(&mut self, new: &NewNode) -> Option<()> {
        let id = new.node.id();
        let name = new.node.name().to_string();
        if self.nodes.values().any(|node| node.name == name) || self.nodes.contains_key(&id) {
            return None;
        }
        let is_filter = matches!(new.node.body(), Body::Executes(body) if body.size().is_none());
        let is_disk = matches!(new.node.body(), Body::Executes(body) if body.size().is_some());
        let (owned, read_only) = (new.owned, new.read_only);
        let (children, extra) = Default::default();
        self.nodes.insert(id, PlainNode { name, owned, read_only, is_filter, is_disk, children, extra });
        self.never_held.insert(id);
        self.give(id, &new.children)
    }

    fn give(&mut self, id: NodeId, children: &[Child]) -> Option<()> {
        for child in children {
            self.nodes.get(&child.node)?;
            let node = self.nodes.get_mut(&id)?;
            node.extra.insert(child.role, child.extra);
            if !node.takes(child.role) || node.children.insert(child.role, child.node).is_some() {
                return None;
            }
            self.never_held.remove(&child.node);
        }
        Some(())
    }

    fn replace_child(&mut self, parent: NodeId, role: Role, child: Option<NodeId>) -> Option<()> {
        let present = self.nodes.get(&parent)?.children.get(&role).copied();
        if present == child {
            return Some(());
        }
        if (present.is_some() && self.pinned(parent)) || (child.is_none() && role != Role::Backing) {
            return None;
        }
        let node = self.nodes.get_mut(&parent)?;
        let takes = node.takes(role);
        let children = &mut node.children;
        match child {
            Some(_) if !takes => None,
            Some(child) => {
                children.insert(role, child);
                self.never_held.remove(&child);
                self.nodes.get(&child).map(drop)
            }
            None => children.remove(&role).map(drop),
        }
    }

    fn insert(&mut self, filter: NodeId, at: Place) -> Option<()> {
        let below = self.filtered(filter)?;
        match at {
            Place::Above => self.redirect(below, filter),
            Place::Edge { parent, role } => {
                let fits = self.nodes.get(&parent)?.children.get(&role) == Some(&below);
                fits.then(|| self.replace_child(parent, role, Some(filter)))?
            }
            Place::Root(root) => {
                let fits = self.roots.get(&root)?.at == below;
                fits.then(|| self.move_root(root, filter))?
            }
        }
    }

    fn redirect(&mut self, from: NodeId, to: NodeId) -> Option<()> {
        self.nodes.get(&to)?;
        for parent in self.parents(from) {
            match parent {
                Parent::Node(node, _) if node == to || self.stands_on(to, node) => {}
                Parent::Node(node, role) => self.replace_child(node, role, Some(to))?,
                Parent::Root(root) if self.roots[&root].user.follows() => self.move_root(root, to)?,
                Parent::Root(_) => {}
            }
        }
        Some(())
    }

    fn reopen(&mut self, reopen: &Reopen) -> Option<()> {
        let id = reopen.node;
        let node = self.nodes.get_mut(&id)?;
        node.read_only = reopen.read_only.unwrap_or(node.read_only);
        let Some(children) = &reopen.children else { return Some(()) };
        for (role, child) in self.nodes[&id].children.clone() {
            let new = children.iter().find(|c| c.role == role);
            if new.is_some_and(|new| new.node == child) {
                continue;
            }
            if self.pinned(id) || (new.is_none() && role != Role::Backing) {
                return None;
            }
        }
        let node = self.nodes.get_mut(&id)?;
        (node.children, node.extra) = Default::default();
        self.give(id, children)
    }

    fn move_root(&mut self, root: RootId, to: NodeId) -> Option<()> {
        self.nodes.get(&to)?;
        self.never_held.remove(&to);
        self.roots.get_mut(&root)?.at = to;
        Some(())
    }

    fn filtered(&self, filter: NodeId) -> Option<NodeId> {
        let node = self.nodes.get(&filter)?;
        node.children.get(&Role::Filtered).copied().filter(|_| node.is_filter)
    }

    fn pinned(&self, id: NodeId) -> bool {
        self.roots.values().any(|root| root.at == id && !root.user.follows())
    }

    /// Removes a node, and what only it had.
    fn remove(&mut self, id: NodeId) {
        let Some(node) = self.nodes.remove(&id) else { return };
        for child in node.children.into_values() {
            let held = self.nodes.get(&child).is_none_or(|n| n.owned) || !self.parents(child).is_empty();
            if !held {
                self.remove(child);
            }
        }
    }

    fn sweep(&mut self) -> Option<()> {
        loop {
            let loose = self.nodes.iter().find(|(id, n)| !n.owned && self.parents(**id).is_empty());
            let Some(id) = loose.map(|(id, _)| *id) else { break };
            if self.never_held.contains(&id) {
                return None;
            }
            self.remove(id);
        }
        self.never_held.clear();
        Some(())
    }

    pub(crate) fn parents(&self, id: NodeId) -> Vec<Parent> {
        let nodes = self.nodes.iter().flat_map(|(above, node)| {
            node.children.iter().filter(|(_, c)| **c == id).map(|(role, _)| Parent::Node(*above, *role))
        });
        let roots = self.roots.iter().filter(|(_, root)| root.at == id).map(|(root, _)| Parent::Root(*root));
        nodes.chain(roots).collect()
    }

    /// Whether `below` is a child of `above`, or a child's child, and so on.
    fn stands_on(&self, above: NodeId, below: NodeId) -> bool {
        let (mut seen, mut ahead) = (BTreeSet::new(), vec![above]);
        while let Some(id) = ahead.pop() {
            let children = self.nodes.get(&id).map(|n| n.children.values().copied().collect::<Vec<_>>());
            for child in children.unwrap_or_default() {
                if child == below {
                    return true;
                }
                if seen.insert(child) {
                    ahead.push(child);
                }
            }
        }
        false
    }

    /// What each parent of `id` demands.
    pub(crate) fn demands_on(&self, id: NodeId) -> Vec<(Parent, Demand)> {
        let demand = |parent: Parent| match parent {
            Parent::Root(root) => self.roots[&root].demand,
            Parent::Node(node, role) => {
                let row = &self.nodes[&node];
                let extra = row.extra.get(&role).copied().unwrap_or_default();
                edge(role, self.demand_on(node), !row.read_only, extra)
            }
        };
        self.parents(id).into_iter().map(|parent| (parent, demand(parent))).collect()
    }

    /// What all parents of `id` demand together.
    pub(crate) fn demand_on(&self, id: NodeId) -> Demand {
        self.demands_on(id).into_iter().fold(Demand::NOTHING, |sum, (_, demand)| sum.and(demand))
    }

    fn demands_are_fine(&self) -> bool {
        self.nodes.iter().all(|(id, node)| {
            let demands = self.demands_on(*id);
            let writes = Permissions::WRITE | Permissions::WRITE_UNCHANGED | Permissions::RESIZE;
            let written = demands.iter().any(|(_, d)| !(d.uses & writes).is_empty());
            let conflict = demands.iter().any(|(a, user)| {
                demands.iter().any(|(b, other)| a != b && !(user.uses - other.shares).is_empty())
            });
            !(conflict || written && node.read_only)
        })
    }
}
