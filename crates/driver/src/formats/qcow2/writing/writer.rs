//! What an image that is open for writing has besides: books, generations, and who does what in the background.
//!
//! Invariants:
//! * Tables on disk change by one hand at a time ([`Writer::turn`]), in tasks that nobody can drop half-way.
//! * Before the first change of anything the autoclear bits that we do not keep are durably cleared, and bitmaps that
//!   would be wrong are marked. Until then no cluster is said to be writable in place.

use std::any::Any;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::sync::{Arc, OnceLock, Weak};
use std::time::Duration;

use block::{BlockError, ErrorKind, Mapping, Place, Result};
use flow::{Next, RangeLocks, Reclaim};
use io::LocalFut;
use io::sync::{Semaphore, oneshot};
use qcow2::{Geometry, Header};

use super::super::corruption::Corruption;
use super::super::image::Image;
use super::super::space::freed::Passes;
use super::super::space::refcounts::Refcounts;
use super::super::space::structures::Structures;
use super::books::{Bounds, Locked};
use super::flushes::Flushes;
use super::generations::Generations;

/// Fewest slices that may wait to be written.
const DIRTY_MIN: u64 = 8;
/// Bytes of data that a cache maps before they are durable, at most. All others leave it to their clients: those of a
/// cache only read, and never send a flush.
const AHEAD_MAX: u64 = 64 << 20;

/// How often, and after how long, to look whether the last reader has left.
const LOOKS_MAX: u32 = 100;
const PAUSE: Duration = Duration::from_millis(1);

/// Something may be changed: autoclear bits are cleared, bitmaps are marked as in use.
const CHANGING: u8 = 1;
/// Nobody waits for those who write in place to end.
const STILL_NOT: u8 = 2;
/// The tables in memory are those that the header points to.
const KNOWN: u8 = 4;
/// When clusters that are ours alone are written in place.
const IN_PLACE: u8 = CHANGING | STILL_NOT | KNOWN;

/// The right to write tables and header; travels with the buffers that are written.
pub(crate) type Turn = Arc<dyn Any + Send + Sync>;

pub(crate) struct Writer {
    pub(crate) books: Arc<Locked>,
    pub(crate) generations: Generations,
    /// Held while an L2 table is made, by number of its L1 entry.
    pub(crate) tables: RangeLocks,
    /// Held while new bytes are written to clusters that are kept, by guest bytes.
    pub(crate) kept: RangeLocks,
    /// Held while a refcount block is read, by its number.
    pub(crate) block_loads: RangeLocks,
    pub(crate) flushes: Flushes,
    /// Whoever writes tables or the header.
    pub(crate) turn: Arc<Semaphore>,
    /// Whether clusters are written in place, bit by bit: all of [`IN_PLACE`].
    state: AtomicU8,
    /// Whether it is marked dirty before, and clean when it comes to rest (`lazy-refcounts`).
    pub(crate) lazy: bool,
    /// The header says that it is dirty.
    pub(crate) dirty: AtomicBool,
    /// Those that are cleared before.
    pub(crate) to_clear: u64,
    /// Whether the data file reads as the disk by itself, and has to go on doing so.
    pub(crate) raw_data: bool,
    /// Whose clusters are given back to the file.
    pub(crate) passes: Passes,
    /// Whether discards do anything, and zeroing may let storage go (`discard=unmap`).
    pub(crate) takes_discards: bool,
    /// Whether what is discarded keeps its cluster (`discard-no-unref`).
    pub(crate) keeps_discarded: bool,
    /// Whether the header or the graph has named a backing image since it was opened: what is dropped has to be zeroed,
    /// or that one would show. Also once it is cut off: requests of older views still see it.
    pub(crate) backed: AtomicBool,
    /// Earlier bodies of the node whose readers have no guards: alive while such a reader may be.
    earlier: Vec<Weak<Image>>,
    /// Most bytes that the file shall take for what could be fetched again.
    pub(crate) quota: Option<u64>,
    /// A flush of the file failed. Nobody knows what of that which was written before is on disk, and a later flush
    /// that goes well would not say so: nothing is made durable any more, so that no table points to what is lost.
    lost: AtomicBool,
    /// What was found wrong with the tables: nothing is changed any more.
    corrupt: OnceLock<Corruption>,
    /// Held by bodies of the node that were opened read-only: their readers have no guards.
    unguarded: Arc<()>,
}

