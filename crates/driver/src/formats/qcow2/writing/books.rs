//! What a writable image keeps in memory beyond what readers need, under one lock that is held for moments.
//!
//! Invariants:
//! * There is one copy of a slice that matters: while it is pinned (somebody is about to change it, it differs from
//!   the file, or it is being written) it is here, and whoever misses it in the cache gets this one.
//! * Entries change under the lock, so that a slice that differs from the file is known to do so.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use block::{ByteRange, Result};
use flow::{Reclaim, Tag};
use qcow2::{Entry, Geometry, L2Slice, SliceAddress};

use super::super::slices::Slices;
use super::super::space::Run;
use super::super::space::freed::{Freed, Passes, Why};
use super::super::space::refcounts::{NewTables, Refcounts};

/// Runs of dropped clusters that wait; with more a flush begins by itself. Some MiB of memory.
const FREED_HIGH: usize = 1 << 16;

/// How much may wait to be made durable; at half of it a flush begins by itself. Refcount blocks have a bound of their
/// own.
#[derive(Clone, Copy)]
pub(crate) struct Bounds {
    /// Slices of L2 tables.
    pub(crate) slices: usize,
    /// Bytes of data that are mapped.
    pub(crate) data: u64,
}

/// The lock.
pub(crate) struct Locked(Mutex<Books>);

/// What is under it.
pub(crate) struct Books {
    pub(crate) refcounts: Refcounts,
    pub(crate) freed: Freed,
    /// Slices by the first guest byte that they map.
    pinned: BTreeMap<u64, Pinned>,
    dirty: usize,
    bounds: Bounds,
    /// Pieces of the L1 table that are not durable.
    pub(crate) l1_dirty: BTreeSet<usize>,
    fresh: u64,
    flushing: u64,
    /// Clusters in front are not handed out before who entered then has left.
    aside: Option<Tag>,
}

struct Pinned {
    slice: Arc<L2Slice>,
    users: u32,
    dirty: bool,
    writing: bool,
}

/// What a flush is about: what was not durable when it began.
pub(crate) struct Taken {
    pub(crate) number: u64,
    pub(crate) slices: Vec<Arc<L2Slice>>,
    pub(crate) l1: Vec<usize>,
}

