//! L2 tables read whole: whom they refer to, and which of that they call their own.
//!
//! For work on all tables of an image at once. Invariant: nothing but marks of ownership changes.

use std::ops::Range;

use block::BlockError;

use crate::big_endian::{word_bytes, words};
use crate::l2_entry::{self, COPIED, Cluster, OFFSET};
use crate::{Geometry, HostOffset, corrupt};

/// An L2 table of an image whose data lies in the image file.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct L2Table {
    words: Box<[u64]>,
    words_per_entry: usize,
}

/// What an entry refers to.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Reference {
    /// Nothing.
    None,
    /// This host cluster, by number.
    Cluster(u64),
    /// Compressed bytes in these host clusters, which are never written in place.
    Compressed(Range<u64>),
}

impl L2Table {
    /// The table from its bytes as stored, a cluster.
    pub fn parse(geometry: &Geometry, bytes: &[u8]) -> Self {
        Self { words: words(bytes).collect(), words_per_entry: if geometry.extended { 2 } else { 1 } }
    }

    /// Number of entries.
    pub fn len(&self) -> usize {
        self.words.len() / self.words_per_entry
    }

    /// Whether it has no entries: only where it was parsed from fewer bytes than an entry takes.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// What the entry at `index`, below [`L2Table::len`], refers to. `Corrupt` where it lies.
    pub fn reference(&self, geometry: &Geometry, index: usize) -> Result<Reference, BlockError> {
        let raw = self.words[index * self.words_per_entry];
        let lie = |fault| corrupt(format!("entry {index} of an L2 table ({raw:#018x}): {fault}"));
        let found = l2_entry::cluster(raw, geometry.cluster_bits, geometry.reserved, false).map_err(lie)?;
        Ok(match found {
            Cluster::Compressed => Reference::Compressed(geometry.compressed_hosts(raw)),
            _ if raw & OFFSET != 0 => Reference::Cluster((raw & OFFSET) >> geometry.cluster_bits),
            _ => Reference::None,
        })
    }

    /// Says of the entry at `index` whether nobody else refers to its cluster; answers whether it said otherwise.
    pub fn set_exclusive(&mut self, index: usize, exclusive: bool) -> bool {
        let word = &mut self.words[index * self.words_per_entry];
        let marked = if exclusive { *word | COPIED } else { *word & !COPIED };
        std::mem::replace(word, marked) != marked
    }

    /// Its bytes as they are to be stored.
    pub fn bytes(&self) -> Vec<u8> {
        word_bytes(&self.words)
    }
}

impl Geometry {
    /// The L2 table that an L1 entry names, if it names one. `Corrupt` where the entry lies: reserved bits, an offset
    /// that is not aligned, or a table that is not wholly in the file of `file_len` bytes.
    pub fn table_of(&self, entry: u64, file_len: u64) -> Result<Option<HostOffset>, BlockError> {
        let table = HostOffset(entry & OFFSET);
        let lies = entry & !(OFFSET | COPIED) != 0
            || !table.is_aligned(self.cluster_bits)
            || table.0 + self.cluster_size() > file_len;
        match table.0 {
            0 if entry & !COPIED == 0 => Ok(None),
            _ if lies => Err(corrupt(format!(
                "L1 entry {entry:#018x} names no L2 table of a file of {file_len} bytes"
            ))),
            _ => Ok(Some(table)),
        }
    }

    /// The L1 entry that names `table`; `exclusive`: no other one does.
    pub const fn entry_for(table: HostOffset, exclusive: bool) -> u64 {
        if exclusive { table.0 | COPIED } else { table.0 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Header, NewImage};

    fn geometry(extended: bool) -> Geometry {
        let fresh = NewImage::new(1 << 28, 16).bytes().expect("fine");
        let mut first = fresh.pieces.last().expect("a header").1.clone();
        first[79] |= u8::from(extended) << 4;
        Geometry::new(&Header::parse(&first).expect("good"))
    }

    /// A table of 64 KiB with these words in front.
    fn table(geometry: &Geometry, words: &[u64]) -> L2Table {
        let mut bytes: Vec<u8> = words.iter().flat_map(|word| word.to_be_bytes()).collect();
        bytes.resize(1 << 16, 0);
        L2Table::parse(geometry, &bytes)
    }

    #[test]
    fn entries_refer_to_clusters_and_ownership_is_marked() {
        let geometry = geometry(false);
        let compressed = 1 << 62 | 1 << 54 | 0x5fe00;
        let mut table = table(&geometry, &[0, 0x50000, 0x60000 | COPIED | 1, 1, compressed]);
        let found: Vec<_> = (0..5).map(|index| table.reference(&geometry, index).expect("good")).collect();
        let cluster = Reference::Cluster;
        assert_eq!(
            found,
            [Reference::None, cluster(5), cluster(6), Reference::None, Reference::Compressed(5..7)]
        );
        assert_eq!(table.len(), 8192);
        assert!(table.set_exclusive(1, true) && !table.set_exclusive(1, true));
        assert!(table.set_exclusive(2, false) && !table.set_exclusive(2, false));
        assert_eq!(
            table.bytes()[8..24],
            [(0x50000 | COPIED).to_be_bytes(), 0x60001u64.to_be_bytes()].concat()
        );
        table.words[9] = 0x50200;
        assert!(table.reference(&geometry, 9).is_err());
    }

    #[test]
    fn entries_of_two_words_keep_their_bitmaps() {
        let geometry = geometry(true);
        let mut table = table(&geometry, &[0, u64::MAX, 0x50000 | COPIED, u64::MAX]);
        assert_eq!(table.len(), 4096);
        assert_eq!(table.reference(&geometry, 1).expect("good"), Reference::Cluster(5));
        assert!(table.set_exclusive(1, false));
        assert_eq!(table.words[..4], [0, u64::MAX, 0x50000, u64::MAX]);
    }

    #[test]
    fn l1_entries_name_tables_inside_the_file() {
        let geometry = geometry(false);
        let entry = Geometry::entry_for(HostOffset(0x50000), true);
        assert_eq!(geometry.table_of(entry, 0x60000).expect("good"), Some(HostOffset(0x50000)));
        assert_eq!(geometry.table_of(COPIED, 0x60000).expect("good"), None);
        for lie in [entry | 1, 0x50200, 0x60000, 1 << 56, 1] {
            assert!(geometry.table_of(lie, 0x60000).is_err(), "{lie:#x}");
        }
    }
}
