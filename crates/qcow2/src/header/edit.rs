//! Changes of the header of an image that is in use, as writes to its first cluster.
//!
//! Invariants: each write is to be durable before the next one begins; sectors of 512 bytes are taken to be written
//! whole or not at all, and between any two writes (and in the midst of one that lies in one sector) the header is
//! a good one: the old or the new. Extensions that do not fit the first sector, bitmaps that come or go where there is
//! no room behind the others, and names and formats that do not fit beside the old ones, are written in one go over
//! several sectors, as QEMU writes all headers: no crash may fall into it.

mod bitmaps;

use block::BlockError;

use crate::extension::{BACKING_FORMAT, PREFIX};
use crate::header::layout::{
    self, AUTOCLEAR_AT, BACKING_LEN_AT, BACKING_OFFSET_AT, INCOMPATIBLE_AT, INCOMPATIBLE_END, L1_ENTRIES_AT,
    L1_OFFSET_AT, Layout, SIZE_AT, extension_len, put32, put64,
};
use crate::header::{Backing, Header, Switch, Version, amend};
use crate::{BitmapsExtension, HostOffset, unsupported};

/// What is written whole or not at all, in bytes.
const SECTOR: usize = 512;

/// Bit of the incompatible features that says that refcounts may be wrong.
const DIRTY: u8 = 1;

/// A change of the header.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum HeaderEdit {
    /// The image has no backing image any more.
    NoBacking,
    /// The image has this backing image.
    Backing(Backing),
    /// These autoclear bits are cleared.
    ClearAutoclear(u64),
    /// This extension is added, or replaces that of its kind; these autoclear bits are set with it.
    Extension {
        /// Its kind, none that the format itself defines.
        kind: u32,
        /// Its data without padding.
        data: Vec<u8>,
        /// Autoclear bits that say that it can be believed.
        autoclear: u64,
    },
    /// The image has these persistent bitmaps, or none.
    Bitmaps(Option<BitmapsExtension>),
    /// The image is one of that version. The caller has seen to it that its tables hold nothing that the version does
    /// not know, and that its refcounts have 16 bits. An error where the extensions do not fit the first sector.
    Version(Version),
    /// Refcounts may be written late, or not.
    LazyRefcounts(bool),
    /// The data file has that name, or none; of images that have one.
    DataFileName(Option<String>),
    /// The image is marked as corrupt.
    MarkCorrupt,
    /// The refcount table lies elsewhere.
    RefcountTable {
        /// Where it begins, a multiple of the cluster size.
        offset: HostOffset,
        /// Its length in clusters.
        clusters: u32,
    },
    /// All tables are others.
    Switch(Switch),
    /// Refcounts may be wrong from now on, or are right again (incompatible bit 0).
    Dirty(bool),
    /// The virtual disk is that many bytes long.
    Size(u64),
    /// The active L1 table lies elsewhere, or is longer.
    L1Table {
        /// Where it begins, a multiple of the cluster size.
        offset: HostOffset,
        /// Number of its entries.
        entries: u32,
    },
}

/// A write to the image file.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct HeaderWrite {
    /// Where it begins, a multiple of 512.
    pub offset: u64,
    /// What is written, a multiple of 512 bytes.
    pub bytes: Vec<u8>,
}

impl HeaderEdit {
    /// The writes that carry it out on the image whose first cluster is `first` ([`Header::needed`] bytes), in order;
    /// none where nothing changes.
    ///
    /// Errors: those of [`Header::parse`]; `Unsupported` for extensions in version 2; `Invalid` where the new header
    /// does not fit the first cluster or the backing file name is longer than 1023 bytes.
    pub fn writes(&self, first: &[u8]) -> Result<Vec<HeaderWrite>, BlockError> {
        let header = Header::parse(first)?;
        if header.version == Version::V2 {
            match self {
                // It has none.
                Self::ClearAutoclear(_) | Self::MarkCorrupt | Self::Bitmaps(None) => return Ok(Vec::new()),
                Self::Dirty(_) => return Err(unsupported("images of version 2 cannot be marked dirty")),
                Self::Extension { .. } | Self::Bitmaps(_) => {
                    let context = "images of version 2 have no feature bits that would guard an extension: 'qemu-img amend -o compat=1.1' makes it version 3";
                    return Err(unsupported(context));
                }
                _ => {}
            }
        }
        let mut whole = first.to_vec();
        whole.resize(1 << header.cluster_bits, 0);
        let (mut now, mut writes) = (whole.clone(), Vec::new());
        for next in self.states(&whole)? {
            writes.extend(difference(&now, &next));
            now = next;
        }
        // What is written must be readable.
        Header::parse(&now)?;
        if !writes.is_empty() && first.len() < whole.len() {
            // The file ends within its first cluster: zeros that nobody writes would not be there.
            let offset = first.len() / SECTOR * SECTOR;
            writes.insert(0, HeaderWrite { offset: offset as u64, bytes: whole.split_off(offset) });
        }
        Ok(writes)
    }