/// What a writer needs of the header, and how much memory it may take.
pub(crate) struct Start<'a> {
    pub(crate) header: &'a Header,
    pub(crate) geometry: &'a Geometry,
    /// The bytes of the refcount table.
    pub(crate) table: &'a [u8],
    /// Where nothing else is written.
    pub(crate) structures: Structures,
    /// Bytes of the image file.
    pub(crate) file_len: u64,
    pub(crate) refcount_budget: u64,
    pub(crate) l2_budget: u64,
    pub(crate) passes: Passes,
    pub(crate) takes_discards: bool,
    pub(crate) keeps_discarded: bool,
    pub(crate) lazy: bool,
    /// Autoclear bits that stay.
    pub(crate) keep: u64,
    pub(crate) quota: Option<u64>,
    /// Whether it is the cache of another image.
    pub(crate) is_cache: bool,
    pub(crate) earlier: Vec<Weak<Image>>,
    /// Whether it is opened over a backing image.
    pub(crate) backed: bool,
}

impl Writer {
    pub(crate) fn new(start: Start<'_>) -> Self {
        let Start { header, geometry, table, keep, earlier, backed, passes, quota, .. } = start;
        let slices = (start.l2_budget / 2 / geometry.slice_bytes() as u64).max(DIRTY_MIN);
        let bounds =
            Bounds { slices: slices as usize, data: if start.is_cache { AHEAD_MAX } else { u64::MAX } };
        let mut refcounts = Refcounts::new(header, geometry, table, start.file_len, start.refcount_budget);
        refcounts.structures = start.structures;
        Self {
            books: Locked::new(refcounts, passes, bounds),
            generations: Generations::new(geometry.virtual_size()),
            tables: RangeLocks::default(),
            kept: RangeLocks::default(),
            block_loads: RangeLocks::default(),
            flushes: Flushes::default(),
            turn: Arc::new(Semaphore::new(1)),
            state: AtomicU8::new(STILL_NOT | KNOWN),
            lazy: start.lazy,
            dirty: AtomicBool::new(false),
            to_clear: header.features.autoclear & !(keep | header.features.kept_autoclear()),
            passes,
            takes_discards: start.takes_discards,
            keeps_discarded: start.keeps_discarded,
            raw_data: header.data_file.as_ref().is_some_and(|data| data.raw),
            backed: AtomicBool::new(backed || header.backing.is_some()),
            earlier,
            quota,
            lost: AtomicBool::new(false),
            corrupt: OnceLock::new(),
            unguarded: Arc::default(),
        }
    }

    /// Whether somebody may see what was dropped without a guard.
    pub(crate) fn is_seen_unguarded(&self) -> bool {
        Arc::strong_count(&self.unguarded) > 1 || self.earlier.iter().any(|image| image.strong_count() > 0)
    }

    /// Waits for those who may see what was dropped before, some time; answers whether they have left.
    pub(crate) async fn readers_left(&self, reclaim: &Reclaim) -> bool {
        let tag = reclaim.tag();
        for _ in 0..LOOKS_MAX {
            if !self.is_seen_unguarded() && reclaim.passed(tag) {
                return true;
            }
            io::sleep(PAUSE).await;
        }
        false
    }

    /// Before the first change nothing can be written in place.
    #[inline]
    pub(crate) fn hold_back(&self, mut mapping: Mapping) -> Mapping {
        if let Place::Data { exclusive, .. } = &mut mapping.place {
            *exclusive &= self.state.load(Ordering::Acquire) == IN_PLACE;
        }
        mapping
    }

    pub(crate) fn is_changing(&self) -> bool {
        self.state.load(Ordering::Acquire) & CHANGING != 0
    }

