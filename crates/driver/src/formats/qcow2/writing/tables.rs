//! L2 tables that may be changed: those that are missing are made, those that a snapshot shares are copied.
//!
//! Invariant: a table is on disk, empty or as the one that it is a copy of, before the L1 entry points there; so that
//! entry needs no barrier of its own.

use std::sync::Arc;

use block::{ByteRange, Result};
use flow::Next;
use io::Lease;
use qcow2::{FILE_CHILD, HostOffset, Located, SliceAddress};

use super::super::image::Image;
use super::super::space::Run;
use super::super::space::freed::Why;
use super::books::Pin;

impl Image {
    /// Pins the slice that maps `guest`, in a table of our own; one is made where there is none, or the answer is
    /// `None`.
    pub(crate) async fn pin(self: &Arc<Self>, guest: u64, make: bool, next: Next<'_>) -> Result<Option<Pin>> {
        let (writer, range) = (self.writer()?, ByteRange::new(guest, 1));
        loop {
            match self.own(self.locate(range))? {
                Located::Slice(address) if self.l1.is_exclusive(&self.geometry, guest) => {
                    match writer.books.pin(address, &self.slices) {
                        Some(pin) => return Ok(Some(pin)),
                        None => self.load_slice(range, next).await?,
                    }
                }
                Located::Unallocated { .. } if !make => return Ok(None),
                _ => self.own_table(guest, next).await?,
            }
        }
    }

    /// Sees to it that the table that maps `guest` is there and nobody else's.
    async fn own_table(self: &Arc<Self>, guest: u64, next: Next<'_>) -> Result<()> {
        let writer = self.writer()?;
        let _alone = writer.tables.exclusive(ByteRange::new(guest / self.geometry.table_span(), 1)).await;
        let shared = match self.own(self.locate(ByteRange::new(guest, 1)))? {
            Located::Slice(_) if self.l1.is_exclusive(&self.geometry, guest) => return Ok(()),
            Located::Slice(_) => self.l1.table(&self.geometry, guest),
            Located::Unallocated { .. } => None,
        };
        let room = self.take(1, next).await?;
        let cluster = self.geometry.cluster_size() as usize;
        let mut bytes = match shared {
            Some(table) => self.read_file(table.0, cluster, next).await?,
            None => Lease::zeroed(cluster),
        };
        // The room stays taken until the I/O has ended, whatever becomes of us.
        bytes.carry(room.clone());
        let table = self.host(room.run.first);
        self.write_file(table.0, bytes, next).await?;
        let mut books = writer.books.lock();
        let piece = self.l1.publish(&self.geometry, guest, table);
        books.l1_dirty.extend(piece);
        books.refcounts.structures.add_l2(true, room.run);
        room.keep();
        if let Some(shared) = shared {
            self.forget_slices(shared, guest);
            let run = Run { first: shared.0 >> self.geometry.cluster_bits(), count: 1 };
            books.retire(vec![run], Why::Other, next.reclaim());
        }
        Ok(())
    }

    /// Drops the slices of a table that maps `guest` no more: it may come to do so again, with other entries.
    pub(crate) fn forget_slices(&self, table: HostOffset, guest: u64) {
        let (table_span, span) = (self.geometry.table_span(), self.geometry.slice_span());
        let first = guest - guest % table_span;
        for (number, first_guest) in (first..first + table_span).step_by(span as usize).enumerate() {
            let host = HostOffset(table.0 + (number * self.geometry.slice_bytes()) as u64);
            self.slices.forget(SliceAddress { host, first_guest });
        }
    }

    /// How many bytes from the slice of `range`'s first one on have no table; `None` when it has one.
    pub(crate) fn unmapped_span(&self, range: ByteRange) -> Result<Option<u64>> {
        let from = range.start() % self.geometry.slice_span();
        Ok(match self.own(self.locate(range))? {
            Located::Unallocated { len } => Some(len + from),
            Located::Slice(_) => None,
        })
    }

    /// Makes the data file as long as the disk, so that no cluster of it lies beyond its end.
    pub(crate) async fn stretch_data_file(&self, next: Next<'_>) -> Result<()> {
        /// What the last write is a multiple of, where it can be.
        const BLOCK: u64 = 4096;
        let (child, size) = (self.geometry.data_child(), self.bound());
        if child == FILE_CHILD {
            return Ok(());
        }
        let len = next.size(child)?;
        if len < size {
            let last = ((size - 1) / BLOCK * BLOCK).max(len);
            let zeros = Lease::zeroed((size - last) as usize);
            self.write_data(last, zeros, next).await?;
        }
        self.grow_data(size.max(len));
        Ok(())
    }
}
