//! `qcow2`: QEMU's copy-on-write images.
//!
//! The format itself is the crate `qcow2`; this driver reads its tables when they are needed and keeps them: the
//! L1 table whole, L2 tables in slices within a budget, and the last few clusters that were decompressed. An image
//! that is open for writing has a [`writing::writer::Writer`] besides: what is changed is changed in memory, and made
//! durable by flushes in an order that a crash cannot turn into corruption ([`writing::flush`]).
//!
//! Invariants: the image's own names are answered as wishes and opened by nobody here; new data is mapped when it is
//! written, on disk when it is durable; a dropped cluster is reused when nobody can see it any more, here or on disk.

mod amend;
mod bitmaps;
mod check;
mod corruption;
mod facts;
mod header;
mod idle;
mod image;
mod inflated;
mod opening;
mod resize;
mod slices;
mod snapshots;
mod space;
mod writing;

use std::any::Any;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use block::{BlockError, ByteRange, ChildIndex, Mapping, Result};
use flow::{Changes, Format, Limits, Next, Op, Powers, Prepared, Quota, Recorder, Request, ZeroCost};
use io::{Lease, LocalFut};

pub use facts::facts;
use image::Image;
pub use opening::{Options, open, takes};
pub use snapshots::snapshots;

/// The body of a node.
struct Qcow2 {
    image: Arc<Image>,
    /// Whether it may change: it was opened for writing.
    changing: bool,
    /// Readers without guards look at tables that another body may change.
    _unguarded: Option<Arc<()>>,
}

impl Format for Qcow2 {
    fn size(&self) -> u64 {
        self.image.size.load(Ordering::Acquire)
    }

    fn limits(&self) -> Limits {
        let zeroing = if self.image.geometry.has_zeros() { ZeroCost::Free } else { ZeroCost::Slow };
        Limits { granule: self.image.geometry.cluster_size(), zeroing, ..Limits::NONE }
    }

    fn map_now(&self, range: ByteRange) -> Result<Option<Mapping>> {
        self.image.map(range)
    }

    fn kept_room(&self, run: ByteRange) -> Result<(Option<(ChildIndex, u64)>, u64)> {
        let (room, len) = self.image.kept_room(run)?;
        Ok((room.map(|offset| (self.image.geometry.data_child(), offset)), len))
    }

    fn unmapped(&self, error: BlockError, op: Op, range: ByteRange, next: Next<'_>) -> BlockError {
        match op {
            Op::Write => self.image.lied_to_writer(error, range.start(), next),
            _ => self.image.lied_to_reader(error, self.changing.then_some(next)),
        }
    }

    fn load<'a>(&'a self, range: ByteRange, next: Next<'a>) -> LocalFut<'a, Result<()>> {
        Box::pin(
            async move { self.image.load_slice(range, next).await.map_err(|error| self.image.named(error)) },
        )
    }

    fn read_special<'a>(
        &'a self,
        range: ByteRange,
        mut lease: Lease,
        next: Next<'a>,
    ) -> LocalFut<'a, (Result<()>, Lease)> {
        Box::pin(async move {
            let done = self.image.inflate(range, &mut lease, next).await;
            (done.map_err(|error| self.image.named(error)), lease)
        })
    }

    fn changes(&self) -> Option<&dyn Changes> {
        self.changing.then_some(self)
    }

    fn keep(&self) -> Option<Arc<dyn Any + Send + Sync>> {
        Some(self.image.clone())
    }

    fn powers(&self) -> Powers<'_> {
        let backing = self.changing.then_some(self as &dyn flow::Backing);
        let compress = self.changing.then_some(self as &dyn flow::Compress);
        let quota = self.changing.then_some(self).filter(|body| body.bound().is_some());
        let quota = quota.map(|body| body as &dyn Quota);
        let resize = self.changing.then_some(self as &dyn flow::Resize);
        let empty = self.changing.then_some(self as &dyn flow::Empty);
        let powers = Powers {
            bitmaps: Some(self),
            naming: Some(self),
            facts: Some(self),
            check: Some(self),
            snapshots: Some(self),
            ..Powers::default()
        };
        Powers { backing, compress, quota, resize, empty, ..powers }
    }
}

impl Qcow2 {
    /// The quota that the image's header states, if it is one of ours (`docs/formats/cache.md`).
    fn bound(&self) -> Option<u64> {
        self.image.writer.as_ref().and_then(|writer| writer.quota)
    }
}

impl Quota for Qcow2 {
    fn limit(&self) -> u64 {
        self.bound().unwrap_or(u64::MAX)
    }

    /// The length of the file, which grows before anything points beyond, in whole clusters; and refcount blocks.
    fn used(&self) -> u64 {
        let bits = self.image.geometry.cluster_bits();
        let used = self.image.file_len.load(Ordering::Acquire).div_ceil(1 << bits);
        let counts = self.image.writer.as_ref().map_or(0, |writer| {
            writer.books.lock().refcounts.to_come(used, self.limit().div_ceil(1 << bits))
        });
        used.saturating_add(counts) << bits
    }

    /// Whole clusters, and L2 tables that are not there.
    fn cost(&self, range: ByteRange) -> u64 {
        let (geometry, span) = (&self.image.geometry, self.image.geometry.table_span());
        let whole = self.image.cluster().around(range);
        let tables = (whole.start() / span..whole.end().div_ceil(span))
            .filter(|number| self.image.l1.table(geometry, number * span).is_none());
        whole.len().saturating_add(tables.count() as u64 * geometry.cluster_size())
    }
}

impl Changes for Qcow2 {
    fn prepare<'a>(&'a self, range: ByteRange, next: Next<'a>) -> LocalFut<'a, Result<Option<Prepared>>> {
        Box::pin(async move {
            self.image.make_room(range, next).await.map_err(|error| self.image.refused(error, next))
        })
    }

    fn is_clean(&self, prepared: &Prepared) -> bool {
        Image::is_clean(prepared)
    }

    fn commit(&self, prepared: Prepared, next: Next<'_>) -> Result<()> {
        self.image.map_room(prepared, next).map_err(|error| self.image.refused(error, next))
    }

    fn change<'a>(&'a self, rq: Request, next: Next<'a>) -> LocalFut<'a, Result<()>> {
        Box::pin(async move {
            let result = match rq.op {
                Op::WriteZeroes => self.image.zero(rq, next).await,
                Op::Discard => self.image.discard(rq, next).await,
                _ => self.image.flush(next).await,
            };
            result.map_err(|error| self.image.refused(error, next))
        })
    }

    fn recorder(&self) -> Option<&dyn Recorder> {
        self.image.bitmaps.is_recording().then_some(&*self.image as &dyn Recorder)
    }

    fn admit<'a>(&'a self, next: Next<'a>) -> LocalFut<'a, Result<()>> {
        Box::pin(async move {
            self.image.begin_change(next).await.map_err(|error| self.image.refused(error, next))
        })
    }

    fn rest<'a>(&'a self, next: Next<'a>) -> LocalFut<'a, Result<()>> {
        Box::pin(async move {
            let stored =
                self.image.in_background(next, |image, next| Box::pin(image.come_to_rest(next))).await;
            stored.map_err(|error| self.image.refused(error, next))
        })
    }

    fn generation(&self, offset: u64) -> Option<&AtomicU32> {
        self.image.writer.as_ref().map(|writer| writer.generations.of(offset))
    }
}
