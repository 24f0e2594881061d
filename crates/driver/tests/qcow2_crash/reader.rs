//! Reading an image without the driver: the format's own look-ups over bytes in memory.

use block::{ByteRange, Place};
use qcow2::{Geometry, Header, L1Table, L2Slice, Located};

/// What the image in `file` reads as, over `base` where its header names a backing image.
pub fn read(file: &[u8], base: &[u8]) -> Result<Vec<u8>, String> {
    read_image(file, base).map_err(|error| error.to_string())
}

fn read_image(file: &[u8], base: &[u8]) -> block::Result<Vec<u8>> {
    let header = Header::parse(&file[..Header::needed(file)?])?;
    let base = if header.backing.is_some() { base } else { &[] };
    let (geometry, len) = (Geometry::new(&header), file.len() as u64);
    let l1 = geometry.l1_range(len)?;
    let l1 = L1Table::parse(&geometry, &file[l1.start() as usize..l1.end() as usize])?;
    let mut bytes = Vec::new();
    let mut rest = ByteRange::new(0, header.virtual_size);
    while !rest.is_empty() {
        let (place, run) = match geometry.locate(&l1, rest, len)? {
            Located::Unallocated { len } => (Place::Unallocated, len),
            Located::Slice(address) => {
                let from = address.host.0 as usize;
                let slice = L2Slice::parse(&geometry, address, &file[from..from + geometry.slice_bytes()])?;
                let mapping = geometry.map(&slice, rest, len)?;
                (mapping.place, mapping.len)
            }
        };
        let (source, at) = match place {
            Place::Data { offset, .. } => (file, offset),
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
