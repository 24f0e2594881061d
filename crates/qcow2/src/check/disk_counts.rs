//! The refcounts as the file has them.
//!
//! Invariant: a block is in memory once, however many entries of the refcount table name it, and only where it lies in
//! the file: together they take no more bytes than there.

use std::collections::{BTreeSet, HashMap, HashSet};

use crate::RefcountBlock;

/// Bits of an entry of the refcount table that are an offset.
const OFFSET: u64 = !RESERVED;
/// From here on nothing can be read: offsets in files are signed.
const OFFSET_MAX: u64 = (1 << 63) - (1 << 31);
/// Those that must be clear.
const RESERVED: u64 = 0x1ff;

pub(super) struct DiskCounts {
    pub(super) cluster_bits: u32,
    pub(super) bits: u32,
    /// The refcount table as stored.
    pub(super) table: Vec<u64>,
    /// Number of each entry's block plus one; 0: all its counts are 0.
    block_of: Vec<u32>,
    blocks: Vec<RefcountBlock>,
    by_offset: HashMap<u64, u32>,
    /// Entries whose counts cannot be read.
    unreadable: BTreeSet<u64>,
}

/// What an entry of the refcount table says.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum TableEntry {
    Nothing,
    Block(u64),
    /// Reserved bits are set.
    Reserved,
    Unaligned,
}

impl DiskCounts {
    pub(super) fn new(cluster_bits: u32, bits: u32) -> Self {
        let (by_offset, unreadable) = (HashMap::new(), BTreeSet::new());
        Self { cluster_bits, bits, table: vec![], block_of: vec![], blocks: vec![], by_offset, unreadable }
    }

    /// Base-2 logarithm of the clusters that a block counts.
    pub(super) fn per_block_bits(&self) -> u32 {
        self.cluster_bits + 3 - self.bits.ilog2()
    }

    pub(super) fn entry(&self, block: u64) -> TableEntry {
        let raw = self.table.get(block as usize).copied().unwrap_or(0);
        let offset = raw & OFFSET;
        if raw & RESERVED != 0 {
            TableEntry::Reserved
        } else if offset & ((1 << self.cluster_bits) - 1) != 0 {
            TableEntry::Unaligned
        } else if offset == 0 {
            TableEntry::Nothing
        } else {
            TableEntry::Block(offset)
        }
    }

    /// The clusters that entries of the table name, whatever else is wrong with them.
    pub(super) fn named_clusters(&self) -> HashSet<u64> {
        let offsets = self.table.iter().map(|raw| raw & OFFSET).filter(|offset| *offset != 0);
        let last = |offset: u64| offset.saturating_add((1 << self.cluster_bits) - 1);
        offsets.flat_map(|at| [at >> self.cluster_bits, last(at) >> self.cluster_bits]).collect()
    }

    /// Where the blocks lie that count the clusters below `clusters` and have bytes in a file of `file_len`; notes
    /// which cannot be read.
    pub(super) fn wanted(&mut self, clusters: u64, file_len: u64) -> Vec<u64> {
        let mut offsets = Vec::new();
        let count = (clusters >> self.per_block_bits()) + 1;
        for (block, raw) in self.table.iter().enumerate().take(count as usize) {
            // Reserved bits alone keep nobody from looking.
            let offset = raw & OFFSET;
            let readable = offset & ((1 << self.cluster_bits) - 1) == 0 && offset < OFFSET_MAX;
            if !readable {
                self.unreadable.insert(block as u64);
            } else if offset != 0 && offset < file_len && self.by_offset.insert(offset, 0).is_none() {
                offsets.push(offset);
            }
        }
        offsets
    }

    /// Keeps a block that was read, a cluster.
    pub(super) fn keep(&mut self, offset: u64, bytes: &[u8]) {
        if bytes.iter().all(|byte| *byte == 0) {
            return;
        }
        let mut whole = bytes.to_vec();
        whole.resize(1 << self.cluster_bits, 0);
        if let Ok(block) = RefcountBlock::parse(&whole, self.bits) {
            self.blocks.push(block);
            self.by_offset.insert(offset, self.blocks.len() as u32);
        }
    }

