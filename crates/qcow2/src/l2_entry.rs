//! One L2 entry: what it says about its cluster, and what is wrong with it.

use std::fmt;

/// Bit 63: no other table refers to the cluster.
pub(crate) const COPIED: u64 = 1 << 63;
/// Bit 62: the rest is a compressed cluster descriptor.
pub(crate) const COMPRESSED: u64 = 1 << 62;
/// Bit 0 of a standard entry: reads as zeros, wherever it points.
pub(crate) const ZERO: u64 = 1;
/// Bits 9 to 55: an offset in a file. The same in L1 entries.
pub(crate) const OFFSET: u64 = 0x00ff_ffff_ffff_fe00;
/// Bits 1 to 8 and 56 to 61 of a standard entry: must be clear.
pub(crate) const RESERVED: u64 = 0x3f00_0000_0000_01fe;

/// What an entry says about its cluster.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Cluster {
    /// No host cluster. With extended entries the bitmap may still call subclusters zero.
    Unallocated,
    /// Reads as zeros.
    Zero,
    /// Lies at that offset, which is a multiple of the cluster size.
    Data { host: u64, exclusive: bool },
    /// Compressed.
    Compressed,
}

/// What can be wrong with an entry. Small, so that trying an entry allocates nothing.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Fault {
    Reserved,
    Unaligned,
    CompressedInDataFile,
    NotGuestOffset,
    BeyondEnd,
    AllocatedAndZero,
    AllocatedNowhere,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Reserved => "reserved bits are set",
            Self::Unaligned => "its offset is no multiple of the cluster size",
            Self::CompressedInDataFile => "it is compressed, which an external data file excludes",
            Self::NotGuestOffset => "its offset in the data file is not its guest offset",
            Self::BeyondEnd => "its cluster lies beyond the end of the file: fetch what is missing, or save the rest (convert --salvage)",
            Self::AllocatedAndZero => "a subcluster is both allocated and zero",
            Self::AllocatedNowhere => "subclusters are allocated, but it has no cluster",
        })
    }
}

/// Reads a standard or compressed entry. `reserved` are the bits that must be clear in a standard one,
/// `external` says whether clusters lie in a data file, where offset 0 is a valid one.
#[inline]
pub(crate) fn cluster(
    entry: u64,
    cluster_bits: u32,
    reserved: u64,
    external: bool,
) -> Result<Cluster, Fault> {
    if entry & COMPRESSED != 0 {
        return if external { Err(Fault::CompressedInDataFile) } else { Ok(Cluster::Compressed) };
    }
    let host = entry & OFFSET;
    if entry & reserved != 0 {
        return Err(Fault::Reserved);
    }
    if host & ((1 << cluster_bits) - 1) != 0 {
        return Err(Fault::Unaligned);
    }
    let exclusive = entry & COPIED != 0;
    if entry & ZERO != 0 {
        Ok(Cluster::Zero)
    } else if host == 0 && !(external && exclusive) {
        Ok(Cluster::Unallocated)
    } else {
        Ok(Cluster::Data { host, exclusive })
    }
}

/// State of a run of subclusters.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Subclusters {
    Unallocated,
    Zero,
    Allocated,
}

/// Reads the bitmap of an extended entry: the state of subcluster `index` (0..32), and how many from there
/// on share it. `has_cluster` says whether the entry has a host cluster.
#[inline]
pub(crate) fn subclusters(bitmap: u64, index: u32, has_cluster: bool) -> Result<(Subclusters, u32), Fault> {
    let (allocated, zero) = (bitmap as u32, (bitmap >> 32) as u32);
    if allocated & zero != 0 {
        return Err(Fault::AllocatedAndZero);
    }
    if allocated != 0 && !has_cluster {
        return Err(Fault::AllocatedNowhere);
    }
    let (state, same) = match (allocated >> index & 1, zero >> index & 1) {
        (1, _) => (Subclusters::Allocated, allocated),
        (_, 1) => (Subclusters::Zero, zero),
        _ => (Subclusters::Unallocated, !(allocated | zero)),
    };
    // The shift brings in zeros, which end the run at the last subcluster.
    Ok((state, (!(same >> index)).trailing_zeros()))
}

#[cfg(test)]
mod tests {
    use super::*;

    const V3: u64 = RESERVED;
    const V2: u64 = RESERVED | ZERO;

    #[test]
    fn entries_say_what_they_are() {
        let read = |entry| cluster(entry, 16, V3, false);
        assert_eq!(read(0), Ok(Cluster::Unallocated));
        assert_eq!(read(COPIED), Ok(Cluster::Unallocated));
        assert_eq!(read(ZERO), Ok(Cluster::Zero));
        assert_eq!(read(0x50000 | COPIED | ZERO), Ok(Cluster::Zero));
        assert_eq!(read(0x50000), Ok(Cluster::Data { host: 0x50000, exclusive: false }));
        assert_eq!(read(0x50000 | COPIED), Ok(Cluster::Data { host: 0x50000, exclusive: true }));
        assert_eq!(read(COMPRESSED | 0x1ff), Ok(Cluster::Compressed));
        assert_eq!(cluster(COPIED, 16, V3, true), Ok(Cluster::Data { host: 0, exclusive: true }));
        assert_eq!(cluster(0, 16, V3, true), Ok(Cluster::Unallocated));
    }

    #[test]
    fn lies_are_told_apart() {
        for bit in (1..=8).chain(56..=61) {
            assert_eq!(cluster(0x50000 | 1 << bit, 16, V3, false), Err(Fault::Reserved), "bit {bit}");
        }
        assert_eq!(cluster(ZERO, 16, V2, false), Err(Fault::Reserved));
        assert_eq!(cluster(0x50200, 16, V3, false), Err(Fault::Unaligned));
        assert_eq!(cluster(COMPRESSED, 16, V3, true), Err(Fault::CompressedInDataFile));
    }

    #[test]
    fn bitmaps_agree_with_counting_bit_by_bit() {
        let state = |bitmap: u64, i: u32| match (bitmap >> i & 1, bitmap >> (32 + i) & 1) {
            (1, _) => Subclusters::Allocated,
            (_, 1) => Subclusters::Zero,
            _ => Subclusters::Unallocated,
        };
        let mut x = 1u64;
        for _ in 0..20_000 {
            x = x.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            let (a, b) = ((x >> 32) as u32 & (x << 7 >> 32) as u32, (x >> 11) as u32);
            let bitmap = u64::from(a) | u64::from(b & !a) << 32;
            for index in 0..32 {
                let want = state(bitmap, index);
                let run = (index..32).take_while(|i| state(bitmap, *i) == want).count() as u32;
                assert_eq!(subclusters(bitmap, index, true), Ok((want, run)));
            }
        }
        assert_eq!(subclusters(u64::from(u32::MAX), 0, true), Ok((Subclusters::Allocated, 32)));
        assert_eq!(subclusters(0, 31, false), Ok((Subclusters::Unallocated, 1)));
        assert_eq!(subclusters(1 | 1 << 32, 9, true), Err(Fault::AllocatedAndZero));
        assert_eq!(subclusters(2, 0, false), Err(Fault::AllocatedNowhere));
    }
}
