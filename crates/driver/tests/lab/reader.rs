//! Reading an image without the driver: the format's own look-ups over bytes in memory.

use block::{ByteRange, Place};
use qcow2::{Decompressor, Geometry, Header, L1Table, L2Slice, Located, ParsedSnapshots, Snapshot};
use sim::SimDisk;

/// What the image on `disk` reads as, over its base where the header names a backing image.
pub fn read(disk: &SimDisk) -> Result<Vec<u8>, String> {
    let bytes = |name| disk.bytes(name).unwrap_or_default();
    read_image(&bytes("disk"), &bytes("base"), &bytes("data")).map_err(|error| error.to_string())
}

fn read_image(file: &[u8], base: &[u8], data: &[u8]) -> block::Result<Vec<u8>> {
    let header = Header::parse(&file[..Header::needed(file)?])?;
    let base = if header.backing.is_some() { base } else { &[] };
    let (data, data_len) = match &header.data_file {
        Some(_) => (data, u64::MAX),
        None => (file, file.len() as u64),
    };
    let (geometry, len) = (Geometry::new(&header), file.len() as u64);
    let l1 = geometry.l1_range(len)?;
    let l1 = L1Table::parse(&geometry, &file[l1.start() as usize..l1.end() as usize])?;
    let mut decompressor = Decompressor::new(header.compression)?;
    let mut bytes = Vec::new();
    let mut rest = ByteRange::new(0, header.virtual_size);
    while !rest.is_empty() {
        let (place, run) = match geometry.locate(&l1, rest, len)? {
            Located::Unallocated { len } => (Place::Unallocated, len),
            Located::Slice(address) => {
                let from = address.host.0 as usize;
                let slice = L2Slice::parse(&geometry, address, &file[from..from + geometry.slice_bytes()])?;
                let mapping = geometry.map(&slice, rest, data_len)?;
                if mapping.place == Place::Special {
                    let cluster = geometry.compressed(&slice, rest.start(), len)?;
                    let mut unpacked = vec![0; geometry.cluster_size() as usize];
                    let packed = &file[cluster.host.0 as usize..][..cluster.len];
                    decompressor.decompress(&cluster, packed, &mut unpacked)?;
                    bytes.extend_from_slice(&unpacked[..mapping.len as usize]);
                    rest = rest.skip(mapping.len);
                    continue;
                }
                (mapping.place, mapping.len)
            }
        };
        let (source, at) = match place {
            Place::Data { offset, .. } => (data, offset),
            Place::Unallocated => (base, rest.start()),
            _ => (&[][..], 0),
        };
        let end = bytes.len() + run as usize;
        let part = source.get(at as usize..).unwrap_or_default();
        bytes.extend_from_slice(&part[..part.len().min(run as usize)]);
        bytes.resize(end, 0);
        rest = rest.skip(run);
    }
    Ok(bytes)
}

/// The internal snapshots of the image on `disk` by id, and what they read as.
pub fn snapshots(disk: &SimDisk) -> Result<Vec<(String, Vec<u8>)>, String> {
    let read = |(snapshot, size): (Snapshot, u64)| {
        Ok((String::from_utf8_lossy(&snapshot.id).into_owned(), read_state(disk, &snapshot, size)?))
    };
    listed(disk)?.into_iter().map(read).collect()
}

/// The states of guests that are stored with snapshots, by the snapshot's id and name. They lie behind the disk, from
/// the next L2 table on.
pub fn guests(disk: &SimDisk) -> Result<Vec<(String, Vec<u8>)>, String> {
    let file = disk.bytes("disk").unwrap_or_default();
    let span = Geometry::new(&header_of(&file)?).table_span();
    let with_guest = listed(disk)?.into_iter().filter(|(snapshot, _)| snapshot.vm_state_size > 0);
    let read = |(snapshot, size): (Snapshot, u64)| {
        let start = size.next_multiple_of(span);
        let mut bytes = read_state(disk, &snapshot, start + snapshot.vm_state_size)?;
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        Ok((text(&snapshot.id) + " " + &text(&snapshot.name), bytes.split_off(start as usize)))
    };
    with_guest.map(read).collect()
}

fn header_of(file: &[u8]) -> Result<Header, String> {
    let needed = Header::needed(file).map_err(|error| error.to_string())?;
    Header::parse(&file[..needed]).map_err(|error| error.to_string())
}

/// Each snapshot, and the size of its disk.
fn listed(disk: &SimDisk) -> Result<Vec<(Snapshot, u64)>, String> {
    let file = disk.bytes("disk").unwrap_or_default();
    // Old programs did not note the size of the disk.
    let Header { snapshots: table, virtual_size, .. } = header_of(&file)?;
    let from = file.get(table.offset.0 as usize..).unwrap_or_default();
    let parsed = Snapshot::parse_table(from, table.count, true).map_err(|e| e.to_string())?;
    let ParsedSnapshots::Whole(found, _) = parsed else { return Err("the snapshot table is cut".to_owned()) };
    let sized = |snapshot: Snapshot| {
        let size = snapshot.disk_size.unwrap_or(virtual_size);
        (snapshot, size)
    };
    Ok(found.into_iter().map(sized).collect())
}

/// What the first `size` bytes behind a snapshot's L1 table read as.
fn read_state(disk: &SimDisk, snapshot: &Snapshot, size: u64) -> Result<Vec<u8>, String> {
    let bytes = |name| disk.bytes(name).unwrap_or_default();
    // With its L1 table and its size in the place of the active ones.
    let mut active = bytes("disk");
    active[24..32].copy_from_slice(&size.to_be_bytes());
    active[36..40].copy_from_slice(&snapshot.l1_entries.to_be_bytes());
    active[40..48].copy_from_slice(&snapshot.l1_offset.0.to_be_bytes());
    read_image(&active, &bytes("base"), &[]).map_err(|error| error.to_string())
}
