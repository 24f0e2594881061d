//! The active L1 table: where the L2 tables are.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use block::{BlockError, ErrorKind};

use crate::big_endian::words;
use crate::l2_entry::{COPIED, OFFSET};
use crate::{Geometry, HostOffset};

/// Entries of a piece of the table that is written at a time.
const PIECE_ENTRIES: usize = L1Table::PIECE_BYTES / 8;
/// Parts that may be added: enough for 32 MiB whatever there was at first.
const PARTS_MAX: usize = 17;

/// An entry that names an L2 table, true or not.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct L1Entry {
    /// Where the table begins.
    pub table: HostOffset,
    /// Whether no snapshot shares it.
    pub exclusive: bool,
}

impl L1Entry {
    /// Those of a table or a piece of one as stored; entries that name no table are left out.
    pub fn all(bytes: &[u8]) -> impl Iterator<Item = Self> + '_ {
        let entry = |raw| Self { table: HostOffset(raw & OFFSET), exclusive: raw & COPIED != 0 };
        words(bytes).map(entry).filter(|entry| entry.table.0 != 0)
    }
}

/// The active L1 table, wholly in memory. Its entries are checked when they are used, so that one bad entry
/// costs the guest bytes behind it and no others. Writers add tables while others look: each entry is old or new.
/// It may grow: entries stay where they are in memory, and others are added behind them.
#[derive(Debug)]
pub struct L1Table {
    first: Box<[AtomicU64]>,
    /// What was added: the first part is as long as [`L1Table::unit`], each further one twice as long as the one
    /// before.
    more: [OnceLock<Box<[AtomicU64]>>; PARTS_MAX],
    len: AtomicUsize,
}

impl L1Table {
    /// Bytes that are written at a time: a sector, which is stored whole or not at all.
    pub const PIECE_BYTES: usize = 512;

    /// Most bytes of the L1 table of a disk or of a snapshot: QEMU's bound.
    pub const BYTES_MAX: u64 = 32 << 20;

    /// The table from its bytes as stored, those of [`Geometry::l1_range`]. `Invalid` for any other number
    /// of bytes.
    pub fn parse(geometry: &Geometry, bytes: &[u8]) -> Result<Self, BlockError> {
        let wanted = geometry.l1_entries() as usize * 8;
        if bytes.len() != wanted {
            let context = format!("an L1 table of {wanted} bytes was asked of {} bytes", bytes.len());
            return Err(BlockError::new(ErrorKind::Invalid, context));
        }
        let first: Box<[AtomicU64]> = words(bytes).map(AtomicU64::new).collect();
        Ok(Self { len: AtomicUsize::new(first.len()), first, more: [const { OnceLock::new() }; PARTS_MAX] })
    }

    /// Bytes of memory that it takes.
    pub fn memory(&self) -> usize {
        let more = self.more.iter().filter_map(OnceLock::get).map(|part| size_of_val(&**part));
        size_of_val(&*self.first) + more.sum::<usize>()
    }

    /// Number of entries.
    pub fn len(&self) -> usize {
        self.len.load(Ordering::Acquire)
    }

    /// Whether it has none, as that of an empty disk.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Adds empty entries until there are `len` of them, at most 32 MiB.
    pub fn grow(&self, len: usize) {
        let mut end = self.first.len();
        for (number, part) in self.more.iter().enumerate().take_while(|_| len > 0) {
            if end >= len {
                break;
            }
            let count = self.unit() << number;
            part.get_or_init(|| (0..count).map(|_| AtomicU64::new(0)).collect());
            end += count;
        }
        self.len.fetch_max(len.min(end), Ordering::AcqRel);
    }

    /// An entry; `None` beyond the end.
    #[inline]
    pub(crate) fn get(&self, index: usize) -> Option<&AtomicU64> {
        match self.first.get(index) {
            None if index < self.len() => self.added(index - self.first.len()),
            found => found,
        }
    }

