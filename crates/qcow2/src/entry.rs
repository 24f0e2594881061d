//! L2 entries as writers see them: what an entry holds, and what it becomes.
//!
//! A standard entry is taken for one with a single subcluster, so that writers need one rule for both kinds.
//!
//! Invariant: what is set is one whole entry to whoever looks, also where it takes two words.

use std::ops::Range;

use block::{BlockError, ByteRange, ErrorKind};

use crate::l2_entry::{self, COMPRESSED, COPIED, Cluster, OFFSET, ZERO};
use crate::{Geometry, HostOffset, L2Slice};

/// Compressed data is counted in sectors of that many bytes.
const SECTOR: u64 = 512;

/// What the subclusters of a cluster are, bit 0 being the first; a cluster without subclusters is one. Those that have
/// neither bit are unallocated: the backing image shows.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Parts {
    /// Those whose bytes lie in the host cluster.
    pub allocated: u32,
    /// Those that read as zeros.
    pub zero: u32,
}

impl Parts {
    /// No subcluster is held.
    pub const NONE: Self = Self { allocated: 0, zero: 0 };

    /// These are allocated now, the others stay what they are.
    #[must_use]
    pub const fn with_allocated(self, parts: u32) -> Self {
        Self { allocated: self.allocated | parts, zero: self.zero & !parts }
    }

    /// These read as zeros now, the others stay what they are.
    #[must_use]
    pub const fn with_zero(self, parts: u32) -> Self {
        Self { allocated: self.allocated & !parts, zero: self.zero | parts }
    }
}

/// What an entry holds.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Entry {
    /// Its subclusters are what `parts` says.
    Plain {
        /// Number of its host cluster; one without allocated subclusters is kept for what is written later.
        host: Option<u64>,
        /// Whether nothing else refers to that host cluster.
        exclusive: bool,
        /// What its subclusters are.
        parts: Parts,
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
    /// Subclusters, and the host cluster to which nothing else refers; subclusters are allocated only where there is
    /// one, and zero only where [`Geometry::has_zeros`].
    Plain {
        /// Number of the host cluster.
        host: Option<u64>,
        /// What its subclusters are.
        parts: Parts,
    },
    /// Compressed bytes.
    Compressed {
        /// Where they begin in the image file; any byte.
        offset: HostOffset,
        /// How many they are: at least 1, at most a cluster.
        len: u64,
    },
}

impl NewEntry {
    /// Nothing: the backing image shows.
    pub const UNALLOCATED: Self = Self::Plain { host: None, parts: Parts::NONE };
}

impl Geometry {
    /// The subclusters of a cluster, all of them.
    pub const fn all_parts(&self) -> u32 {
        if self.extended { u32::MAX } else { 1 }
    }

    /// The subclusters that `range` touches of the cluster that its first byte lies in.
    pub fn parts_of(&self, range: ByteRange) -> u32 {
        let first = range.start() & !(self.cluster_size() - 1);
        let from = (range.start() - first) >> self.subcluster_bits();
        let end = (range.end() - first).min(self.cluster_size()).div_ceil(self.subcluster_size());
        // Both are at most 32.
        (u64::from(self.all_parts()) >> from << from & ((1 << end) - 1)) as u32
    }

    /// What the entry for the cluster of `guest` holds. `Corrupt` where it lies, `Invalid` where `guest` is not in the
    /// slice.
    pub fn entry_of(&self, slice: &L2Slice, guest: u64) -> Result<Entry, BlockError> {
        let from = self.in_slice(slice, guest)?;
        let (raw, bitmap) = self.entry(slice, from);
        let lie = |fault| self.lie(slice, from, fault);
        let cluster = l2_entry::cluster(raw, self.cluster_bits, self.reserved, self.external).map_err(lie)?;
        if cluster == Cluster::Compressed {
            return Ok(Entry::Compressed { hosts: self.compressed_hosts(raw) });
        }
        let exclusive = raw & COPIED != 0;
        let is_there = raw & OFFSET != 0 || self.external && exclusive;
        let host = is_there.then_some((raw & OFFSET) >> self.cluster_bits);
        let parts = match cluster {
            _ if self.extended => {
                l2_entry::subclusters(bitmap, 0, host.is_some()).map_err(lie)?;
                Parts { allocated: bitmap as u32, zero: (bitmap >> 32) as u32 }
            }
            Cluster::Data { .. } => Parts { allocated: 1, zero: 0 },
            Cluster::Zero => Parts { allocated: 0, zero: 1 },
            _ => Parts::NONE,
        };
        Ok(Entry::Plain { host, exclusive: exclusive && is_there, parts })
    }

