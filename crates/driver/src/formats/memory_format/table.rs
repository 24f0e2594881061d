//! The table: guest cluster to entry, in memory, read without a lock.
//!
//! Three levels: segments of 1 GiB (made for the whole size when it is opened or grown), regions of 2 MiB with
//! a generation each, and the entries of a region, made when one of them is first set. Entries only ever change
//! under the lock of the clusters; who reads them holds a guard.
//!
//! All accesses are sequentially consistent, as those of the guards are: a reader that entered after a cluster's tag
//! was taken sees that it is no longer mapped.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::SeqCst};

use block::{Alignment, ByteRange, Mapping, Place};

use super::FILE;

/// What shares a generation, in bytes.
const REGION: u64 = 2 << 20;
const SEGMENT: u64 = 1 << 30;
const SEGMENTS: u64 = 2048;
/// Largest virtual size in bytes.
pub(super) const SIZE_MAX: u64 = SEGMENT * SEGMENTS;
/// Most entries looked at for one mapping.
const JOINED_MAX: usize = 4096;

/// Where a guest cluster is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Entry {
    /// Not here: the backing child answers.
    Unallocated,
    /// Reads as zeros.
    Zero,
    /// In this cluster of the file child.
    Data(u64),
}

impl Entry {
    const fn decode(raw: u64) -> Self {
        match raw {
            0 => Self::Unallocated,
            1 => Self::Zero,
            host => Self::Data(host - 2),
        }
    }

    const fn encode(self) -> u64 {
        match self {
            Self::Unallocated => 0,
            Self::Zero => 1,
            Self::Data(host) => host + 2,
        }
    }
}

pub(super) struct Table {
    cluster: Alignment,
    segments: Box<[OnceLock<Box<[Region]>>]>,
    /// Of offsets that no guest can reach.
    beyond: AtomicU32,
}

#[derive(Default)]
struct Region {
    generation: AtomicU32,
    entries: OnceLock<Box<[AtomicU64]>>,
}

impl Table {
    /// An empty table for `size` bytes, at most [`SIZE_MAX`].
    pub(super) fn new(cluster: Alignment, size: u64) -> Self {
        let segments = (0..SEGMENTS).map(|_| OnceLock::new()).collect();
        let table = Self { cluster, segments, beyond: AtomicU32::new(0) };
        table.cover(size);
        table
    }

    pub(super) fn cluster(&self) -> Alignment {
        self.cluster
    }

    /// Makes the segments of the first `size` bytes, so that no look-up has to.
    pub(super) fn cover(&self, size: u64) {
        for segment in &self.segments[..size.div_ceil(SEGMENT).min(SEGMENTS) as usize] {
            segment.get_or_init(|| (0..SEGMENT / REGION).map(|_| Region::default()).collect());
        }
    }

    /// Where the first bytes of `range` are: as many as lie in one piece, up to a bound.
    pub(super) fn map(&self, range: ByteRange) -> Mapping {
        let mut mapping = self.map_one(range);
        for _ in 0..JOINED_MAX {
            let rest = range.skip(mapping.len);
            if rest.is_empty() || !mapping.join(self.map_one(rest)) {
                break;
            }
        }
        mapping
    }

    fn map_one(&self, range: ByteRange) -> Mapping {
        let start = range.start();
        let Some(entries) = self.region(start).and_then(|r| r.entries.get()) else {
            let len = (REGION - start % REGION).min(range.len());
            return Mapping::new(Place::Unallocated, len);
        };
        let inside = start - self.cluster.down(start);
        let len = (self.cluster.bytes() - inside).min(range.len());
        let place = match Entry::decode(entries[self.slot(start)].load(SeqCst)) {
            Entry::Unallocated => Place::Unallocated,
            Entry::Zero => Place::Zero,
            Entry::Data(host) => {
                let offset = host * self.cluster.bytes() + inside;
                Place::Data { child: FILE, offset, exclusive: true }
            }
        };
        Mapping::new(place, len)
    }

    /// The entry of the cluster at `offset`.
    pub(super) fn get(&self, offset: u64) -> Entry {
        let entries = self.region(offset).and_then(|r| r.entries.get());
        entries.map_or(Entry::Unallocated, |e| Entry::decode(e[self.slot(offset)].load(SeqCst)))
    }

