//! L2 entries as writers see them: what an entry holds, and what it becomes.
//!
//! For images with standard entries and without external data file: others are not written.

use std::ops::Range;
use std::sync::atomic::Ordering;

use block::{BlockError, ErrorKind};

use crate::l2_entry::{self, COMPRESSED, COPIED, Cluster, OFFSET, ZERO};
use crate::{Geometry, HostOffset, L2Slice};

/// Compressed data is counted in sectors of that many bytes.
const SECTOR: u64 = 512;

/// What an entry holds.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Entry {
    /// Nothing.
    Unallocated,
    /// Zeros; the cluster at `host` is kept for what is written later.
    Zero {
        /// Number of that host cluster.
        host: Option<u64>,
    },
    /// The bytes in a host cluster.
    Data {
        /// Its number.
        host: u64,
        /// Whether nothing else refers to it.
        exclusive: bool,
    },
    /// Compressed bytes, which touch these host clusters. Each counts one reference for this entry.
    Compressed {
        /// Their numbers.
        hosts: Range<u64>,
    },
}

/// What an entry becomes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum NewEntry {
    /// Nothing: the backing image shows.
    Unallocated,
    /// Zeros, without a host cluster.
    Zero,
    /// Zeros, the host cluster of that number being kept.
    KeptZero(u64),
    /// The bytes in the host cluster of that number, to which nothing else refers.
    Data(u64),
}

impl Geometry {
    /// What the entry for the cluster of `guest` holds. `Corrupt` where it lies, `Invalid` where `guest` is not in the
    /// slice.
    pub fn entry_of(&self, slice: &L2Slice, guest: u64) -> Result<Entry, BlockError> {
        let (from, raw) = self.raw_entry(slice, guest)?;
        let cluster = l2_entry::cluster(raw, self.cluster_bits, self.reserved, self.external);
        let number = |offset: u64| offset >> self.cluster_bits;
        Ok(match cluster.map_err(|fault| self.lie(slice, from, fault))? {
            Cluster::Unallocated => Entry::Unallocated,
            Cluster::Zero => Entry::Zero { host: Some(number(raw & OFFSET)).filter(|host| *host != 0) },
            Cluster::Data { host, exclusive } => Entry::Data { host: number(host), exclusive },
            Cluster::Compressed => Entry::Compressed { hosts: self.compressed_hosts(raw) },
        })
    }

    /// Changes the entry for the cluster of `guest`, for all who look from now on. `Invalid` where `guest` is not in
    /// the slice.
    pub fn set_entry(&self, slice: &L2Slice, guest: u64, entry: NewEntry) -> Result<(), BlockError> {
        let (from, _) = self.raw_entry(slice, guest)?;
        let offset = |host: u64| HostOffset(host << self.cluster_bits).0 | COPIED;
        let raw = match entry {
            NewEntry::Unallocated => 0,
            NewEntry::Zero => ZERO,
            NewEntry::KeptZero(host) => offset(host) | ZERO,
            NewEntry::Data(host) => offset(host),
        };
        slice.words[(from >> self.cluster_bits) as usize].store(raw, Ordering::SeqCst);
        Ok(())
    }

    /// Where in the slice's span `guest` is, and its entry.
    fn raw_entry(&self, slice: &L2Slice, guest: u64) -> Result<(u64, u64), BlockError> {
        let from = guest.wrapping_sub(slice.address().first_guest);
        if from >= self.slice_span() || self.extended || self.external {
            let context = format!("guest offset {guest:#x} is not in this L2 slice, or cannot be written");
            return Err(BlockError::new(ErrorKind::Invalid, context));
        }
        Ok((from, slice.word((from >> self.cluster_bits) as usize)))
    }

    fn compressed_hosts(&self, raw: u64) -> Range<u64> {
        // As in CompressedCluster: the bits of the offset, then one bit for each sector of a cluster.
        let sector_bits = self.cluster_bits - 8;
        let offset_bits = 62 - sector_bits;
        let offset = raw & !COMPRESSED & ((1 << offset_bits) - 1);
        let more_sectors = raw >> offset_bits & ((1 << sector_bits) - 1);
        let first_sector = offset / SECTOR;
        let last = (first_sector + more_sectors) * SECTOR;
        offset >> self.cluster_bits..(last >> self.cluster_bits) + 1
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Header, NewImage, SliceAddress};

    fn slice() -> (Geometry, L2Slice) {
        let fresh = NewImage::new(1 << 30, 16).bytes().expect("fine");
        let header = Header::parse(&fresh.pieces.last().expect("a header").1).expect("good");
        let geometry = Geometry::new(&header);
        let address = SliceAddress { host: HostOffset(5 << 16), first_guest: geometry.slice_span() };
        let slice = L2Slice::parse(&geometry, address, &[0; 4096]).expect("as long as a slice");
        (geometry, slice)
    }

    #[test]
    fn what_is_set_is_found() {
        let (geometry, slice) = slice();
        let at = geometry.slice_span() + 77 * 65536 + 5;
        for (new, found) in [
            (NewEntry::Zero, Entry::Zero { host: None }),
            (NewEntry::Data(9), Entry::Data { host: 9, exclusive: true }),
            (NewEntry::KeptZero(9), Entry::Zero { host: Some(9) }),
            (NewEntry::Unallocated, Entry::Unallocated),
        ] {
            geometry.set_entry(&slice, at, new).expect("inside");
            assert_eq!(geometry.entry_of(&slice, at).expect("good"), found);
            let mut bytes = [0; 4096];
            slice.store(&mut bytes);
            let again = L2Slice::parse(&geometry, slice.address(), &bytes).expect("as long as a slice");
            assert_eq!(geometry.entry_of(&again, at).expect("good"), found);
        }
        for outside in [geometry.slice_span() - 1, 2 * geometry.slice_span()] {
            assert!(geometry.set_entry(&slice, outside, NewEntry::Zero).is_err());
            assert!(geometry.entry_of(&slice, outside).is_err());
        }
    }

    #[test]
    fn compressed_bytes_touch_clusters() {
        let (geometry, slice) = slice();
        let at = geometry.slice_span();
        for (offset, more_sectors, hosts) in [
            (0x50000, 0, 5..6),
            (0x5fe00, 0, 5..6),
            (0x5fe01, 1, 5..7),
            (0x50000, 127, 5..6),
            (0x50200, 127, 5..7),
        ] {
            slice.words[0].store(COMPRESSED | more_sectors << 54 | offset, Ordering::SeqCst);
            assert_eq!(geometry.entry_of(&slice, at).expect("good"), Entry::Compressed { hosts });
        }
    }
}
