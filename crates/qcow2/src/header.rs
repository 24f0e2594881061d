//! The header: what the first cluster of an image says about the rest.
//!
//! Invariant: a [`Header`] that exists has passed every check that needs no other part of the file, so
//! that arithmetic on its fields cannot overflow and its tables have bounded sizes.

mod amend;
mod check;
pub(crate) mod edit;
mod fixed;
pub(crate) mod layout;
mod switch;

use block::{BlockError, ErrorKind};

use crate::extension::{self, Extensions};
use crate::{BitmapsExtension, Compression, Features, HostOffset, UnknownExtension, corrupt};
use fixed::Fixed;
pub use switch::Switch;

/// Longest backing file name in bytes.
const MAX_BACKING_NAME: usize = 1023;

/// Version of the format.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Version {
    /// Of 2008, `compat=0.10`: no feature bits, no zero clusters, 16-bit refcounts.
    V2,
    /// Of 2012, `compat=1.1`.
    V3,
}

/// Where an image says that its backing image is.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Backing {
    /// The name as stored, 1 to 1023 bytes: for [`crate::resolve`].
    pub name: String,
    /// Its format, where the image names it. Without one nothing may be probed from its content.
    pub format: Option<String>,
}

/// The external data file.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct DataFile {
    /// Its name as stored, where the image has one.
    pub name: Option<String>,
    /// Whether the file reads as a raw image of the disk by itself.
    pub raw: bool,
}

/// Where the refcount table is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct RefcountTable {
    /// A multiple of the cluster size.
    pub offset: HostOffset,
    /// Its length in clusters, at least 1 and at most [`RefcountTable::BYTES_MAX`] of them.
    pub clusters: u32,
    /// Width of a refcount in bits: 1, 2, 4, 8, 16, 32 or 64.
    pub bits: u32,
}

impl RefcountTable {
    /// Most bytes that it takes: QEMU's bound.
    pub const BYTES_MAX: u64 = 8 << 20;
}

/// Where the table of internal snapshots is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SnapshotTable {
    /// A multiple of the cluster size.
    pub offset: HostOffset,
    /// Number of internal snapshots. Not checked: any number.
    pub count: u32,
}

/// A checked header.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Header {
    /// Version of the format.
    pub version: Version,
    /// Size of the virtual disk in bytes; any number, also one that is no multiple of 512.
    pub virtual_size: u64,
    /// Base-2 logarithm of the cluster size, 9..=21.
    pub cluster_bits: u32,
    /// Offset of the active L1 table, a multiple of the cluster size.
    pub l1_offset: HostOffset,
    /// Number of its entries: enough for the virtual size, at most 32 MiB of them.
    pub l1_entries: u32,
    /// Where the refcounts are.
    pub refcount_table: RefcountTable,
    /// Where the internal snapshots are.
    pub snapshots: SnapshotTable,
    /// The feature bits; all incompatible ones are known.
    pub features: Features,
    /// How compressed clusters are compressed.
    pub compression: Compression,
    /// Length in bytes of the header without extensions.
    pub header_len: u32,
    /// The backing image, where there is one.
    pub backing: Option<Backing>,
    /// The external data file, where guest data lies in one.
    pub data_file: Option<DataFile>,
    /// The persistent dirty bitmaps, where they are there and consistent.
    pub bitmaps: Option<BitmapsExtension>,
    /// All extensions that we do not know, in their order.
    pub unknown_extensions: Vec<UnknownExtension>,
}

impl Header {
    /// Bytes from the start of the file that [`Header::needed`] looks at.
    pub const PREFIX: usize = 112;

    /// How many bytes from the start of the file [`Header::parse`] looks at: one cluster, 512 B to 2 MiB.
    /// `prefix` is the first [`Header::PREFIX`] bytes, or all where the file is shorter.
    pub fn needed(prefix: &[u8]) -> Result<usize, BlockError> {
        let fixed = Fixed::read(prefix)?;
        check::cluster_bits(&fixed)?;
        Ok(1 << fixed.cluster_bits)
    }