    /// Where the clusters lie that the first bytes of `run` keep though nothing is held there, and how many bytes share
    /// the answer, as far as `slice` goes. `Corrupt` where an entry lies, `Invalid` where `run` does not begin in the
    /// slice.
    pub fn kept_room(&self, slice: &L2Slice, run: ByteRange) -> Result<(Option<u64>, u64), BlockError> {
        let from = self.in_slice(slice, run.start())?;
        let run = run.head(self.slice_span() - from);
        let room = |rest: ByteRange| {
            let part = rest.head(self.cluster_size() - rest.start() % self.cluster_size());
            let room = match self.entry_of(slice, part.start())? {
                Entry::Plain { host: Some(host), parts, .. }
                    if parts.allocated & self.parts_of(part) == 0 =>
                {
                    Some((host << self.cluster_bits) + part.start() % self.cluster_size())
                }
                _ => None,
            };
            Ok::<_, BlockError>((room, part.len()))
        };
        let (first, mut len) = room(run)?;
        while len < run.len() {
            match room(run.skip(len)) {
                Ok((next, more)) if next == first.map(|first| first + len) => len += more,
                _ => break,
            }
        }
        Ok((first, len))
    }

    /// Changes the entry for the cluster of `guest`, for all who look from now on. One writer at a time. `Invalid`
    /// where `guest` is not in the slice.
    pub fn set_entry(&self, slice: &L2Slice, guest: u64, entry: NewEntry) -> Result<(), BlockError> {
        let from = self.in_slice(slice, guest)?;
        let index = (from >> self.cluster_bits) as usize;
        let (raw, parts) = match entry {
            NewEntry::Plain { host, parts } => {
                let host = host.map_or(0, |host| HostOffset(host << self.cluster_bits).0 | COPIED);
                let zero = if !self.extended && parts.zero != 0 { ZERO } else { 0 };
                (host | zero, parts)
            }
            NewEntry::Compressed { offset, len } => (self.compressed_entry(offset, len), Parts::NONE),
        };
        match self.extended {
            true => slice.set_pair(index, raw, u64::from(parts.zero) << 32 | u64::from(parts.allocated)),
            false => slice.set_word(index, raw),
        }
        Ok(())
    }

    /// Takes their own host clusters from the entries of which `suspect` says so of the cluster's number: they read as
    /// before, but nobody is told that he may write there. `suspect` is asked of each, in order.
    pub fn disown(&self, slice: &L2Slice, mut suspect: impl FnMut(u64) -> bool) {
        for from in (0..self.slice_span()).step_by(self.cluster_size() as usize) {
            let (raw, bitmap) = self.entry(slice, from);
            let is_own = raw & COPIED != 0 && raw & COMPRESSED == 0 && raw & OFFSET != 0;
            if self.external || !is_own || !suspect((raw & OFFSET) >> self.cluster_bits) {
                continue;
            }
            let index = (from >> self.cluster_bits) as usize;
            match self.extended {
                true => slice.set_pair(index, raw & !COPIED, bitmap),
                false => slice.set_word(index, raw & !COPIED),
            }
        }
    }

    /// Whether entries can say that they read as zeros: all but those of version 2.
    pub const fn has_zeros(&self) -> bool {
        self.extended || self.reserved & ZERO == 0
    }

    /// Where in the slice's span `guest` is.
    fn in_slice(&self, slice: &L2Slice, guest: u64) -> Result<u64, BlockError> {
        let from = guest.wrapping_sub(slice.address().first_guest);
        if from >= self.slice_span() {
            let context = format!("guest offset {guest:#x} is not in this L2 slice");
            return Err(BlockError::new(ErrorKind::Invalid, context));
        }
        Ok(from)
    }

    /// The host clusters that `len` compressed bytes at `offset` touch, as their entry counts them: in sectors.
    pub fn compressed_span(&self, offset: HostOffset, len: u64) -> Range<u64> {
        self.compressed_hosts(self.compressed_entry(offset, len))
    }

    /// Offset in the image file at which compressed bytes must end: entries have no more bits for it.
    pub const fn compressed_end(&self) -> u64 {
        1 << (62 - (self.cluster_bits - 8))
    }

