//! The first cluster taken apart into what it consists of, and put together again: fixed fields, extensions in their
//! order, backing file name.
//!
//! Invariants: fields and extensions that we do not know stay as they are; what is put together fits one cluster and
//! parses as a header again.

use block::{BlockError, ErrorKind};

use crate::Header;
use crate::big_endian::{be32, be64};
use crate::extension::{BACKING_FORMAT, END, FEATURE_NAMES, RawExtensions};
use crate::feature::NAMES;
use crate::header::{Backing, MAX_BACKING_NAME};

/// Where fields of fixed place are.
pub(super) const BACKING_OFFSET_AT: usize = 8;
pub(super) const BACKING_LEN_AT: usize = 16;
pub(super) const SIZE_AT: usize = 24;
pub(super) const L1_ENTRIES_AT: usize = 36;
pub(super) const L1_OFFSET_AT: usize = 40;
pub(super) const SNAPSHOTS_AT: usize = 60;
pub(super) const SNAPSHOTS_OFFSET_AT: usize = 64;
pub(super) const INCOMPATIBLE_AT: usize = 72;
/// The last byte of those bits.
pub(super) const INCOMPATIBLE_END: usize = 79;
pub(super) const AUTOCLEAR_AT: usize = 88;
const HEADER_LEN_AT: usize = 100;

/// A header as parts.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Layout {
    /// The first `header_len` bytes of the file.
    pub(crate) fixed: Vec<u8>,
    /// Kinds and data without padding, but for the end.
    pub(crate) extensions: Vec<(u32, Vec<u8>)>,
    pub(crate) backing_name: Option<String>,
    pub(crate) cluster_size: usize,
}

impl Layout {
    /// Takes the first cluster of a version 3 image apart. `first` is as of [`Header::parse`].
    pub(crate) fn parse(first: &[u8]) -> Result<Self, BlockError> {
        let header = Header::parse(first)?;
        let cluster_size = 1 << header.cluster_bits;
        let len = header.header_len as usize;
        let to = match be64(first, BACKING_OFFSET_AT) {
            Some(0) | None => cluster_size,
            // Inside the first cluster, as the header's check says.
            Some(offset) => offset as usize,
        };
        let raw = RawExtensions::new(first, len, to);
        let extensions =
            raw.map(|e| e.map(|(kind, data)| (kind, data.to_vec()))).collect::<Result<_, _>>()?;
        let backing_name = header.backing.map(|backing| backing.name);
        Ok(Self { fixed: first[..len].to_vec(), extensions, backing_name, cluster_size })
    }

    /// The bytes from the start of the file to the end of the last part. The names of feature bits are left out
    /// where they do not fit. `Invalid` where the rest does not fit either.
    pub(crate) fn bytes(&self) -> Result<Vec<u8>, BlockError> {
        let whole = self.put_together(true);
        let bytes = if whole.len() <= self.cluster_size { whole } else { self.put_together(false) };
        if bytes.len() > self.cluster_size {
            let context = format!(
                "a header of {} bytes does not fit the first cluster ({} bytes): choose larger clusters or a shorter backing file name",
                bytes.len(),
                self.cluster_size
            );
            return Err(BlockError::new(ErrorKind::Invalid, context));
        }
        Ok(bytes)
    }

    fn put_together(&self, names: bool) -> Vec<u8> {
        let mut bytes = self.fixed.clone();
        let wanted = |kind: &u32| names || *kind != FEATURE_NAMES;
        for (kind, data) in self.extensions.iter().filter(|(kind, _)| wanted(kind)) {
            put_extension(&mut bytes, *kind, data);
        }
        put_extension(&mut bytes, END, &[]);
        let name = self.backing_name.as_deref().unwrap_or_default();
        let offset = if name.is_empty() { 0 } else { bytes.len() as u64 };
        put64(&mut bytes, BACKING_OFFSET_AT, offset);
        put32(&mut bytes, BACKING_LEN_AT, name.len() as u32);
        bytes.extend_from_slice(name.as_bytes());
        bytes
    }

    /// Another backing image, or none.
    pub(crate) fn set_backing(&mut self, backing: Option<&Backing>) -> Result<(), BlockError> {
        if let Some(backing) = backing {
            check_name(&backing.name)?;
        }
        self.backing_name = backing.map(|backing| backing.name.clone());
        match backing.and_then(|backing| backing.format.as_deref()) {
            Some(format) => self.set_extension(BACKING_FORMAT, format.as_bytes()),
            None => self.extensions.retain(|(kind, _)| *kind != BACKING_FORMAT),
        }
        Ok(())
    }

