//! What a killed host has left in its cache: looked at in the file itself, by nobody who could change it.

use std::collections::HashSet;
use std::path::Path;
use std::sync::Arc;

use block::{ByteRange, Result};
use engine::Engine;
use serde_json::json;

use super::host::GRANULE;
use super::source::Source;
use super::sweep::pieces;

/// What a cache holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Kept {
    /// Bytes of granules that hold data.
    pub(super) data: u64,
    /// Bytes of other granules: they should never have come.
    pub(super) holes: u64,
}

/// Counts what the cache at `path` maps. Takes no lock: nobody uses the file, and the next host may want it at once.
pub(super) async fn kept(engine: &Arc<Engine>, source: &Source, path: &Path) -> Result<Kept> {
    let file = json!({ "driver": "file", "filename": path, "locking": "off" });
    let options =
        json!({ "driver": "qcow2", "node-name": "kept", "read-only": true, "backing": null, "file": file });
    let node = engine.add_node(options.as_object().cloned().unwrap_or_default()).await?;
    let reader = engine.reader(&node, &node)?;
    let extents = reader.extents(ByteRange::between(0, reader.size())).await?;
    reader.close().await?;
    engine.delete_node(&node).await?;
    let mapped = extents.iter().filter(|extent| !extent.state.reads_zero()).map(|extent| extent.range);
    Ok(sort(mapped, &source.granules()))
}

fn sort(mapped: impl Iterator<Item = ByteRange>, granules: &[ByteRange]) -> Kept {
    let starts: HashSet<u64> = granules.iter().map(|granule| granule.start()).collect();
    let mut kept = Kept::default();
    for piece in mapped.flat_map(|range| pieces(range, GRANULE)) {
        match starts.contains(&(piece.start() / GRANULE * GRANULE)) {
            true => kept.data += piece.len(),
            false => kept.holes += piece.len(),
        }
    }
    kept
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn holes_that_came_are_told_from_data() {
        let at = |start, end| ByteRange::between(start * GRANULE, end * GRANULE);
        let kept = sort([at(0, 2), at(4, 6)].into_iter(), &[at(1, 2), at(4, 5), at(5, 6)]);
        assert_eq!(kept, Kept { data: 3 * GRANULE, holes: GRANULE });
    }
}