    fn compressed_entry(&self, offset: HostOffset, len: u64) -> u64 {
        let offset_bits = 62 - (self.cluster_bits - 8);
        let more_sectors = (offset.0 + len - 1) / SECTOR - offset.0 / SECTOR;
        COMPRESSED | more_sectors << offset_bits | offset.0
    }

    pub(crate) fn compressed_hosts(&self, raw: u64) -> Range<u64> {
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

    fn plain(host: Option<u64>, allocated: u32, zero: u32) -> (NewEntry, Entry) {
        let parts = Parts { allocated, zero };
        (NewEntry::Plain { host, parts }, Entry::Plain { host, exclusive: host.is_some(), parts })
    }

    fn set_and_find(geometry: &Geometry, slice: &L2Slice, cases: &[(NewEntry, Entry)]) {
        let at = geometry.slice_span() + 77 * 65536 + 5;
        for (new, found) in cases {
            geometry.set_entry(slice, at, *new).expect("inside");
            assert_eq!(geometry.entry_of(slice, at).expect("good"), *found);
            let mut bytes = [0; 4096];
            slice.store(&mut bytes);
            let again = L2Slice::parse(geometry, slice.address(), &bytes).expect("as long as a slice");
            assert_eq!(geometry.entry_of(&again, at).expect("good"), *found);
        }
        for outside in [geometry.slice_span() - 1, 2 * geometry.slice_span()] {
            assert!(geometry.set_entry(slice, outside, NewEntry::UNALLOCATED).is_err());
            assert!(geometry.entry_of(slice, outside).is_err());
        }
    }

    #[test]
    fn what_is_set_is_found() {
        let (geometry, slice) = slice();
        let compressed = NewEntry::Compressed { offset: HostOffset(0x5fe01), len: 600 };
        let cases = [
            plain(None, 0, 1),
            plain(Some(9), 1, 0),
            plain(Some(9), 0, 1),
            (compressed, Entry::Compressed { hosts: 5..7 }),
            plain(None, 0, 0),
        ];
        set_and_find(&geometry, &slice, &cases);
        let (extended, slice) = extended();
        let cases = [
            plain(Some(9), 0x8000_0001, 0x7fff_0000),
            plain(None, 0, u32::MAX),
            plain(Some(9), 0, 0),
            (compressed, Entry::Compressed { hosts: 5..7 }),
            plain(None, 0, 0),
        ];
        set_and_find(&extended, &slice, &cases);
    }

    fn extended() -> (Geometry, L2Slice) {
        let fresh = NewImage::new(1 << 28, 16).bytes().expect("fine");
        let mut first = fresh.pieces.last().expect("a header").1.clone();
        first[79] |= 1 << 4;
        let geometry = Geometry::new(&Header::parse(&first).expect("good"));
        let address = SliceAddress { host: HostOffset(5 << 16), first_guest: geometry.slice_span() };
        (geometry, L2Slice::parse(&geometry, address, &[0; 4096]).expect("as long as a slice"))
    }

    #[test]
    fn subclusters_of_ranges() {
        let (geometry, _) = extended();
        let parts = |from: u64, len| geometry.parts_of(ByteRange::new((3 << 16) + from, len));
        assert_eq!(parts(0, 1), 1);
        assert_eq!(parts(2047, 2), 3);
        assert_eq!(parts(2048, 2048), 2);
        assert_eq!(parts(65535, 1), 1 << 31);
        assert_eq!(parts(0, 1 << 20), u32::MAX);
        assert_eq!(slice().0.parts_of(ByteRange::new(70_000, 5)), 1);
    }

    #[test]
    fn compressed_bytes_touch_clusters() {
        let (geometry, slice) = slice();
        let at = geometry.slice_span();
        for (offset, len, hosts) in [
            (0x50000, 512, 5..6),
            (0x5fe00, 512, 5..6),
            (0x5fe01, 512, 5..7),
            (0x50000, 65536, 5..6),
            (0x50200, 65536, 5..7),
        ] {
            let entry = NewEntry::Compressed { offset: HostOffset(offset), len };
            geometry.set_entry(&slice, at, entry).expect("inside");
            assert_eq!(
                geometry.entry_of(&slice, at).expect("good"),
                Entry::Compressed { hosts: hosts.clone() }
            );
            assert_eq!(geometry.compressed_span(HostOffset(offset), len), hosts);
            let found = geometry.compressed(&slice, at, u64::MAX).expect("good");
            assert!(found.host == HostOffset(offset) && (len..len + 512).contains(&(found.len as u64)));
        }
    }
}