    /// Replaces the extension of that kind, or adds it: that of the backing format in front, others behind.
    pub(crate) fn set_extension(&mut self, kind: u32, data: &[u8]) {
        match self.extensions.iter_mut().rfind(|(k, _)| *k == kind) {
            Some((_, old)) => *old = data.to_vec(),
            None if kind == BACKING_FORMAT => self.extensions.insert(0, (kind, data.to_vec())),
            None => self.extensions.push((kind, data.to_vec())),
        }
    }

    /// Sets the autoclear bits of `set`, then clears those of `clear`.
    pub(crate) fn change_autoclear(&mut self, set: u64, clear: u64) {
        let old = be64(&self.fixed, AUTOCLEAR_AT).unwrap_or(0);
        put64(&mut self.fixed, AUTOCLEAR_AT, (old | set) & !clear);
    }
}

/// Whether a backing file name can be stored.
pub(super) fn check_name(name: &str) -> Result<(), BlockError> {
    let why = if name.is_empty() || name.contains('\0') {
        "is empty or has a NUL byte in it".to_owned()
    } else if name.len() > MAX_BACKING_NAME {
        format!("has {} bytes, more than {MAX_BACKING_NAME}", name.len())
    } else {
        return Ok(());
    };
    Err(BlockError::new(ErrorKind::Invalid, format!("the backing file name {why}")))
}

/// A version 3 header without extensions: its fields of fixed place.
pub(crate) fn fixed_v3(cluster_bits: u32, size: u64, refcount_order: u32) -> Vec<u8> {
    /// With the compression type and its padding, as QEMU writes it.
    const LEN: u32 = 112;
    let mut bytes = fixed(cluster_bits, size, 3, LEN as usize);
    put32(&mut bytes, 96, refcount_order);
    put32(&mut bytes, HEADER_LEN_AT, LEN);
    bytes
}

/// A version 2 header without extensions.
pub(crate) fn fixed_v2(cluster_bits: u32, size: u64) -> Vec<u8> {
    fixed(cluster_bits, size, 2, 72)
}

fn fixed(cluster_bits: u32, size: u64, version: u32, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    bytes[..4].copy_from_slice(b"QFI\xfb");
    put32(&mut bytes, 4, version);
    put32(&mut bytes, 20, cluster_bits);
    put64(&mut bytes, 24, size);
    bytes
}

/// Feature bits of a version 3 header, and its compression type.
pub(crate) fn put_features(fixed: &mut [u8], incompatible: u64, compatible: u64, compression: u8) {
    put64(fixed, 72, incompatible);
    put64(fixed, 80, compatible);
    fixed[104] = compression;
}

/// Where the L1 table and the refcount table are.
pub(crate) fn put_tables(fixed: &mut [u8], l1: (u64, u32), refcounts: (u64, u32)) {
    put32(fixed, 36, l1.1);
    put64(fixed, 40, l1.0);
    put_refcount_table(fixed, refcounts.0, refcounts.1);
}

/// Where the refcount table is: offset, and length in clusters.
pub(crate) fn put_refcount_table(fixed: &mut [u8], offset: u64, clusters: u32) {
    put64(fixed, 48, offset);
    put32(fixed, 56, clusters);
}

/// The table of names of feature bits that we know, as QEMU writes it.
pub(crate) fn feature_names() -> Vec<u8> {
    let mut table = Vec::with_capacity(NAMES.len() * 48);
    for (mask, bit, name) in NAMES {
        let mut entry = [0; 48];
        (entry[0], entry[1]) = (*mask, *bit);
        entry[2..2 + name.len()].copy_from_slice(name.as_bytes());
        table.extend_from_slice(&entry);
    }
    table
}

fn put_extension(bytes: &mut Vec<u8>, kind: u32, data: &[u8]) {
    bytes.extend_from_slice(&kind.to_be_bytes());
    bytes.extend_from_slice(&(data.len() as u32).to_be_bytes());
    bytes.extend_from_slice(data);
    bytes.resize(bytes.len().next_multiple_of(8), 0);
}

pub(super) fn put32(bytes: &mut [u8], at: usize, value: u32) {
    bytes[at..at + 4].copy_from_slice(&value.to_be_bytes());
}

pub(super) fn put64(bytes: &mut [u8], at: usize, value: u64) {
    bytes[at..at + 8].copy_from_slice(&value.to_be_bytes());
}

/// The length of an extension's data, where its prefix is.
pub(super) fn extension_len(bytes: &[u8], at: usize) -> Option<usize> {
    Some(be32(bytes, at + 4)? as usize)
}
