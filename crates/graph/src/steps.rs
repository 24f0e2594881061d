//! What each edit does to a draft.

use std::sync::Arc;

use block::{BlockError, ErrorKind, Permissions, Result};
use flow::{NodeId, Role};

use crate::draft::{Draft, Kind};
use crate::edit::{Child, Edit, NewNode, Place, Reopen};
use crate::names;
use crate::operations::Operation;
use crate::permissions::Demand;
use crate::tables::{NodeRow, Parent, RootRow};
use crate::tally::Tally;
use crate::user::{RootId, User, UserKind};

impl Draft<'_> {
    /// Makes one edit; on an error the draft is of no use any more.
    pub(crate) fn edit(&mut self, edit: &Edit) -> Result<()> {
        match edit {
            Edit::AddNode(new) => self.add_node(new),
            Edit::DeleteNode(node) => self.delete_node(*node),
            Edit::ReplaceChild { parent, role, child } => self.replace_child(*parent, *role, *child),
            Edit::ReplaceNode { node, with } => self.replace_node(*node, *with),
            Edit::InsertFilter { filter, at } => self.insert_filter(*filter, *at),
            Edit::RemoveFilter(filter) => self.remove_filter(*filter),
            Edit::Reopen(reopen) => self.reopen(reopen),
            Edit::SetReadOnly { node, read_only } => self.set_read_only(*node, *read_only),
            Edit::AttachRoot { root, node, user, demand } => self.attach_root(*root, *node, user, *demand),
            Edit::DetachRoot(root) => self.detach(*root).map(drop),
            Edit::MoveRoot { root, to } => self.move_root(*root, *to),
            Edit::SetDemand { root, demand } => self.set_demand(*root, *demand),
        }
    }

    fn add_node(&mut self, new: &NewNode) -> Result<()> {
        let (id, name) = (new.node.id(), new.node.name());
        if self.names.get(name).is_some() || self.nodes.get(&id).is_some() {
            return Err(names::taken(name));
        }
        self.names.insert(name.clone(), id);
        let row = NodeRow {
            node: new.node.clone(),
            owned: new.owned,
            read_only: new.read_only,
            detect_zeroes: new.detect_zeroes,
            children: Vec::new(),
            extra: new.children.iter().map(|c| (c.role, c.extra)).collect(),
            tally: Tally::default(),
        };
        self.nodes.insert(id, row);
        self.orphans.insert(id);
        self.reshape(id);
        self.link_all(id, &new.children)
    }

    fn link_all(&mut self, parent: NodeId, children: &[Child]) -> Result<()> {
        for child in children {
            let row = self.node(parent)?;
            if row.child(child.role).is_some() {
                let context =
                    format!("node '{}' has more than one '{}' child", row.node.name(), child.role.name());
                return Err(BlockError::new(ErrorKind::Invalid, context));
            }
            self.link(parent, child.role, child.node)?;
        }
        Ok(())
    }

    fn delete_node(&mut self, node: NodeId) -> Result<()> {
        self.permitted(Operation::Delete, node, None)?;
        self.node_mut(node)?.owned = false;
        self.remove_unreferenced(node)
    }

    fn replace_child(&mut self, parent: NodeId, role: Role, child: Option<NodeId>) -> Result<()> {
        let row = self.node(parent)?;
        let present = row.child(role).map(|edge| edge.child);
        if present == child {
            return Ok(());
        }
        if present.is_some() {
            self.permitted(Operation::ChangeLink, parent, Some(role))?;
        }
        if child.is_none() {
            self.may_be_cut(parent, role)?;
        }
        self.unlink(parent, role)?;
        child.map_or(Ok(()), |child| self.link(parent, role, child))
    }

    fn may_be_cut(&self, parent: NodeId, role: Role) -> Result<()> {
        if role == Role::Backing {
            return Ok(());
        }
        let context = format!("node '{}' cannot be without its '{}' child", self.name(parent)?, role.name());
        Err(BlockError::new(ErrorKind::Invalid, context))
    }

    fn replace_node(&mut self, node: NodeId, with: NodeId) -> Result<()> {
        self.permitted(Operation::Replace, node, None)?;
        self.redirect(node, with)
    }

    fn insert_filter(&mut self, filter: NodeId, at: Place) -> Result<()> {
        let below = self.filtered(filter)?;
        match at {
            Place::Above => self.redirect(below, filter),
            Place::Edge { parent, role } => {
                let child = self.node(parent)?.child(role).map(|edge| edge.child);
                self.expect_above(filter, below, child)?;
                self.replace_child(parent, role, Some(filter))
            }
            Place::Root(root) => {
                let at = self.root(root)?.at;
                self.expect_above(filter, below, Some(at))?;
                self.move_root(root, filter)
            }
        }
    }

    fn expect_above(&self, filter: NodeId, below: NodeId, found: Option<NodeId>) -> Result<()> {
        if found == Some(below) {
            return Ok(());
        }
        let context = format!(
            "filter '{}' cannot be inserted there: '{}' is not what it stands on",
            self.name(filter)?,
            found.map_or(Ok(Arc::from("(no node)")), |id| self.name(id))?
        );
        Err(BlockError::new(ErrorKind::Invalid, context))
    }

    fn remove_filter(&mut self, filter: NodeId) -> Result<()> {
        let below = self.filtered(filter)?;
        self.permitted(Operation::RemoveFilter, filter, None)?;
        self.redirect(filter, below)
    }

    /// Sends all who are above `from` to `to`, except those that `to` stands on, and jobs.
    fn redirect(&mut self, from: NodeId, to: NodeId) -> Result<()> {
        let stays = self.below(to)?;
        let parents: Vec<Parent> = self.parents(from).collect();
        for parent in parents {
            match parent {
                Parent::Node(node, _) if stays.contains(&node) => {}
                Parent::Node(node, role) => self.replace_child(node, role, Some(to))?,
                Parent::Root(root) if self.root(root)?.user.follows() => self.move_root(root, to)?,
                Parent::Root(_) => {}
            }
        }
        Ok(())
    }

    fn reopen(&mut self, reopen: &Reopen) -> Result<()> {
        let id = reopen.node;
        self.node(id)?;
        if let Some(body) = &reopen.body {
            let row = self.node_mut(id)?;
            if Kind::of(body) != Kind::of(row.node.body()) {
                let context = format!("node {:?} cannot be reopened as another kind of node", row.node);
                return Err(BlockError::new(ErrorKind::Invalid, context));
            }
            row.node = Arc::new(row.node.reopened(body.clone()));
        }
        if let Some(mode) = reopen.detect_zeroes {
            self.node_mut(id)?.detect_zeroes = mode;
        }
        if let Some(read_only) = reopen.read_only {
            self.node_mut(id)?.read_only = read_only;
        }
        if let Some(children) = &reopen.children {
            self.reopen_children(id, children)?;
        }
        self.reshape(id);
        Ok(())
    }

    fn reopen_children(&mut self, id: NodeId, children: &[Child]) -> Result<()> {
        let kept = |role, node| children.iter().any(|c| c.role == role && c.node == node);
        let gone: Vec<Role> =
            self.node(id)?.children.iter().filter(|e| !kept(e.role, e.child)).map(|e| e.role).collect();
        for role in gone {
            if !children.iter().any(|c| c.role == role) {
                self.may_be_cut(id, role)?;
            }
            self.permitted(Operation::ChangeLink, id, Some(role))?;
            self.unlink(id, role)?;
        }
        self.node_mut(id)?.extra = children.iter().map(|c| (c.role, c.extra)).collect();
        let present: Vec<Role> = self.node(id)?.children.iter().map(|e| e.role).collect();
        let new: Vec<Child> = children.iter().filter(|c| !present.contains(&c.role)).copied().collect();
        self.link_all(id, &new)
    }

    fn set_read_only(&mut self, node: NodeId, read_only: bool) -> Result<()> {
        if self.node(node)?.read_only != read_only {
            self.node_mut(node)?.read_only = read_only;
            self.reshape(node);
        }
        Ok(())
    }

    fn attach_root(&mut self, id: RootId, node: NodeId, user: &User, demand: Demand) -> Result<()> {
        // One that was detached by an edit before this one is not free either: its clients hold the old root.
        if self.roots.get(&id).is_some() || self.roots.before(&id).is_some() {
            let context = format!("{user} is attached already (root number {})", id.0);
            return Err(BlockError::new(ErrorKind::Exists, context));
        }
        if *user.kind() == UserKind::Export && demand.uses.contains(Permissions::WRITE) {
            self.permitted(Operation::ExportWritable, node, None)?;
        }
        self.attach(id, RootRow { at: node, user: user.clone(), demand, root: None })
    }

    fn set_demand(&mut self, id: RootId, demand: Demand) -> Result<()> {
        let row = self.detach(id)?;
        self.attach(id, RootRow { demand, ..row })
    }
}
