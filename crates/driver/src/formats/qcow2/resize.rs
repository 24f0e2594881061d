//! Changing the size of the disk.
//!
//! Order: a longer L1 table, a barrier, the header points to it; what is new and may show something is zeroed, and all
//! of that is durable; then one sector of the header says the new size. A shorter disk is first said to be shorter,
//! then loses its clusters, and then the file its end ([`super::writing::cut`]). So a crash leaves the old size or the
//! new one, and every byte of the shorter one is what it was.
//!
//! Invariants: whoever resizes has seen to it that nobody else relies on the size (permission `resize`); nobody
//! allocates or drops anything meanwhile ([`Next::lock_all`]), readers and those who write in place go on.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use block::{BlockError, ByteRange, ErrorKind, Result};
use flow::sabotage::Rule;
use flow::{Flags, Next, Op, Preallocation, Request};
use io::{Lease, LocalFut};
use qcow2::{DATA_FILE_CHILD, Entry, FILE_CHILD, Header, HeaderEdit, HostOffset, L1Table, NewEntry, Version};

use super::Qcow2;
use super::image::Image;
use super::space::Run;
use super::space::freed::Why;

/// What the size of an image is a multiple of, in bytes.
const SECTOR: u64 = 512;

impl flow::Resize for Qcow2 {
    fn resize<'a>(&'a self, size: u64, next: Next<'a>) -> LocalFut<'a, Result<()>> {
        Box::pin(self.image.in_background(next, move |image, next| {
            Box::pin(async move {
                let _alone = next.lock_all().await;
                image.resize(size, next).await.map_err(|error| image.refused(error, next))
            })
        }))
    }

    fn preallocate<'a>(
        &'a self,
        range: ByteRange,
        how: Preallocation,
        next: Next<'a>,
    ) -> LocalFut<'a, Result<()>> {
        Box::pin(self.image.in_background(next, move |image, next| {
            Box::pin(async move {
                let _alone = next.lock_all().await;
                let range = range.intersection(ByteRange::new(0, image.bound()));
                let reserved = async {
                    image.begin_change(next).await?;
                    image.reserve(range, how, next).await?;
                    image.flush(next).await
                };
                reserved.await.map_err(|error| image.refused(error, next))
            })
        }))
    }
}

impl Image {
    async fn resize(self: &Arc<Self>, size: u64, next: Next<'_>) -> Result<()> {
        if !size.is_multiple_of(SECTOR) {
            let context = "The new size must be a multiple of 512";
            return Err(BlockError::new(ErrorKind::Invalid, context));
        }
        let entries = size.div_ceil(self.geometry.table_span());
        if entries > L1Table::BYTES_MAX / 8 {
            let context = "Failed to grow the L1 table: File too large";
            return Err(BlockError::new(ErrorKind::Invalid, context));
        }
        let header = self.header(next).await?;
        if header.version == Version::V2 && header.snapshots.count > 0 {
            let context = "Can't resize a v2 image which has snapshots";
            return Err(BlockError::new(ErrorKind::Unsupported, context));
        }
        self.keeps_bitmaps(size)?;
        let _held = self.hold_bitmaps(next).await?;
        self.flush(next).await?;
        let old = self.size.load(Ordering::Acquire);
        // What is new is recorded from the first write on.
        self.bitmaps.resize(old.max(size));
        let resized = match size.cmp(&old) {
            std::cmp::Ordering::Greater => self.grow(old, size, next).await,
            std::cmp::Ordering::Less => self.shrink(old, size, next).await,
            std::cmp::Ordering::Equal => Ok(()),
        };
        self.bitmaps.resize(self.size.load(Ordering::Acquire));
        resized
    }

    pub(super) async fn header(&self, next: Next<'_>) -> Result<Header> {
        let len = self.geometry.cluster_size().min(next.size(FILE_CHILD)?);
        Header::parse(&self.read_file(0, len as usize, next).await?)
    }

    async fn grow(self: &Arc<Self>, old: u64, size: u64, next: Next<'_>) -> Result<()> {
        self.lengthen_l1(size, next).await?;
        self.slices.cover(size);
        if self.is_apart() && next.size(DATA_FILE_CHILD)? < size {
            next.resize(DATA_FILE_CHILD, size).await?;
            self.grow_data(size);
        }
        self.bound.store(size, Ordering::Release);
        let mut grown = self.clear_new(old, size, next).await;
        if grown.is_ok() {
            grown = self.say_size(size, next).await;
        }
        if grown.is_err() {
            self.bound.store(old, Ordering::Release);
        }
        grown
    }

    /// What is new reads as zeros: the rest of the last cluster and what a backing image has there are zeroed, and what
    /// a longer disk has left behind is dropped.
    async fn clear_new(self: &Arc<Self>, old: u64, size: u64, next: Next<'_>) -> Result<()> {
        let last = self.cluster().up(old).min(size);
        let below = next.backing().map(|child| next.size(child)).transpose()?.unwrap_or(0);
        // Behind the backing image nothing shows, and tables that say so would only take room.
        let end = self.cluster().up(below).clamp(last, size);
        let zeroed = Request::new(Op::WriteZeroes, ByteRange::between(old, end));
        self.zero(zeroed.with_flags(Flags::MAY_UNMAP), next).await?;
        self.drop_entries(ByteRange::between(self.cluster().up(end), self.cluster().up(size)), next).await?;
        if self.writer()?.raw_data {
            // Else what lies in the raw file would not be in the disk.
            self.reserve(ByteRange::between(old, size), Preallocation::Metadata, next).await?;
        }
        self.flush(next).await
    }

