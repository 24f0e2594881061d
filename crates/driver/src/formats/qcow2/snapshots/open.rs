//! Opening an internal snapshot as a disk of its own.
//!
//! Invariant: it is only read. What it holds does not change while others write to the image, but their tables are not
//! ours: whoever opens both opens both read-only.

use block::{BlockError, ErrorKind, Result};
use flow::{View, seam};
use qcow2::{Geometry, Header, Snapshot};

use super::stored;

/// The geometry of the snapshot whose id, or else whose name, is `wanted`; or that `snapshot.id=...,snapshot.name=...`
/// say.
pub(crate) async fn geometry(
    file: &View,
    header: &Header,
    geometry: Geometry,
    wanted: &str,
) -> Result<Geometry> {
    let read = async |range| seam::read(file, range).await;
    let snapshots = stored::stored(header, file.size(), read).await?.list;
    let snapshots = snapshots.all();
    match snapshots
        .iter()
        .find(|s| is_wanted(s, wanted, true))
        .or_else(|| snapshots.iter().find(|s| is_wanted(s, wanted, false)))
    {
        Some(snapshot) => geometry.of_snapshot(snapshot),
        None => {
            let names: Vec<_> = snapshots.iter().map(|s| String::from_utf8_lossy(&s.name)).collect();
            let names = if names.is_empty() { "none".to_owned() } else { names.join(", ") };
            let context = format!("it has no internal snapshot '{wanted}' (those that it has: {names})");
            Err(BlockError::new(ErrorKind::NotFound, context))
        }
    }
}

/// Whether it is the one: by its id, or else by its name.
fn is_wanted(snapshot: &Snapshot, wanted: &str, by_id: bool) -> bool {
    if !wanted.starts_with("snapshot.") {
        let text = if by_id { &snapshot.id } else { &snapshot.name };
        return text == wanted.as_bytes();
    }
    wanted.split(',').all(|part| match part.split_once('=') {
        Some(("snapshot.id", id)) => snapshot.id == id.as_bytes(),
        Some(("snapshot.name", name)) => snapshot.name == name.as_bytes(),
        _ => false,
    })
}
