//! Reading an image without the driver: the format's own look-ups over bytes in memory.

use block::{ByteRange, Place};
use qcow2::{Decompressor, Geometry, Header, L1Table, L2Slice, Located};
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

/// What the first internal snapshot in `file` reads as, where there is one.
pub fn snapshot(file: &[u8]) -> Result<Option<Vec<u8>>, String> {
    let needed = Header::needed(file).map_err(|error| error.to_string())?;
    let header = Header::parse(&file[..needed]).map_err(|error| error.to_string())?;
    if header.snapshots.count == 0 {
        return Ok(None);
    }
    // With its L1 table in the place of the active one, and its size.
    let (mut active, entry) = (file.to_vec(), header.snapshots.offset.0 as usize);
    active.copy_within(entry..entry + 8, 40);
    active.copy_within(entry + 8..entry + 12, 36);
    active.copy_within(entry + 48..entry + 56, 24);
    read_image(&active, &[], &[]).map(Some).map_err(|error| error.to_string())
}
