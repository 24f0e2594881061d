//! Internal snapshots of a node: listed, made, gone back to, deleted.
//!
//! Invariant: others may go on using the node while one is made or deleted: the driver lets those who are writing end,
//! and the others wait. Going back needs a node whose content and size nobody relies on.

use block::{NewSnapshot, Result};
use flow::{SnapshotInfo, seam};
use graph::{Demand, User};

use crate::engine::Engine;

impl Engine {
    /// The internal snapshots of a node, oldest first. `Unsupported` where its driver has none.
    pub async fn snapshots(&self, node: &str) -> Result<Vec<SnapshotInfo>> {
        let (root, entry) = self.attach(node, User::named("snapshot"), Demand::READ)?;
        let view = entry.view();
        let found = match seam::snapshots(&view) {
            Ok((power, next)) => power.list(next).await,
            Err(error) => Err(error),
        };
        drop(view);
        self.detach(root).await?;
        found
    }

    /// Keeps a node's present state under that name (`blockdev-snapshot-internal-sync`). `icount`: instructions that
    /// the guest had executed, where that is counted.
    pub async fn create_snapshot(&self, node: &str, name: &str, icount: Option<u64>) -> Result<()> {
        let now = io::wall::since_1970();
        let new = NewSnapshot {
            name: name.to_owned(),
            date_s: now.as_secs() as u32,
            // Microseconds, as others store.
            date_ns: now.subsec_micros() * 1000,
            vm_clock_ns: 0,
            icount,
        };
        self.change_snapshots(node, Demand::WRITE, Edit::Create(new)).await
    }

    /// Goes back to the state of the snapshot whose id, or else whose name, is `wanted`. Refused while somebody relies
    /// on the node's size, as exports do.
    pub async fn apply_snapshot(&self, node: &str, wanted: &str) -> Result<()> {
        self.change_snapshots(node, Demand::WRITE.and(Demand::RESIZE), Edit::Apply(wanted)).await
    }

    /// Deletes the snapshot with that id (`blockdev-snapshot-delete-internal-sync`).
    pub async fn delete_snapshot(&self, node: &str, id: &str) -> Result<()> {
        self.change_snapshots(node, Demand::WRITE, Edit::Delete(id)).await
    }

    async fn change_snapshots(&self, node: &str, demand: Demand, edit: Edit<'_>) -> Result<()> {
        let (root, entry) = self.attach(node, User::named("snapshot"), demand)?;
        let view = entry.view();
        let changed = match seam::snapshots(&view) {
            Ok((power, next)) => match edit {
                Edit::Create(new) => power.create(new, next).await,
                Edit::Apply(wanted) => power.apply(wanted, next).await,
                Edit::Delete(id) => power.delete(id, next).await,
            },
            Err(error) => Err(error),
        };
        drop(view);
        self.detach(root).await?;
        changed
    }
}

enum Edit<'a> {
    Create(NewSnapshot),
    Apply(&'a str),
    Delete(&'a str),
}
