//! Opening an internal snapshot as a disk of its own.
//!
//! Invariant: it is only read. What it holds does not change while others write to the image, but their tables are not
//! ours: whoever opens both opens both read-only.

use block::{BlockError, ByteRange, ErrorKind, Result};
use flow::{View, seam};
use qcow2::{Geometry, Header, ParsedSnapshots, Snapshot};

/// Bytes of the table that are read at first.
const FIRST_READ: u64 = 4096;

/// The geometry of the snapshot whose id, or else whose name, is `wanted`.
pub(super) async fn geometry(
    file: &View,
    header: &Header,
    geometry: Geometry,
    wanted: &str,
) -> Result<Geometry> {
    let snapshots = read(file, header).await?;
    let by = |text: fn(&Snapshot) -> &[u8]| snapshots.iter().find(|s| text(s) == wanted.as_bytes());
    match by(|s| &s.id).or_else(|| by(|s| &s.name)) {
        Some(snapshot) => geometry.of_snapshot(snapshot),
        None => {
            let names: Vec<_> = snapshots.iter().map(|s| String::from_utf8_lossy(&s.name)).collect();
            let names = if names.is_empty() { "none".to_owned() } else { names.join(", ") };
            let context = format!("it has no internal snapshot '{wanted}' (those that it has: {names})");
            Err(BlockError::new(ErrorKind::NotFound, context))
        }
    }
}

async fn read(file: &View, header: &Header) -> Result<Vec<Snapshot>> {
    let (start, file_len) = (header.snapshots.offset.0, file.size());
    let mut len = FIRST_READ;
    loop {
        // The header's check keeps the offset below 2^56, the parser the length at 64 MiB.
        let range = ByteRange::between(start, (start + len).min(file_len));
        let bytes = seam::read(file, range).await?;
        match Snapshot::parse_table(&bytes, header.snapshots.count, range.end() >= file_len)? {
            ParsedSnapshots::Whole(snapshots, _) => return Ok(snapshots),
            ParsedSnapshots::More(needed) => len = needed.max(2 * len),
        }
    }
}
