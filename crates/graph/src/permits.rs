//! Telling nodes that have locks ([`flow::Permit`]) what their users do: before anything moves, all or nothing.
//!
//! Invariants: a node is told at least what its users do now *and* what users of views that are still in use did:
//! what is given up is given up when those views are gone ([`Hold`]). An edit that fails has changed nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use block::Result;
use flow::{Node, NodeId};

use crate::permissions::Demand;
use crate::plan::same_body;

/// A node whose users demand something else after an edit.
pub(crate) struct Change {
    /// The node after the edit; the one before when the edit removes it.
    pub(crate) node: Arc<Node>,
    pub(crate) demand: Demand,
    pub(crate) removed: bool,
}

/// What each node with locks was told.
#[derive(Clone, Default)]
pub(crate) struct Permits(Arc<Mutex<Ledger>>);

#[derive(Default)]
struct Ledger {
    entries: BTreeMap<NodeId, Entry>,
    next_hold: u64,
    /// Nodes that refused to give something up.
    owing: BTreeSet<NodeId>,
}

#[derive(Clone)]
struct Entry {
    node: Arc<Node>,
    /// What the users do by the last edit.
    now: Demand,
    /// What users of older views did.
    held: Vec<(u64, Demand)>,
    /// What the node was told last.
    told: Demand,
    removed: bool,
}

impl Entry {
    fn new(node: &Arc<Node>) -> Self {
        let node = node.clone();
        Self { node, now: Demand::NOTHING, held: Vec::new(), told: Demand::NOTHING, removed: false }
    }

    fn due(&self) -> Demand {
        self.held.iter().fold(self.now, |sum, (_, demand)| sum.and(*demand))
    }

    fn tell(&mut self, demand: Demand) -> Result<()> {
        if let Some(permit) = self.node.powers().permit {
            permit.permit(demand.uses, demand.shares)?;
        }
        self.told = demand;
        Ok(())
    }
}

impl Permits {
    /// Tells the nodes what their users do from now on. On an error all are told again what they knew, last first.
    pub(crate) fn take(&self, changes: Vec<Change>) -> Result<Hold> {
        let mut ledger = self.lock();
        let hold = ledger.next_hold;
        ledger.next_hold += 1;
        let mut done: Vec<(NodeId, Option<Entry>)> = Vec::new();
        for change in changes {
            let id = change.node.id();
            let before = ledger.entries.get(&id).cloned();
            match taken(before.as_ref(), change, hold) {
                Ok(Some(entry)) => {
                    ledger.entries.insert(id, entry);
                    done.push((id, before));
                }
                Ok(None) => {}
                Err(error) => {
                    ledger.undo(done);
                    return Err(error);
                }
            }
        }
        drop(ledger);
        Ok(Hold { ledger: self.clone(), hold, nodes: done.into_iter().map(|(id, _)| id).collect() })
    }

    /// Tries again with the nodes that refused to give something up.
    pub(crate) fn settle(&self) {
        let mut ledger = self.lock();
        std::mem::take(&mut ledger.owing).into_iter().for_each(|id| ledger.give_up(id));
    }

    /// What a node was told last.
    pub(crate) fn told(&self, id: NodeId) -> Option<Demand> {
        self.lock().entries.get(&id).map(|entry| entry.told)
    }

    fn lock(&self) -> MutexGuard<'_, Ledger> {
        // Every statement that holds it leaves whole entries behind.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The entry after a change that the node has been told of; `None` when it has no locks.
fn taken(before: Option<&Entry>, change: Change, hold: u64) -> Result<Option<Entry>> {
    if before.is_none() && change.node.powers().permit.is_none() {
        return Ok(None);
    }
    let mut entry = before.cloned().unwrap_or_else(|| Entry::new(&change.node));
    let replaced = !same_body(&entry.node, &change.node);
    entry.held.push((hold, entry.now));
    entry.now = change.demand;
    entry.removed = change.removed;
    entry.node = change.node;
    let due = entry.due();
    if replaced || due != entry.told {
        entry.tell(due).inspect_err(|_| {
            // The old body stays, and may have handed its locks to the new one already.
            if replaced && let Some(before) = before {
                retell(before);
            }
        })?;
    }
    Ok(Some(entry))
}

/// Tells a node again what it knew. It gives up no more than it took since, so there is no reason to refuse; if
/// it does all the same, there is nothing better to do than to go on.
fn retell(entry: &Entry) {
    let _ = entry.clone().tell(entry.told);
}

impl Ledger {
    fn undo(&mut self, done: Vec<(NodeId, Option<Entry>)>) {
        for (id, before) in done.into_iter().rev() {
            let Some(after) = self.entries.remove(&id) else { continue };
            match before {
                Some(before) => {
                    if after.told != before.told || !same_body(&after.node, &before.node) {
                        retell(&before);
                    }
                    self.entries.insert(id, before);
                }
                None => retell(&Entry::new(&after.node)),
            }
        }
    }

    fn release(&mut self, hold: u64, id: NodeId) {
        let Some(entry) = self.entries.get_mut(&id) else { return };
        entry.held.retain(|(by, _)| *by != hold);
        self.give_up(id);
    }

    /// Tells a node what is due, which is less than it knows. It has no reason to refuse; if it does all the same,
    /// it is told again later.
    fn give_up(&mut self, id: NodeId) {
        let Some(entry) = self.entries.get_mut(&id) else { return };
        let due = entry.due();
        if due != entry.told && entry.tell(due).is_err() {
            self.owing.insert(id);
        } else if entry.removed && entry.held.is_empty() {
            self.entries.remove(&id);
        }
    }
}

/// What the users before an edit did, kept until it is dropped.
pub(crate) struct Hold {
    ledger: Permits,
    hold: u64,
    nodes: Vec<NodeId>,
}

impl Drop for Hold {
    fn drop(&mut self) {
        let mut ledger = self.ledger.lock();
        self.nodes.iter().for_each(|id| ledger.release(self.hold, *id));
    }
}
