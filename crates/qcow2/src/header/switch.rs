//! The switch from one set of tables to another, with one sector of the header.
//!
//! Invariant: all that it changes lies in the first sector, which is stored whole or not at all: a crash leaves all of
//! the old tables or all of the new ones.

use super::layout::{
    L1_ENTRIES_AT, L1_OFFSET_AT, SIZE_AT, SNAPSHOTS_AT, SNAPSHOTS_OFFSET_AT, put_refcount_table, put32, put64,
};
use super::{RefcountTable, SnapshotTable};
use crate::HostOffset;

/// Everything that the header says of tables, and of the disk that they map.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Switch {
    /// Bytes of the virtual disk.
    pub virtual_size: u64,
    /// Where the active L1 table begins, a multiple of the cluster size.
    pub l1_offset: HostOffset,
    /// Number of its entries.
    pub l1_entries: u32,
    /// Where the refcounts are; their width stays what it is.
    pub refcount_table: RefcountTable,
    /// Where the internal snapshots are.
    pub snapshots: SnapshotTable,
}

impl Switch {
    /// Has the header in `first` say so.
    pub(super) fn put(&self, first: &mut [u8]) {
        put64(first, SIZE_AT, self.virtual_size);
        put32(first, L1_ENTRIES_AT, self.l1_entries);
        put64(first, L1_OFFSET_AT, self.l1_offset.0);
        put_refcount_table(first, self.refcount_table.offset.0, self.refcount_table.clusters);
        put32(first, SNAPSHOTS_AT, self.snapshots.count);
        put64(first, SNAPSHOTS_OFFSET_AT, self.snapshots.offset.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Header, HeaderEdit, NewImage};

    #[test]
    fn one_sector_says_it_all() {
        let fresh = NewImage::new(1 << 30, 16).bytes().expect("fine");
        let mut first = fresh.pieces.last().expect("a header").1.clone();
        first.resize(1 << 16, 0);
        let header = Header::parse(&first).expect("good");
        let switch = Switch {
            virtual_size: 1 << 20,
            l1_offset: HostOffset(7 << 16),
            l1_entries: 1,
            refcount_table: RefcountTable { offset: HostOffset(9 << 16), clusters: 2, bits: 16 },
            snapshots: SnapshotTable { offset: HostOffset(8 << 16), count: 3 },
        };
        let writes = HeaderEdit::Switch(switch).writes(&first).expect("good");
        assert!(writes.len() == 1 && writes[0].offset == 0 && writes[0].bytes.len() == 512);
        first[..512].copy_from_slice(&writes[0].bytes);
        let Switch { virtual_size, l1_offset, l1_entries, refcount_table, snapshots } = switch;
        let wanted = Header { virtual_size, l1_offset, l1_entries, refcount_table, snapshots, ..header };
        assert_eq!(Header::parse(&first).expect("good"), wanted);
        assert!(HeaderEdit::Switch(switch).writes(&first).expect("good").is_empty());
        let bad = Switch { l1_entries: 0, ..switch };
        assert!(HeaderEdit::Switch(bad).writes(&first).is_err(), "what is written can be read");
    }
}