    /// What the first cluster looks like after each step.
    fn states(&self, first: &[u8]) -> Result<Vec<Vec<u8>>, BlockError> {
        let mut next = first.to_vec();
        match self {
            Self::NoBacking => return without_backing(first),
            Self::Backing(backing) => return with_backing(first, backing),
            Self::Bitmaps(wanted) => return bitmaps::states(first, wanted.as_ref()),
            Self::Version(to) => return amend::version(first, *to),
            Self::LazyRefcounts(on) => return amend::lazy_refcounts(first, *on),
            Self::DataFileName(name) => return amend::data_file_name(first, name.as_deref()),
            Self::ClearAutoclear(bits) => {
                let mut layout = Layout::parse(first)?;
                layout.change_autoclear(0, *bits);
                next[AUTOCLEAR_AT..AUTOCLEAR_AT + 8]
                    .copy_from_slice(&layout.fixed[AUTOCLEAR_AT..AUTOCLEAR_AT + 8]);
            }
            Self::MarkCorrupt => {
                let bits = crate::big_endian::be64(first, INCOMPATIBLE_AT).unwrap_or(0);
                put64(&mut next, INCOMPATIBLE_AT, bits | crate::feature::CORRUPT);
            }
            Self::Extension { kind, data, autoclear } => {
                return amend::extension(first, *kind, data, *autoclear);
            }
            Self::RefcountTable { offset, clusters } => {
                layout::put_refcount_table(&mut next, offset.0, *clusters);
            }
            Self::Switch(switch) => switch.put(&mut next),
            Self::Dirty(true) => next[INCOMPATIBLE_END] |= DIRTY,
            Self::Dirty(false) => next[INCOMPATIBLE_END] &= !DIRTY,
            Self::Size(size) => put64(&mut next, SIZE_AT, *size),
            Self::L1Table { offset, entries } => {
                put32(&mut next, L1_ENTRIES_AT, *entries);
                put64(&mut next, L1_OFFSET_AT, offset.0);
            }
        }
        Ok(vec![next])
    }
}

/// The name goes by its offset alone, which is one sector; its bytes and its format's stay unused.
fn without_backing(first: &[u8]) -> Result<Vec<Vec<u8>>, BlockError> {
    let layout = Layout::parse(first)?;
    let mut next = first.to_vec();
    put64(&mut next, BACKING_OFFSET_AT, 0);
    put32(&mut next, BACKING_LEN_AT, 0);
    // Extensions that end with the name rather than by themselves would go on into it.
    match Layout::parse(&next) {
        Ok(parsed) if parsed.extensions == layout.extensions => Ok(vec![next]),
        _ => {
            let bytes = Layout { backing_name: None, ..layout }.bytes()?;
            Ok(vec![padded(bytes, first.len())])
        }
    }
}

/// The new name is written beside the old one; then one sector says where it is and what its format is.
fn with_backing(first: &[u8], backing: &Backing) -> Result<Vec<Vec<u8>>, BlockError> {
    layout::check_name(&backing.name)?;
    let mut wanted = Layout::parse(first)?;
    wanted.set_backing(Some(backing))?;
    let Some((named, pointed)) = beside(first, backing) else {
        return Ok(vec![padded(wanted.bytes()?, first.len())]);
    };
    match Layout::parse(&pointed) {
        Ok(found) if found.extensions == wanted.extensions => Ok(vec![named, pointed]),
        _ => Ok(vec![padded(wanted.bytes()?, first.len())]),
    }
}

/// The first cluster with the new name in it, and with the header pointing there.
fn beside(first: &[u8], backing: &Backing) -> Option<(Vec<u8>, Vec<u8>)> {
    let parsed = Layout::parse(first).ok()?;
    let bytes = parsed.bytes().ok()?;
    // The name is the last part: without it the extensions are left, their end included.
    let extensions_end = bytes.len() - parsed.backing_name.as_ref().map_or(0, String::len);
    let old = crate::big_endian::be64(first, BACKING_OFFSET_AT)? as usize;
    let old_len = crate::big_endian::be32(first, BACKING_LEN_AT)? as usize;
    let gap = (extensions_end, if old == 0 { first.len() } else { old });
    let behind = ((old + old_len).max(extensions_end).next_multiple_of(8), first.len());
    let fits = |(from, to): &(usize, usize)| from + backing.name.len() <= *to;
    let (at, _) = [gap, behind].into_iter().find(fits)?;
    let mut named = first.to_vec();
    named[at..at + backing.name.len()].copy_from_slice(backing.name.as_bytes());
    let mut pointed = named.clone();
    put64(&mut pointed, BACKING_OFFSET_AT, at as u64);
    put32(&mut pointed, BACKING_LEN_AT, backing.name.len() as u32);
    put_format(&mut pointed, parsed.fixed.len(), backing.format.as_deref());
    Some((named, pointed))
}

/// Changes the format of the backing file in place, where it is the first extension, lies in the first sector, and
/// keeps its place.
fn put_format(bytes: &mut [u8], at: usize, format: Option<&str>) {
    let (Some(format), Some(len)) = (format, extension_len(bytes, at)) else { return };
    let (from, room) = (at + PREFIX, len.next_multiple_of(8));
    let is_format = crate::big_endian::be32(bytes, at) == Some(BACKING_FORMAT);
    if is_format && format.len().next_multiple_of(8) == room && from + room <= SECTOR {
        bytes[from..from + room].fill(0);
        bytes[from..from + format.len()].copy_from_slice(format.as_bytes());
        put32(bytes, at + 4, format.len() as u32);
    }
}

/// The sectors from the first to the last that differ.
fn difference(old: &[u8], new: &[u8]) -> Option<HeaderWrite> {
    let sectors = || old.chunks(SECTOR).zip(new.chunks(SECTOR));
    let first = sectors().position(|(a, b)| a != b)?;
    let last = sectors().collect::<Vec<_>>().iter().rposition(|(a, b)| a != b)?;
    let bytes = new[first * SECTOR..(last + 1) * SECTOR].to_vec();
    Some(HeaderWrite { offset: (first * SECTOR) as u64, bytes })
}

fn padded(mut bytes: Vec<u8>, len: usize) -> Vec<u8> {
    bytes.resize(len, 0);
    bytes
}

#[cfg(test)]
mod tests;