    async fn shrink(self: &Arc<Self>, old: u64, size: u64, next: Next<'_>) -> Result<()> {
        self.say_size(size, next).await?;
        let gone = ByteRange::between(self.cluster().up(size), self.cluster().up(old));
        self.drop_entries(gone, next).await?;
        self.bound.store(size, Ordering::Release);
        self.drop_tables_from(size, old, next).await?;
        if self.is_apart() {
            next.resize(DATA_FILE_CHILD, size).await?;
        }
        self.cut_file(next).await;
        Ok(())
    }

    /// Nothing is allocated there any more.
    pub(super) async fn drop_entries(self: &Arc<Self>, whole: ByteRange, next: Next<'_>) -> Result<()> {
        let new = |entry: &Entry| match entry {
            Entry::Plain { host: None, parts, .. } if parts.zero == 0 => None,
            _ => Some(NewEntry::UNALLOCATED),
        };
        self.replace_all(whole, (Why::Cut, false), next, new).await
    }

    /// Drops the L2 tables of nothing but bytes from `start` to `end`, and gives back what was dropped. All is durable
    /// then.
    pub(super) async fn drop_tables_from(
        self: &Arc<Self>,
        start: u64,
        end: u64,
        next: Next<'_>,
    ) -> Result<()> {
        self.flush(next).await?;
        self.drop_tables(start, end, next)?;
        self.flush(next).await?;
        self.settle_all(next).await;
        self.flush(next).await
    }

    /// Drops L2 tables; all changes of theirs are durable.
    fn drop_tables(&self, size: u64, old: u64, next: Next<'_>) -> Result<()> {
        let (span, writer) = (self.geometry.table_span(), self.writer()?);
        for number in size.div_ceil(span)..old.div_ceil(span) {
            let guest = number * span;
            let Some(table) = self.l1.table(&self.geometry, guest) else { continue };
            let mut books = writer.books.lock();
            // One that is still held by what was given up stays, empty.
            if books.is_pinned(ByteRange::new(guest, span)) {
                continue;
            }
            self.forget_slices(table, guest);
            let piece = self.l1.clear(&self.geometry, guest);
            books.l1_dirty.extend(piece);
            writer.generations.bump(ByteRange::new(guest, span));
            let run = Run { first: table.0 >> self.geometry.cluster_bits(), count: 1 };
            books.retire(vec![run], Why::Cut, next.reclaim());
        }
        Ok(())
    }

    /// The header says the size, durably; then so do we.
    async fn say_size(self: &Arc<Self>, size: u64, next: Next<'_>) -> Result<()> {
        self.alone(async |turn| self.say(&HeaderEdit::Size(size), Rule::LastBarrier, turn, next).await)
            .await?;
        let old = self.size.swap(size, Ordering::AcqRel);
        self.writer()?.generations.bump(ByteRange::between(old.min(size), old.max(size)));
        Ok(())
    }

    /// Makes the L1 table long enough for a disk of `size` bytes: where it is, if there is room behind it in its last
    /// cluster, else elsewhere.
    async fn lengthen_l1(self: &Arc<Self>, size: u64, next: Next<'_>) -> Result<()> {
        let wanted = size.div_ceil(self.geometry.table_span());
        let (have, cluster) = (self.l1.len() as u64, self.geometry.cluster_size());
        if wanted <= have {
            return Ok(());
        }
        match wanted * 8 <= (have * 8).next_multiple_of(cluster) {
            true => self.lengthen_in_place(have, wanted, next).await?,
            false => self.move_l1(have, wanted, next).await?,
        }
        self.l1.grow(wanted as usize);
        Ok(())
    }

    async fn lengthen_in_place(self: &Arc<Self>, have: u64, wanted: u64, next: Next<'_>) -> Result<()> {
        let at = self.l1_offset.load(Ordering::Acquire);
        self.alone(async |turn| {
            let zeros = Lease::zeroed(((wanted - have) * 8) as usize);
            self.write_table(at + have * 8, zeros, turn, next).await?;
            self.barrier(Rule::RefcountBarrier, next).await?;
            let edit = HeaderEdit::L1Table { offset: HostOffset(at), entries: wanted as u32 };
            self.say(&edit, Rule::LastBarrier, turn, next).await
        })
        .await
    }

    async fn move_l1(self: &Arc<Self>, have: u64, wanted: u64, next: Next<'_>) -> Result<()> {
        let cluster = self.geometry.cluster_size();
        let room = self.take_together((wanted * 8).div_ceil(cluster), next).await?;
        let offset = self.host(room.run.first);
        self.alone(async |turn| {
            // Counted durably, with all that the table on disk points to.
            self.flush_once(turn, next).await?;
            let at = self.l1_offset.load(Ordering::Acquire);
            let mut table = self.read_file(at, (have * 8) as usize, next).await?;
            table.join(Lease::zeroed((room.run.count * cluster - have * 8) as usize));
            self.write_table(offset.0, table, turn, next).await?;
            self.barrier(Rule::RefcountBarrier, next).await?;
            // Whatever comes of it, the header may point there.
            room.keep();
            let edit = HeaderEdit::L1Table { offset, entries: wanted as u32 };
            self.say(&edit, Rule::LastBarrier, turn, next).await?;
            self.l1_offset.store(offset.0, Ordering::Release);
            let mut books = self.writer()?.books.lock();
            let before = books.refcounts.l1_moved(room.run);
            if before.count > 0 {
                books.abandon(before);
            }
            Ok(())
        })
        .await
    }
}