    /// Parses the header, its extensions and the backing file name. `first` is the start of the file,
    /// [`Header::needed`] bytes of it or all where the file is shorter.
    ///
    /// Errors: `Corrupt` where it contradicts itself or the limits, `Unsupported` for other versions,
    /// encryption, and incompatible features that are unknown here, named as the image names them.
    pub fn parse(first: &[u8]) -> Result<Self, BlockError> {
        let fixed = Fixed::read(first)?;
        check::header_len(&fixed)?;
        fixed.features.refuse_unknown(first, fixed.header_len as usize)?;
        check::encryption(&fixed)?;
        check::cluster_bits(&fixed)?;
        check::tables(&fixed)?;
        let (extensions, backing_name) = after_fixed(&fixed, first)?;
        if let Some(bitmaps) = extensions.bitmaps {
            check::aligned(&fixed, "bitmap directory", bitmaps.directory)?;
        }
        Ok(Self {
            version: fixed.version,
            virtual_size: fixed.size,
            cluster_bits: fixed.cluster_bits,
            l1_offset: fixed.l1_offset,
            l1_entries: fixed.l1_entries,
            refcount_table: RefcountTable {
                offset: fixed.refcount_offset,
                clusters: fixed.refcount_clusters,
                bits: 1 << fixed.refcount_order,
            },
            snapshots: SnapshotTable { offset: fixed.snapshots_offset, count: fixed.snapshots },
            features: fixed.features,
            compression: check::compression(&fixed)?,
            header_len: fixed.header_len,
            backing: backing_name.map(|name| Backing { name, format: extensions.backing_format }),
            data_file: fixed
                .features
                .data_file()
                .then_some(DataFile { name: extensions.data_file_name, raw: fixed.features.data_file_raw() }),
            bitmaps: extensions.bitmaps,
            unknown_extensions: extensions.unknown,
        })
    }

    /// Whether the image may be written as it is: `NotPermitted` when its corrupt bit says that nothing may,
    /// or when its dirty bit says that refcounts have to be rebuilt first.
    pub fn writable(&self) -> Result<(), BlockError> {
        let refusal = if self.features.corrupt() {
            "the image is marked corrupt; repair it before writing to it, or open it read-only"
        } else if self.features.dirty() {
            "the image is marked dirty: its refcounts must be repaired before it is written to"
        } else {
            return Ok(());
        };
        Err(BlockError::new(ErrorKind::NotPermitted, refusal))
    }
}

/// The extensions, and the backing file name that follows them.
fn after_fixed(fixed: &Fixed, first: &[u8]) -> Result<(Extensions, Option<String>), BlockError> {
    let cluster = 1usize << fixed.cluster_bits;
    let first = &first[..first.len().min(cluster)];
    let from = fixed.header_len as usize;
    let (to, name) = match usize::try_from(fixed.backing_offset) {
        Ok(0) => (cluster, None),
        Ok(offset) if (from..=cluster).contains(&offset) => (offset, backing_name(fixed, first, offset)?),
        _ => {
            return Err(corrupt(format!(
                "the backing file name starts at byte {}, not between the header's end ({from}) and the end of the first cluster ({cluster})",
                fixed.backing_offset
            )));
        }
    };
    Ok((Extensions::parse(first, from, to, fixed.features.bitmaps())?, name))
}

fn backing_name(fixed: &Fixed, first: &[u8], offset: usize) -> Result<Option<String>, BlockError> {
    let len = fixed.backing_len as usize;
    if len > MAX_BACKING_NAME {
        return Err(corrupt(format!(
            "the backing file name claims {len} bytes, more than {MAX_BACKING_NAME}"
        )));
    }
    let bytes = first.get(offset..).and_then(|rest| rest.get(..len)).ok_or_else(|| {
        corrupt(format!("the backing file name ({len} bytes at byte {offset}) leaves the first cluster"))
    })?;
    extension::text("backing file name", bytes)
}

#[cfg(test)]
mod tests;
