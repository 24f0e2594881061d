//! Compressed cluster descriptors: which bytes of the image file hold a cluster.

use block::{BlockError, ByteRange, ErrorKind};

use crate::l2_entry::COMPRESSED;
use crate::{HostOffset, corrupt};

/// Compressed data is counted in sectors of that many bytes.
const SECTOR: u64 = 512;
/// Offsets stay below 2^56 also where a descriptor has more bits for them.
const MAX_OFFSET: u64 = 1 << 56;

/// Where the compressed bytes of one cluster are.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct CompressedCluster {
    /// The guest bytes of the whole cluster.
    pub guest: ByteRange,
    /// Where the compressed bytes start in the image file; any byte.
    pub host: HostOffset,
    /// How many bytes may belong to it: at least 1, at most twice the cluster size. The stream ends
    /// somewhere in the last sector of them; what follows there belongs to others.
    pub len: usize,
}

impl CompressedCluster {
    /// Reads the descriptor `entry` of the cluster that holds `guest`, whose length is the cluster size.
    /// Bytes beyond the end of a file of `file_len` bytes are left out: the last sector need not be whole.
    pub(crate) fn parse(entry: u64, guest: ByteRange, file_len: u64) -> Result<Self, BlockError> {
        if entry & COMPRESSED == 0 {
            return Err(BlockError::new(ErrorKind::Invalid, "not a compressed cluster"));
        }
        // The bits of the offset, then one bit for each sector of a cluster, end below bit 62.
        let sector_bits = guest.len().ilog2() - 8;
        let offset_bits = 62 - sector_bits;
        let offset = entry & ((1 << offset_bits) - 1);
        let more_sectors = entry >> offset_bits & ((1 << sector_bits) - 1);
        if offset >= MAX_OFFSET {
            return Err(corrupt(format!("compressed data at {offset:#x}, which is not below 2^56")));
        }
        let first_sector = offset - offset % SECTOR;
        let end = (first_sector + (more_sectors + 1) * SECTOR).min(file_len);
        if offset >= end {
            return Err(corrupt(format!(
                "compressed data at {offset:#x} lies beyond the end of the file of {file_len} bytes"
            )));
        }
        Ok(Self { guest, host: HostOffset(offset), len: (end - offset) as usize })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(bits: u32, offset: u64, sectors: u64, file_len: u64) -> Result<CompressedCluster, BlockError> {
        let entry = COMPRESSED | sectors << (62 - (bits - 8)) | offset;
        CompressedCluster::parse(entry, ByteRange::new(0, 1 << bits), file_len)
    }

    #[test]
    fn descriptors_of_every_cluster_size() {
        for bits in 9..=21 {
            let all = (1 << (bits - 8)) - 1;
            let got = parse(bits, 0x12345, all, u64::MAX).unwrap();
            assert_eq!(got.host, HostOffset(0x12345));
            assert_eq!(got.len as u64, (2 << bits) - 0x145);
            let one = parse(bits, 0x12345, 0, u64::MAX).unwrap();
            assert_eq!(one.len, 512 - 0x145);
        }
    }

    #[test]
    fn the_end_of_the_file_clips_or_refuses() {
        assert_eq!(parse(16, 1000, 3, 1100).unwrap().len, 100);
        assert_eq!(parse(16, 1000, 3, 1001).unwrap().len, 1);
        assert_eq!(parse(16, 1000, 3, 1000).unwrap_err().kind(), ErrorKind::Corrupt);
        assert_eq!(parse(9, 1 << 56, 0, u64::MAX).unwrap_err().kind(), ErrorKind::Corrupt);
        let plain = CompressedCluster::parse(0x50000, ByteRange::new(0, 512), 1 << 20);
        assert_eq!(plain.unwrap_err().kind(), ErrorKind::Invalid);
    }
}
