//! The snapshot table as the file has it.

use block::{ByteRange, Result};
use flow::SnapshotInfo;
use io::Lease;
use qcow2::{Header, ParsedSnapshots, Snapshot, SnapshotList};

use super::super::space::Run;

/// Bytes of the table that are read at first.
const FIRST_READ: u64 = 4096;

/// The list, and the clusters that it takes.
pub(crate) struct Stored {
    pub(crate) list: SnapshotList,
    pub(crate) run: Run,
}

/// What the table of an image with that header holds, in a file of `file_len` bytes of which `read` reads parts.
pub(crate) async fn stored(
    header: &Header,
    file_len: u64,
    read: impl AsyncFn(ByteRange) -> Result<Lease>,
) -> Result<Stored> {
    let (start, bits) = (header.snapshots.offset.0, header.cluster_bits);
    let mut wanted = FIRST_READ;
    loop {
        // The header's check keeps the offset below 2^56, the parser the length at 64 MiB.
        let range = ByteRange::between(start.min(file_len), (start + wanted).min(file_len));
        let bytes = read(range).await?;
        match Snapshot::parse_table(&bytes, header.snapshots.count, range.end() >= file_len)? {
            ParsedSnapshots::Whole(snapshots, len) => {
                let run = Run { first: start >> bits, count: len.div_ceil(1 << bits) };
                return Ok(Stored { list: SnapshotList::new(snapshots, header.virtual_size), run });
            }
            ParsedSnapshots::More(needed) => wanted = needed.max(2 * wanted),
        }
    }
}

/// The internal snapshots of an image with that header, oldest first: for those who look at an image without opening
/// it. The file has `file_len` bytes, of which `read` reads parts.
///
/// Errors: those of `read`; `Corrupt` where the table lies.
pub async fn snapshots(
    header: &Header,
    file_len: u64,
    read: impl AsyncFn(ByteRange) -> Result<Lease>,
) -> Result<Vec<SnapshotInfo>> {
    Ok(stored(header, file_len, read).await?.list.all().iter().map(info).collect())
}

pub(super) fn info(snapshot: &Snapshot) -> SnapshotInfo {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    SnapshotInfo {
        id: text(&snapshot.id),
        name: text(&snapshot.name),
        vm_state_size: snapshot.vm_state_size,
        date_s: snapshot.date_s,
        date_ns: snapshot.date_ns,
        vm_clock_ns: snapshot.vm_clock_ns,
        icount: snapshot.icount.filter(|count| *count != u64::MAX),
        disk_size: snapshot.disk_size.unwrap_or(0),
    }
}