    #[cold]
    fn added(&self, index: usize) -> Option<&AtomicU64> {
        let number = (index / self.unit() + 1).ilog2();
        let before = self.unit() * ((1 << number) - 1);
        self.more.get(number as usize)?.get()?.get(index - before)
    }

    /// Entries of the first part that is added.
    fn unit(&self) -> usize {
        self.first.len().max(64)
    }

    /// Points the entry that maps `guest` to an L2 table that nobody else refers to, for all who look from now on.
    /// Answers which piece of the table has changed; `None` beyond its end.
    pub fn publish(&self, geometry: &Geometry, guest: u64, table: HostOffset) -> Option<usize> {
        let index = (guest >> geometry.table_span_bits()) as usize;
        self.get(index)?.store(table.0 | COPIED, Ordering::SeqCst);
        Some(index / PIECE_ENTRIES)
    }

    /// Other tables map the disk, for all who look from now on, entry by entry. It gets no shorter: what `words` do not
    /// name maps nothing.
    pub fn replace(&self, words: &[u64]) {
        self.grow(words.len());
        for index in 0..self.len() {
            if let Some(entry) = self.get(index) {
                entry.store(words.get(index).copied().unwrap_or(0), Ordering::SeqCst);
            }
        }
    }

    /// Nothing maps `guest` any more, for all who look from now on. Answers which piece of the table has changed;
    /// `None` beyond its end.
    pub fn clear(&self, geometry: &Geometry, guest: u64) -> Option<usize> {
        let index = (guest >> geometry.table_span_bits()) as usize;
        self.get(index)?.store(0, Ordering::SeqCst);
        Some(index / PIECE_ENTRIES)
    }

    /// Where the table that maps `guest` begins, if there is one.
    pub fn table(&self, geometry: &Geometry, guest: u64) -> Option<HostOffset> {
        let entry = self.get((guest >> geometry.table_span_bits()) as usize)?;
        Some(HostOffset(entry.load(Ordering::SeqCst) & OFFSET)).filter(|table| table.0 != 0)
    }

    /// Whether the table that maps `guest` is not shared with a snapshot, so that it may be changed in place.
    pub fn is_exclusive(&self, geometry: &Geometry, guest: u64) -> bool {
        let entry = self.get((guest >> geometry.table_span_bits()) as usize);
        entry.is_some_and(|entry| entry.load(Ordering::SeqCst) & COPIED != 0)
    }

    /// A piece as it is to be stored, and where in the table (in bytes) it begins.
    pub fn piece(&self, number: usize) -> (u64, Vec<u8>) {
        let entries =
            (number * PIECE_ENTRIES..(number + 1) * PIECE_ENTRIES).map_while(|index| self.get(index));
        let bytes = entries.flat_map(|entry| entry.load(Ordering::SeqCst).to_be_bytes()).collect();
        ((number * Self::PIECE_BYTES) as u64, bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_stay_where_they_are_while_it_grows() {
        for first in [0, 1, 63, 64, 1000] {
            let words = |len: usize| (0..len).map(|_| AtomicU64::new(0)).collect();
            let more = [const { OnceLock::new() }; PARTS_MAX];
            let table = L1Table { first: words(first), more, len: AtomicUsize::new(first) };
            let mut set = 0;
            for len in [first + 1, first + 64, first + 65, 5000, 100_000, 4 << 20] {
                table.grow(len);
                assert!(table.len() == len && table.get(len).is_none(), "{first}, {len}");
                (set..len).for_each(|index| {
                    table.get(index).expect("there").store(index as u64, Ordering::Relaxed)
                });
                set = len;
            }
            let same =
                |index: usize| table.get(index).is_some_and(|e| e.load(Ordering::Relaxed) == index as u64);
            assert!((0..set).all(same), "{first}");
            table.grow(5);
            assert_eq!(table.len(), 4 << 20);
            assert_eq!(table.piece(1).0, 512);
            assert_eq!(table.piece(1).1[..16], [64u64.to_be_bytes(), 65u64.to_be_bytes()].concat());
        }
    }
}
