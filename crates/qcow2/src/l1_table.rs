//! The active L1 table: where the L2 tables are.

use std::sync::atomic::{AtomicU64, Ordering};

use block::{BlockError, ErrorKind};

use crate::big_endian::be64_all;
use crate::l2_entry::{COPIED, OFFSET};
use crate::{Geometry, HostOffset};

/// Entries of a piece of the table that is written at a time.
const PIECE_ENTRIES: usize = L1Table::PIECE_BYTES / 8;

/// The active L1 table, wholly in memory. Its entries are checked when they are used, so that one bad entry
/// costs the guest bytes behind it and no others. Writers add tables while others look: each entry is old or new.
#[derive(Debug)]
pub struct L1Table {
    pub(crate) entries: Box<[AtomicU64]>,
}

impl L1Table {
    /// Bytes that are written at a time: a sector, which is stored whole or not at all.
    pub const PIECE_BYTES: usize = 512;

    /// The table from its bytes as stored, those of [`Geometry::l1_range`]. `Invalid` for any other number
    /// of bytes.
    pub fn parse(geometry: &Geometry, bytes: &[u8]) -> Result<Self, BlockError> {
        let wanted = geometry.l1_entries() as usize * 8;
        if bytes.len() != wanted {
            let context = format!("an L1 table of {wanted} bytes was asked of {} bytes", bytes.len());
            return Err(BlockError::new(ErrorKind::Invalid, context));
        }
        Ok(Self { entries: be64_all(bytes).map(AtomicU64::new).collect() })
    }

    /// Bytes of memory that it takes.
    pub fn memory(&self) -> usize {
        size_of_val(&*self.entries)
    }

    /// Points the entry that maps `guest` to an L2 table that nobody else refers to, for all who look from now on.
    /// Answers which piece of the table has changed; `None` beyond its end.
    pub fn publish(&self, geometry: &Geometry, guest: u64, table: HostOffset) -> Option<usize> {
        let index = (guest >> geometry.table_span_bits()) as usize;
        self.entries.get(index)?.store(table.0 | COPIED, Ordering::SeqCst);
        Some(index / PIECE_ENTRIES)
    }

    /// Where the table that maps `guest` begins, if there is one.
    pub fn table(&self, geometry: &Geometry, guest: u64) -> Option<HostOffset> {
        let entry = self.entries.get((guest >> geometry.table_span_bits()) as usize)?;
        Some(HostOffset(entry.load(Ordering::SeqCst) & OFFSET)).filter(|table| table.0 != 0)
    }

    /// Whether the table that maps `guest` is not shared with a snapshot, so that it may be changed in place.
    pub fn is_exclusive(&self, geometry: &Geometry, guest: u64) -> bool {
        let entry = self.entries.get((guest >> geometry.table_span_bits()) as usize);
        entry.is_some_and(|entry| entry.load(Ordering::SeqCst) & COPIED != 0)
    }

    /// A piece as it is to be stored, and where in the table (in bytes) it begins.
    pub fn piece(&self, number: usize) -> (u64, Vec<u8>) {
        let entries = self.entries.chunks(PIECE_ENTRIES).nth(number).unwrap_or_default();
        let bytes = entries.iter().flat_map(|entry| entry.load(Ordering::SeqCst).to_be_bytes()).collect();
        ((number * Self::PIECE_BYTES) as u64, bytes)
    }
}
