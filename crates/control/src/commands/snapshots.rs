//! Internal snapshots of nodes: made and deleted.

use std::sync::Arc;

use block::{BlockError, ErrorKind};
use engine::{Engine, SnapshotInfo};
use qmp::schema::Nothing;

use crate::failure::Failure;
use crate::table::Table;
use crate::types::snapshot_info::SnapshotDescription;

qmp::structure! {
    /// Arguments of `blockdev-snapshot-internal-sync`.
    pub struct Create {
        /// Which node.
        "device" => device: String,
        /// How it is to be called.
        "name" => name: String,
    }
}

qmp::structure! {
    /// Arguments of `blockdev-snapshot-delete-internal-sync`.
    pub struct Delete {
        /// Which node.
        "device" => device: String,
        /// Its id.
        "id" => id: Option<String>,
        /// Its name.
        "name" => name: Option<String>,
    }
}

pub(super) fn add(table: &mut Table, engine: &Arc<Engine>) {
    let of = engine.clone();
    table.command("blockdev-snapshot-internal-sync", move |arguments: Create| {
        let engine = of.clone();
        async move { create(&engine, &arguments).await.map(|()| Nothing) }
    });
    let of = engine.clone();
    table.command("blockdev-snapshot-delete-internal-sync", move |arguments: Delete| {
        let engine = of.clone();
        async move { delete(&engine, &arguments).await }
    });
}

async fn create(engine: &Engine, Create { device, name }: &Create) -> Result<(), Failure> {
    let driver = writable(engine, device)?;
    let found = engine.snapshots(device).await.map_err(|error| match error.kind() {
        ErrorKind::Unsupported => Failure::new(format!(
            "Block format '{driver}' used by device '{device}' does not support internal snapshots"
        )),
        _ => error.into(),
    })?;
    if name.is_empty() {
        return Err(Failure::new("Name is empty"));
    }
    if found.iter().any(|snapshot| snapshot.name == *name) {
        let text = format!("Snapshot with name '{name}' already exists on device '{device}'");
        return Err(Failure::new(text));
    }
    let failed = |error: BlockError| {
        error.within(format_args!("Failed to create snapshot '{name}' on device '{device}'"))
    };
    Ok(engine.create_snapshot(device, name, None).await.map_err(failed)?)
}

async fn delete(engine: &Engine, arguments: &Delete) -> Result<SnapshotDescription, Failure> {
    let Delete { device, id, name } = arguments;
    writable(engine, device)?;
    if id.is_none() && name.is_none() {
        return Err(Failure::new("Name or id must be provided"));
    }
    let found = engine.snapshots(device).await.map_err(|error| match error.kind() {
        ErrorKind::Unsupported => Failure::new("Failed to get a snapshot list: Operation not supported"),
        _ => error.into(),
    })?;
    let is_it = |snapshot: &&SnapshotInfo| {
        id.as_ref().is_none_or(|id| snapshot.id == *id)
            && name.as_ref().is_none_or(|name| snapshot.name == *name)
    };
    let Some(snapshot) = found.iter().find(is_it) else {
        let shown = |text: &Option<String>| text.clone().unwrap_or_else(|| "null".to_owned());
        return Err(Failure::new(format!(
            "Snapshot with id '{}' and name '{}' does not exist on device '{device}'",
            shown(id),
            shown(name)
        )));
    };
    engine.delete_snapshot(device, &snapshot.id).await?;
    Ok(SnapshotDescription::of(snapshot))
}

/// The driver of a node that takes writes.
fn writable(engine: &Engine, device: &str) -> Result<&'static str, Failure> {
    let nodes = engine.nodes();
    let Some(node) = nodes.iter().find(|node| node.name == device) else {
        let text = format!("Cannot find device='{device}' nor node-name='{device}'");
        return Err(Failure::new(text));
    };
    // Whoever lies above would see its own base change.
    if nodes.iter().any(|above| above.children.iter().any(|(_, child)| child == device)) {
        return Err(Failure::new("Need a root block node"));
    }
    match node.read_only {
        true => Err(Failure::new(format!("Device '{device}' is read only"))),
        false => Ok(node.driver),
    }
}