    /// All blocks are there.
    pub(super) fn loaded(&mut self) {
        let number = |raw: &u64| self.by_offset.get(&(raw & OFFSET)).copied().unwrap_or(0);
        self.block_of = self.table.iter().map(number).collect();
    }

    /// The refcount of a cluster; `None` where it cannot be read.
    #[inline]
    pub(super) fn get(&self, cluster: u64) -> Option<u64> {
        let block = cluster >> self.per_block_bits();
        match self.block_of.get(block as usize).copied().unwrap_or(0) {
            0 if !self.unreadable.is_empty() && self.unreadable.contains(&block) => None,
            0 => Some(0),
            number => {
                let index = cluster & ((1 << self.per_block_bits()) - 1);
                Some(self.blocks[number as usize - 1].get(index))
            }
        }
    }

    /// The counters of a run of clusters as stored, where they have 16 bits, lie in one block and can be read.
    pub(super) fn counters(&self, first: u64, count: u64) -> Option<&[[u8; 2]]> {
        let (bits, mask) = (self.per_block_bits(), (1 << self.per_block_bits()) - 1);
        let number = self.block_of.get((first >> bits) as usize).copied().filter(|number| *number != 0)?;
        let at = (first & mask) as usize;
        let counters = self.blocks[number as usize - 1].bytes().as_chunks().0;
        counters.get(at..at + count as usize).filter(|_| self.bits == 16)
    }

    /// Whether each cluster of a run is known to count once.
    pub(super) fn count_once(&self, first: u64, count: u64) -> bool {
        let per_block = 1 << self.per_block_bits();
        let (mut at, end) = (first, first + count);
        while at < end {
            let len = (end - at).min(per_block - at % per_block);
            if !self.counters(at, len).is_some_and(|counters| counters.iter().all(|count| *count == [0, 1])) {
                return false;
            }
            at += len;
        }
        true
    }

    /// Sets a refcount, where there is a block for it.
    pub(super) fn set(&mut self, cluster: u64, count: u64) {
        let block = cluster >> self.per_block_bits();
        if let Some(number) = self.block_of.get(block as usize).copied().filter(|number| *number != 0) {
            let index = cluster & ((1 << self.per_block_bits()) - 1);
            self.blocks[number as usize - 1].set(index, count);
        }
    }

    /// The bytes of the block of an entry.
    pub(super) fn bytes(&self, block: u64) -> Option<&[u8]> {
        let number = self.block_of.get(block as usize).copied().filter(|number| *number != 0)?;
        Some(self.blocks[number as usize - 1].bytes())
    }

    /// Puts others in their place: the table, and the bytes of each block by its offset.
    pub(super) fn replace(&mut self, table: Vec<u64>, blocks: &[(u64, Vec<u8>)]) {
        *self = Self { table, ..Self::new(self.cluster_bits, self.bits) };
        for (offset, bytes) in blocks {
            self.keep(*offset, bytes);
        }
        self.loaded();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_share_blocks_and_tell_what_is_wrong() {
        let mut counts = DiskCounts::new(10, 16);
        counts.table = vec![0x400, 0, 0x400, 0x401, 0x600, 1 << 63, 0x800];
        assert_eq!(counts.wanted(512 * 7, 0x800), [0x400]);
        let mut bytes = vec![0; 1024];
        bytes[3] = 7;
        counts.keep(0x400, &bytes);
        counts.loaded();
        let at = |block: u64| counts.get(block * 512 + 1);
        assert_eq!([at(0), at(1), at(2)], [Some(7), Some(0), Some(7)]);
        assert_eq!(at(3), Some(7), "reserved bits, but an offset");
        assert_eq!([at(4), at(5), at(6), at(1 << 40)], [None, None, Some(0), Some(0)]);
        let said: Vec<_> = (0..8).map(|block| counts.entry(block)).collect();
        use TableEntry::{Block, Nothing, Reserved, Unaligned};
        assert_eq!(said[..5], [Block(0x400), Nothing, Block(0x400), Reserved, Unaligned]);
        assert_eq!(said[5..], [Block(1 << 63), Block(0x800), Nothing]);
        counts.set(1, 9);
        assert_eq!(counts.get(2 * 512 + 1), Some(9));
    }
}
