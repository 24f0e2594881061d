//! Finding out where an image's structures are: when it is opened for writing, and when snapshots have changed its
//! tables.
//!
//! Invariant: what tables claim is looked at once, however often they claim it: time and memory are bounded by the
//! length of the file.

use block::{ByteRange, Result};
use io::Lease;
use qcow2::{Geometry, Header, L1Entry};

use super::super::snapshots::stored::stored;
use super::super::space::Run;
use super::super::space::structures::{Structure, Structures, Watched};

/// Bytes of tables that are read at a time.
const PIECE: u64 = 1 << 20;

/// Where the structures are, but for those of snapshots, of an image in a file of `file_len` bytes, whose L1 table and
/// refcount table hold these bytes.
pub(crate) fn of_tables(
    header: &Header,
    file_len: u64,
    (l1, refcounts): (&[u8], &[u8]),
    watched: Watched,
) -> Structures {
    let geometry = Geometry::new(header);
    let clusters = |offset: u64, len: u64| run(&geometry, offset, len);
    let mut found = Structures::new(watched);
    found.add(Structure::Header, Run { first: 0, count: 1 });
    found.add(Structure::ActiveL1, clusters(geometry.l1_offset().0, l1.len() as u64));
    found.add(Structure::RefcountTable, clusters(header.refcount_table.offset.0, refcounts.len() as u64));
    for entry in L1Entry::all(l1) {
        found.add_l2(entry.exclusive, clusters(entry.table.0, geometry.cluster_size()));
    }
    for block in qcow2::words(refcounts).filter(|at| *at != 0) {
        found.add(Structure::RefcountBlock, clusters(block, geometry.cluster_size()));
    }
    if let Some(bitmaps) = header.bitmaps {
        let directory = ByteRange::between(
            bitmaps.directory.0,
            bitmaps.directory.0.saturating_add(bitmaps.directory_len).min(file_len).max(bitmaps.directory.0),
        );
        found.add(Structure::BitmapDirectory, clusters(directory.start(), directory.len()));
    }
    found
}

/// Adds the structures of snapshots; `read` reads parts of the file.
///
/// Errors: those of `read`; `Corrupt` where the table of snapshots lies. What was found until then is there.
pub(crate) async fn add_snapshots(
    header: &Header,
    file_len: u64,
    found: &mut Structures,
    read: impl AsyncFn(ByteRange) -> Result<Lease>,
) -> Result<()> {
    let (geometry, watched) = (Geometry::new(header), found.watched());
    let wanted = [Structure::SnapshotTable, Structure::InactiveL1, Structure::InactiveL2];
    if header.snapshots.count == 0 || !wanted.into_iter().any(|structure| watched.has(structure)) {
        return Ok(());
    }
    // A table that begins behind the end of the file has no bytes there.
    let part = async |range: ByteRange| if range.is_empty() { Ok(Lease::empty()) } else { read(range).await };
    let snapshots = stored(header, file_len, part).await?;
    found.add(Structure::SnapshotTable, snapshots.run);
    let in_file = |table: ByteRange| table.intersection(ByteRange::new(0, file_len));
    let tables = snapshots.list.all().iter().map(|snapshot| {
        ByteRange::between(
            snapshot.l1_offset.0,
            snapshot.l1_offset.0.saturating_add(u64::from(snapshot.l1_entries) * 8),
        )
    });
    let mut tables: Vec<_> = tables.map(in_file).filter(|table| !table.is_empty()).collect();
    tables.sort_unstable_by_key(|table| table.start());
    let mut end = 0;
    for table in tables {
        // Tables that overlap are looked at once.
        let mut rest = ByteRange::between(table.start().max(end).min(table.end()), table.end());
        found.add(Structure::InactiveL1, run(&geometry, rest.start(), rest.len()));
        end = end.max(table.end());
        while watched.has(Structure::InactiveL2) && !rest.is_empty() {
            let bytes = read(rest.head(PIECE)).await?;
            for entry in L1Entry::all(&bytes) {
                found.add(Structure::InactiveL2, run(&geometry, entry.table.0, geometry.cluster_size()));
            }
            rest = rest.skip(bytes.len() as u64);
        }
    }
    Ok(())
}

/// The clusters that have bytes of a range.
fn run(geometry: &Geometry, offset: u64, len: u64) -> Run {
    let (first, end) =
        (offset >> geometry.cluster_bits(), offset.saturating_add(len).div_ceil(geometry.cluster_size()));
    Run { first, count: if len == 0 { 0 } else { end - first } }
}
