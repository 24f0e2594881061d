//! Checking a draft as a whole: references, cycles, permissions; and the views that its roots will see.
//!
//! Invariants: looks at nodes below what changed and at parents above what looks different, never at the whole
//! graph; on success the demands in the draft are those of the permission table.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use block::{BlockError, ErrorKind, Permissions, Result};
use flow::{DetectZeroes, NodeId, Role, View, ViewBuilder};

use crate::draft::Draft;
use crate::permissions::{self, Demand};
use crate::tables::{NodeRow, Parent, parents_of};
use crate::user::RootId;

impl Draft<'_> {
    /// Checks the whole; answers the new views of the roots that see a difference.
    pub(crate) fn finish(&mut self) -> Result<Vec<(RootId, Arc<View>)>> {
        self.drop_orphans()?;
        let order = self.top_down()?;
        self.evaluate(&order)?;
        let roots = self.affected()?;
        roots.into_iter().map(|root| Ok((root, self.compile(self.root(root)?.at)?))).collect()
    }

    fn drop_orphans(&mut self) -> Result<()> {
        for id in std::mem::take(&mut self.orphans) {
            let added = self.nodes.before(&id).is_none();
            let used = |d: &Self| d.nodes.get(&id).is_some_and(|r| r.owned) || d.parents(id).next().is_some();
            if self.nodes.get(&id).is_none() || used(self) {
                continue;
            }
            // What was taken out again within the same edits goes; what nobody ever held was a mistake.
            if added && !self.was_held(id) {
                let context = format!("node '{}' is neither named by the user nor a child", self.name(id)?);
                return Err(BlockError::new(ErrorKind::Invalid, context));
            }
            self.remove_unreferenced(id)?;
        }
        self.orphans.clear();
        Ok(())
    }

    fn was_held(&self, id: NodeId) -> bool {
        self.parents.touched(parents_of(id))
    }

    /// All nodes below those with changed demands, parents first. Fails on a cycle.
    fn top_down(&self) -> Result<Vec<NodeId>> {
        let (mut order, mut state) = (Vec::new(), BTreeMap::new());
        for &start in self.dirty.iter().filter(|id| self.nodes.get(id).is_some()) {
            self.descend(start, &mut state, &mut order)?;
        }
        order.reverse();
        Ok(order)
    }

    /// Depth first, on a stack of its own: chains can be long. `state` is whether a node is finished.
    fn descend(
        &self,
        start: NodeId,
        state: &mut BTreeMap<NodeId, bool>,
        order: &mut Vec<NodeId>,
    ) -> Result<()> {
        let mut stack = vec![(start, 0)];
        while let Some((id, next)) = stack.pop() {
            if next == 0 && state.contains_key(&id) {
                continue;
            }
            state.insert(id, false);
            let Some(edge) = self.node(id)?.children.get(next) else {
                state.insert(id, true);
                order.push(id);
                continue;
            };
            stack.push((id, next + 1));
            match state.get(&edge.child) {
                Some(true) => {}
                Some(false) => return Err(self.cycle()?),
                None => stack.push((edge.child, 0)),
            }
        }
        Ok(())
    }

    #[cold]
    fn cycle(&self) -> Result<BlockError> {
        for &(parent, role) in &self.linked {
            let Some(edge) = self.nodes.get(&parent).and_then(|row| row.child(role)) else { continue };
            if self.below(edge.child)?.contains(&parent) {
                let (child, parent) = (self.name(edge.child)?, self.name(parent)?);
                let role = role.name();
                let context = format!("Making '{child}' a {role} child of '{parent}' would create a cycle");
                return Ok(BlockError::new(ErrorKind::Invalid, context));
            }
        }
        Ok(BlockError::new(ErrorKind::Invalid, "the edit would create a cycle"))
    }

    fn evaluate(&mut self, order: &[NodeId]) -> Result<()> {
        for &id in order {
            if !self.dirty.contains(&id) {
                continue;
            }
            let row = self.node(id)?;
            let users = row.tally.demand();
            self.refuse_conflicts(id, row)?;
            self.refuse_writers(id, row, users)?;
            for (at, edge) in row.children.clone().into_iter().enumerate() {
                let row = self.node(id)?;
                let demand = permissions::edge(edge.role, users, !row.read_only, row.extra(edge.role));
                if demand != edge.demand {
                    self.node_mut(id)?.children[at].demand = demand;
                    let child = self.node_mut(edge.child)?;
                    child.tally.remove(edge.demand);
                    child.tally.add(demand);
                    self.dirty.insert(edge.child);
                }
            }
        }
        Ok(())
    }

    fn refuse_writers(&self, id: NodeId, row: &NodeRow, users: Demand) -> Result<()> {
        let writes = users.uses & (Permissions::WRITE | Permissions::WRITE_UNCHANGED);
        let resizes = users.uses.contains(Permissions::RESIZE);
        if !row.read_only || (writes.is_empty() && !resizes) {
            return Ok(());
        }
        if writes.is_empty() {
            return Err(BlockError::new(ErrorKind::ReadOnly, "Image is read-only"));
        }
        let was_writable = self.nodes.before(&id).is_some_and(|before| !before.read_only);
        let context = if was_writable {
            format!("Read-only block node '{}' cannot support read-write users", row.node.name())
        } else {
            "Block node is read-only".to_owned()
        };
        Err(BlockError::new(ErrorKind::ReadOnly, context))
    }

    fn refuse_conflicts(&self, id: NodeId, row: &NodeRow) -> Result<()> {
        let Some(one) = row.tally.conflicts().iter().next() else { return Ok(()) };
        let users: Vec<(Parent, Demand)> =
            self.parents(id).map(|p| Ok((p, self.demand_of(id, p)?))).collect::<Result<_>>()?;
        let takes = |d: Demand| d.uses.contains(one);
        let keeps = |d: Demand| !d.shares.contains(one);
        let pair = users.iter().filter(|(_, d)| takes(*d)).find_map(|a| {
            let other = users.iter().find(|b| b.0 != a.0 && keeps(b.1))?;
            Some((a, other))
        });
        let Some((a, b)) = pair else { return Ok(()) };
        let name = row.node.name();
        let context = format!(
            "Permission conflict on node '{name}': permissions '{}' are both required by {} (uses node '{name}' as \
             '{}' child) and unshared by {} (uses node '{name}' as '{}' child).",
            words(a.1.uses - b.1.shares),
            self.describe(a.0)?,
            self.edge_name(a.0)?,
            self.describe(b.0)?,
            self.edge_name(b.0)?,
        );
        Err(BlockError::new(ErrorKind::Busy, context))
    }

    fn demand_of(&self, child: NodeId, parent: Parent) -> Result<Demand> {
        Ok(match parent {
            Parent::Root(root) => self.root(root)?.demand,
            Parent::Node(node, role) => {
                let edge = self.node(node)?.child(role).filter(|edge| edge.child == child);
                edge.map_or(Demand::NOTHING, |edge| edge.demand)
            }
        })
    }

    fn describe(&self, parent: Parent) -> Result<String> {
        Ok(match parent {
            Parent::Node(node, _) => format!("node '{}'", self.name(node)?),
            Parent::Root(root) => self.root(root)?.user.to_string(),
        })
    }

    fn edge_name(&self, parent: Parent) -> Result<&'static str> {
        Ok(match parent {
            Parent::Node(_, role) => role.name(),
            Parent::Root(root) => self.root(root)?.user.edge(),
        })
    }

    /// The roots that see a difference.
    fn affected(&self) -> Result<BTreeSet<RootId>> {
        let mut roots: BTreeSet<RootId> =
            self.moved.iter().copied().filter(|id| self.roots.get(id).is_some()).collect();
        let mut ahead: Vec<NodeId> =
            self.reshaped.iter().copied().filter(|id| self.nodes.get(id).is_some()).collect();
        let mut seen: BTreeSet<NodeId> = ahead.iter().copied().collect();
        while let Some(id) = ahead.pop() {
            for parent in self.parents(id) {
                match parent {
                    Parent::Root(root) => drop(roots.insert(root)),
                    Parent::Node(node, _) if seen.insert(node) => ahead.push(node),
                    Parent::Node(..) => {}
                }
            }
        }
        Ok(roots)
    }

    /// The graph below a node, for the walk.
    pub(crate) fn compile(&self, top: NodeId) -> Result<Arc<View>> {
        let mut builder = ViewBuilder::new().detect_zeroes(self.detect_zeroes(top)?);
        let (mut seen, mut ahead) = (BTreeSet::from([top]), vec![top]);
        while let Some(id) = ahead.pop() {
            let row = self.node(id)?;
            builder =
                builder.node(row.node.clone(), row.children.iter().map(|e| (e.role, e.child)).collect());
            ahead.extend(row.children.iter().rev().map(|e| e.child).filter(|c| seen.insert(*c)));
        }
        builder.build()
    }

    /// Of the first node from `top` down that says something, along the way that writes go.
    fn detect_zeroes(&self, top: NodeId) -> Result<DetectZeroes> {
        let (mut at, mut seen) = (top, BTreeSet::new());
        // What is only looked at may have a cycle still.
        while seen.insert(at) {
            let row = self.node(at)?;
            match row.children.first() {
                _ if row.detect_zeroes != DetectZeroes::Off => return Ok(row.detect_zeroes),
                Some(edge) if edge.role != Role::Backing => at = edge.child,
                _ => break,
            }
        }
        Ok(DetectZeroes::Off)
    }
}

/// Names of permissions as messages have them.
fn words(set: Permissions) -> String {
    set.to_string().replace('-', " ")
}