    pub(crate) fn set_changing(&self, changing: bool) {
        match changing {
            true => self.state.fetch_or(CHANGING, Ordering::SeqCst),
            false => self.state.fetch_and(!CHANGING, Ordering::SeqCst),
        };
        if self.corrupt.get().is_some() {
            self.state.fetch_and(!CHANGING, Ordering::SeqCst);
        }
    }

    /// From now on nobody finds a cluster that is writable in place, or everybody again.
    pub(crate) fn set_still(&self, still: bool) {
        match still {
            true => self.state.fetch_and(!STILL_NOT, Ordering::SeqCst),
            false => self.state.fetch_or(STILL_NOT, Ordering::SeqCst),
        };
    }

    /// Nobody knows which tables the header points to: nothing is made durable any more, and nothing written at all.
    pub(crate) fn set_unknown(&self) {
        self.lose();
        self.state.fetch_and(!KNOWN, Ordering::SeqCst);
    }

    /// Fails once [`Writer::set_unknown`] was called.
    pub(crate) fn check_known(&self) -> Result<()> {
        match self.state.load(Ordering::Acquire) & KNOWN {
            0 => self.check_kept(),
            _ => Ok(()),
        }
    }

    /// Fails once [`Writer::lose`] was called.
    pub(crate) fn check_kept(&self) -> Result<()> {
        if self.lost.load(Ordering::SeqCst) {
            let context = "an earlier flush of its file failed, so what was written since the one before may be lost: look after its storage, then close the image and open it again";
            return Err(BlockError::new(ErrorKind::Io, context));
        }
        Ok(())
    }

    /// A flush of the file failed.
    pub(crate) fn lose(&self) {
        self.lost.store(true, Ordering::SeqCst);
    }

    /// Refuses changes from now on, in place too; answers whether they were not refused before.
    pub(crate) fn stop(&self, found: &Corruption) -> bool {
        let is_first = self.corrupt.set(found.clone()).is_ok();
        self.state.fetch_and(!CHANGING, Ordering::SeqCst);
        is_first
    }

    /// Fails once [`Writer::stop`] was called.
    pub(crate) fn check_sound(&self) -> Result<()> {
        self.corrupt.get().map_or(Ok(()), |found| Err(found.clone().error()))
    }

    /// Lets readers without guards in as long as the answer lives, if all changes are in the file.
    pub(crate) fn let_unguarded_in(&self) -> Result<Arc<()>> {
        if !self.books.lock().is_clean() {
            let context = "it has changes that are not in its file yet: flush it first";
            return Err(BlockError::new(ErrorKind::Busy, context));
        }
        Ok(self.unguarded.clone())
    }
}

impl Image {
    /// Runs `work` in a task of its own, which nobody can drop half-way, and waits for it.
    pub(crate) async fn in_background<W>(self: &Arc<Self>, next: Next<'_>, work: W) -> Result<()>
    where
        W: for<'w> FnOnce(&'w Arc<Self>, Next<'w>) -> LocalFut<'w, Result<()>> + 'static,
    {
        let (tell, told) = oneshot::channel();
        self.spawn(next, move |image, next| {
            Box::pin(async move {
                // Nobody may be waiting any more.
                let _ = tell.send(work(image, next).await);
            })
        });
        told.await.map_err(|_| stopped())?
    }

    /// Runs `work` in a task that holds the image and the view.
    pub(crate) fn spawn<W>(self: &Arc<Self>, next: Next<'_>, work: W)
    where
        W: for<'w> FnOnce(&'w Arc<Self>, Next<'w>) -> LocalFut<'w, ()> + 'static,
    {
        let (image, hold) = (self.clone(), next.hold());
        io::spawn(async move { work(&image, hold.next()).await });
    }

    /// Carries out what nobody else may do at the same time: until all that the turn was lent to has let go of it.
    pub(crate) async fn alone<T>(&self, work: impl AsyncFnOnce(&Turn) -> Result<T>) -> Result<T> {
        let turn = self.writer()?.turn.clone().acquire_owned().await.map_err(|_| stopped())?;
        let turn: Turn = Arc::new(turn);
        work(&turn).await
    }
}

#[cold]
pub(crate) fn stopped() -> BlockError {
    BlockError::new(ErrorKind::Cancelled, "the image is being closed")
}