impl Locked {
    pub(crate) fn new(refcounts: Refcounts, passes: Passes, bounds: Bounds) -> Arc<Self> {
        Arc::new(Self(Mutex::new(Books {
            refcounts,
            freed: Freed::new(passes),
            pinned: BTreeMap::new(),
            dirty: 0,
            bounds,
            l1_dirty: BTreeSet::new(),
            fresh: 0,
            flushing: 0,
            aside: None,
        })))
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, Books> {
        // The books are consistent between any two statements that hold them.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Pins a slice that is in memory, in the cache or here.
    pub(crate) fn pin(self: &Arc<Self>, address: SliceAddress, cache: &Slices) -> Option<Pin> {
        let mut books = self.lock();
        let slice = match books.pinned.get_mut(&address.first_guest) {
            Some(pinned) => {
                pinned.users += 1;
                pinned.slice.clone()
            }
            None => {
                let slice = cache.get(address)?;
                let pinned = Pinned { slice: slice.clone(), users: 1, dirty: false, writing: false };
                books.pinned.insert(address.first_guest, pinned);
                slice
            }
        };
        drop(books);
        Some(Pin { books: self.clone(), slice })
    }

    /// Puts a slice into the cache: the one that is pinned, if there is one, else what `read` was if that is `current`
    /// still; answers whether there was any.
    pub(crate) fn cache(
        &self,
        address: SliceAddress,
        (cache, geometry): (&Slices, &Geometry),
        read: Option<Arc<L2Slice>>,
        current: impl FnOnce() -> bool,
    ) -> bool {
        let mut books = self.lock();
        let pinned = books.pinned.get(&address.first_guest).map(|pinned| pinned.slice.clone());
        let pinned = pinned.filter(|slice| slice.address() == address);
        let read = read.filter(|_| pinned.is_none() && current());
        read.iter().for_each(|slice| books.vet(slice, geometry));
        let slice = pinned.or(read);
        let found = slice.is_some();
        slice.into_iter().for_each(|slice| cache.keep(slice));
        found
    }
}

impl Books {
    /// Looks at what a slice that was read calls its own: what is a structure of the image is not believed, and all
    /// else is not handed out.
    fn vet(&mut self, slice: &L2Slice, geometry: &Geometry) {
        let Refcounts { structures, claims, .. } = &mut self.refcounts;
        let mut clear = 0..0;
        geometry.disown(slice, |host| {
            if !clear.contains(&host) {
                clear = host..structures
                    .overlap(Run { first: host, count: u64::MAX })
                    .map_or(u64::MAX, |(at, _)| at);
            }
            let is_ours = clear.contains(&host);
            if is_ours {
                claims.add(host);
            }
            !is_ours
        });
    }

    /// What an entry that is to be changed refers to in the image file holds its bytes, and no structure.
    pub(crate) fn check_hosts(&self, entry: &Entry) -> Result<()> {
        let run = match entry {
            Entry::Plain { host: Some(host), .. } => Run { first: *host, count: 1 },
            Entry::Compressed { hosts } => Run { first: hosts.start, count: hosts.end - hosts.start },
            Entry::Plain { host: None, .. } => return Ok(()),
        };
        match self.refcounts.structures.overlap(run) {
            Some((cluster, what)) => Err(self.refcounts.overlap(cluster, what)),
            None => Ok(()),
        }
    }

    /// Notes that a pinned slice differs from the file.
    pub(crate) fn mark(&mut self, slice: &L2Slice) {
        if let Some(pinned) = self.pinned.get_mut(&slice.address().first_guest) {
            self.dirty += usize::from(!pinned.dirty);
            pinned.dirty = true;
        }
    }

    /// Whether any slice of these guest bytes is pinned.
    pub(crate) fn is_pinned(&self, guest: ByteRange) -> bool {
        self.pinned.range(guest.start()..guest.end()).next().is_some()
    }

    /// Notes bytes of data that were mapped.
    pub(crate) fn mapped(&mut self, bytes: u64) {
        self.fresh += bytes;
    }

    /// Dropped from the tables just now; generations are bumped.
    pub(crate) fn retire(&mut self, runs: Vec<Run>, why: Why, reclaim: &Reclaim) {
        let Self { refcounts, freed, .. } = self;
        freed.retire(runs.into_iter().flat_map(|run| refcounts.by_block(run)), why, reclaim);
    }

    /// Taken, and nothing refers to it.
    pub(crate) fn abandon(&mut self, run: Run) {
        let Self { refcounts, freed, .. } = self;
        freed.abandon(refcounts.by_block(run));
    }

    /// Frees what may be free. What is to lose its bytes in the file first is added to `holes`, for [`Books::punched`];
    /// without that it waits.
    pub(crate) fn settle(
        &mut self,
        reclaim: &Reclaim,
        seen: bool,
        mut holes: Option<&mut Vec<Run>>,
    ) -> Settled {
        if self.aside.is_some_and(|tag| !seen && reclaim.passed(tag)) {
            self.aside = None;
            self.refcounts.look_again();
        }
        while let Some((run, pass)) = self.freed.next(reclaim, seen) {
            if pass && holes.is_none() {
                break;
            }
            match self.refcounts.release(run, pass) {
                Err(block) => return Settled::Load(block),
                Ok(held) => holes.iter_mut().for_each(|holes| holes.extend(&held)),
            }
            self.freed.done();
        }
        Settled::All
    }

    /// What would be freed next stays counted for ever, if it is that refcount block that cannot be read.
    pub(crate) fn leak_in(&mut self, block: u64, reclaim: &Reclaim, seen: bool) {
        let per_block = self.refcounts.per_block();
        if self.freed.next(reclaim, seen).is_some_and(|(run, _)| run.first / per_block == block) {
            self.freed.done();
        }
    }

    /// A run has lost its bytes in the file, and is free; answers the refcount block that has to be loaded first.
    pub(crate) fn punched(&mut self, run: Run) -> Settled {
        self.refcounts.release(run, false).map_or_else(Settled::Load, |_| Settled::All)
    }

    /// Whether writers have to wait for a flush, and whether it is time to begin one.
    pub(crate) fn pressure(&self) -> Pressure {
        let Bounds { slices, data } = self.bounds;
        // A flush begins when all that are kept have changed.
        let (blocks, blocks_max) = (self.refcounts.dirty_blocks(), 2 * self.refcounts.blocks_max());
        if self.fresh + self.flushing >= data || self.dirty >= slices || blocks >= blocks_max {
            Pressure::Full
        } else if self.fresh >= data / 2
            || self.dirty >= slices / 2
            || blocks >= blocks_max / 2
            || self.freed.waiting() >= FREED_HIGH
        {
            Pressure::High
        } else {
            Pressure::Low
        }
    }

    /// Whether clusters that are in use now may be free soon.
    pub(crate) fn is_waiting(&self) -> bool {
        self.freed.waiting() > 0 || self.aside.is_some()
    }

    /// The header points to other tables, which are all on disk. What the old ones referred to may still be read: none
    /// of it is handed out before those of `reclaim` have left who may do so.
    pub(crate) fn switch(&mut self, tables: NewTables, reclaim: &Reclaim) {
        self.refcounts.switch(tables);
        self.aside = Some(reclaim.tag());
    }

    /// Takes what a flush is about.
    pub(crate) fn begin_flush(&mut self) -> Taken {
        let mut slices = Vec::with_capacity(self.dirty);
        for pinned in self.pinned.values_mut().filter(|pinned| pinned.dirty) {
            (pinned.dirty, pinned.writing) = (false, true);
            slices.push(pinned.slice.clone());
        }
        (self.dirty, self.flushing) = (0, std::mem::take(&mut self.fresh));
        let l1 = std::mem::take(&mut self.l1_dirty).into_iter().collect();
        Taken { number: self.freed.begin_flush(), slices, l1 }
    }

    /// It has ended; if not well, all of it is still to be made durable.
    pub(crate) fn end_flush(&mut self, taken: &Taken, well: bool) {
        for slice in &taken.slices {
            let number = slice.address().first_guest;
            let Some(pinned) = self.pinned.get_mut(&number) else { continue };
            pinned.writing = false;
            if !well && !pinned.dirty {
                pinned.dirty = true;
                self.dirty += 1;
            }
            self.drop_unused(number);
        }
        self.refcounts.end_write(well);
        let flushed = std::mem::take(&mut self.flushing);
        if well {
            self.freed.end_flush(taken.number);
        } else {
            self.l1_dirty.extend(&taken.l1);
            self.fresh += flushed;
        }
    }

    /// Whether all is as in the file, and nobody is about to change that.
    pub(crate) fn is_clean(&self) -> bool {
        self.pinned.is_empty() && self.l1_dirty.is_empty()
    }

    fn drop_unused(&mut self, number: u64) {
        let used = |pinned: &Pinned| pinned.users > 0 || pinned.dirty || pinned.writing;
        if self.pinned.get(&number).is_some_and(|pinned| !used(pinned)) {
            self.pinned.remove(&number);
        }
    }
}

/// How far freeing has got.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Settled {
    /// This refcount block has to be loaded first.
    Load(u64),
    /// Nothing more may be free.
    All,
}

/// How much is not durable yet.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Pressure {
    Low,
    High,
    Full,
}

/// A slice that stays in memory.
pub(crate) struct Pin {
    books: Arc<Locked>,
    pub(crate) slice: Arc<L2Slice>,
}

impl Clone for Pin {
    fn clone(&self) -> Self {
        if let Some(pinned) = self.books.lock().pinned.get_mut(&self.slice.address().first_guest) {
            pinned.users += 1;
        }
        Self { books: self.books.clone(), slice: self.slice.clone() }
    }
}

impl Drop for Pin {
    fn drop(&mut self) {
        let number = self.slice.address().first_guest;
        let mut books = self.books.lock();
        if let Some(pinned) = books.pinned.get_mut(&number) {
            pinned.users -= 1;
        }
        books.drop_unused(number);
    }
}