    /// Replaces the entry of the cluster at `offset`, which is covered; answers what it was.
    pub(super) fn set(&self, offset: u64, entry: Entry) -> Entry {
        let Some(region) = self.region(offset) else { return Entry::Unallocated };
        if entry == Entry::Unallocated && region.entries.get().is_none() {
            return Entry::Unallocated;
        }
        let entries = region.entries.get_or_init(|| {
            (0..REGION / self.cluster.bytes()).map(|_| AtomicU64::new(Entry::Unallocated.encode())).collect()
        });
        Entry::decode(entries[self.slot(offset)].swap(entry.encode(), SeqCst))
    }

    /// Tells those who remember mappings of `range` that they are old.
    pub(super) fn bump(&self, range: ByteRange) {
        let regions = Alignment::new(REGION).unwrap_or_default().around(range);
        for offset in (regions.start()..regions.end()).step_by(REGION as usize) {
            self.generation(offset).fetch_add(1, SeqCst);
        }
    }

    /// The generation of the region around `offset`.
    pub(super) fn generation(&self, offset: u64) -> &AtomicU32 {
        self.region(offset).map_or(&self.beyond, |r| &r.generation)
    }

    /// The regions in which entries were made, as ranges of guest bytes.
    pub(super) fn made(&self) -> impl Iterator<Item = ByteRange> + '_ {
        let covered = self.segments.iter().zip(0..).filter_map(|(s, at)| Some((s.get()?, at * SEGMENT)));
        covered.flat_map(|(regions, base)| {
            let made = regions.iter().zip(0..).filter(|(r, _)| r.entries.get().is_some());
            made.map(move |(_, at)| ByteRange::new(base + at * REGION, REGION))
        })
    }

    fn region(&self, offset: u64) -> Option<&Region> {
        let segment = self.segments.get((offset / SEGMENT) as usize)?.get()?;
        segment.get((offset % SEGMENT / REGION) as usize)
    }

    fn slot(&self, offset: u64) -> usize {
        (offset % REGION / self.cluster.bytes()) as usize
    }
}

/// The parts of `range` that lie in one region each.
pub(super) fn by_region(mut range: ByteRange) -> impl Iterator<Item = ByteRange> {
    std::iter::from_fn(move || {
        let part = range.head(REGION - range.start() % REGION);
        range = range.skip(part.len());
        (!part.is_empty()).then_some(part)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const K: u64 = 1 << 10;

    fn table() -> Table {
        Table::new(Alignment::new(64 * K).expect("a power of two"), 3 << 30)
    }

    fn data(offset: u64, len: u64) -> Mapping {
        Mapping::new(Place::Data { child: FILE, offset, exclusive: true }, len)
    }

    #[test]
    fn neighbours_in_one_piece_are_one_mapping() {
        let table = table();
        for (guest, host) in [(0, 5), (1, 6), (2, 9)] {
            assert_eq!(table.set(guest * 64 * K, Entry::Data(host)), Entry::Unallocated);
        }
        assert_eq!(table.map(ByteRange::new(K, 1 << 20)), data(5 * 64 * K + K, 127 * K));
        assert_eq!(table.map(ByteRange::new(128 * K, 10)), data(9 * 64 * K, 10));
        assert_eq!(
            table.map(ByteRange::new(192 * K, 3 << 20)),
            Mapping::new(Place::Unallocated, 3 << 20),
            "across regions, made and not"
        );
    }

    #[test]
    fn the_last_segment_and_what_lies_beyond() {
        let table = table();
        let last = (3 << 30) - 64 * K;
        table.set(last, Entry::Zero);
        assert_eq!(table.get(last), Entry::Zero);
        assert_eq!(table.set(4 << 30, Entry::Zero), Entry::Unallocated);
        assert_eq!(table.get(4 << 30), Entry::Unallocated);
        table.cover(5 << 30);
        table.set(4 << 30, Entry::Data(0));
        assert_eq!(table.get(4 << 30), Entry::Data(0));
        let made: Vec<_> = table.made().map(ByteRange::start).collect();
        assert_eq!(made, [(3 << 30) - REGION, 4 << 30]);
    }

    #[test]
    fn generations_count_per_region() {
        let table = table();
        table.bump(ByteRange::new(REGION - 1, 2));
        let seen: Vec<_> = (0..3).map(|r| table.generation(r * REGION + 77).load(SeqCst)).collect();
        assert_eq!(seen, [1, 1, 0]);
    }

    #[test]
    fn regions_cut_a_range() {
        let parts: Vec<_> = by_region(ByteRange::between(100, 2 * REGION + 5)).collect();
        let expected = [(100, REGION), (REGION, 2 * REGION), (2 * REGION, 2 * REGION + 5)];
        assert_eq!(parts, expected.map(|(a, b)| ByteRange::between(a, b)));
    }
}
