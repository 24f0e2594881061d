//! Refcounts as they will be, made beside those that are.
//!
//! A block whose counters change gets a new place, and so does the table; the old ones stay as they are until the
//! header points to the new table. What is free is taken from the old ones alone: a cluster that loses its last
//! reference here is still in use on disk.
//!
//! Invariants: nothing that the present tables refer to is written; blocks in memory are bounded, those that are not
//! are at their new places; the places of the structures themselves are counted as of after the switch.

use std::collections::HashMap;

use block::{BlockError, ErrorKind, Result};
use flow::Next;
use io::Lease;
use qcow2::{FILE_CHILD, RefcountBlock, RefcountTable};

use super::super::image::Image;
use super::super::space::Run;
use super::super::space::refcounts::table_full;
use super::super::writing::allocate::full;
use super::super::writing::writer::Turn;

/// Refcounts that change.
pub(super) struct Recount<'a> {
    image: &'a Image,
    turn: &'a Turn,
    next: Next<'a>,
    bits: u32,
    cluster_bits: u32,
    /// The table as the header has it, and as it will be: where a block has moved they differ.
    old: Vec<u64>,
    new: Vec<u64>,
    old_place: RefcountTable,
    /// The clusters of the old blocks, in order.
    own: Vec<u64>,
    blocks: HashMap<u64, Block>,
    blocks_max: usize,
    clock: u64,
    /// Changes that follow from blocks that have moved.
    following: Vec<(u64, Change)>,
    search: Search,
    /// Behind the last cluster that was taken.
    end: u64,
}

/// A change of a counter.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Change {
    /// What is in use is so once more.
    More,
    /// It is so once less.
    Less,
    /// What was free is in use.
    Fresh,
}

struct Block {
    counts: RefcountBlock,
    dirty: bool,
    used: u64,
}

/// Where free clusters are looked for.
struct Search {
    at: u64,
    /// None from here on.
    end: u64,
    /// The old block that is looked through.
    block: Option<(u64, RefcountBlock)>,
}

impl<'a> Recount<'a> {
    /// Of the image whose header has its refcounts at `place`; `from`: no cluster before this one is taken. The caller
    /// holds the turn, and what is in memory is on disk.
    pub(super) async fn new(
        image: &'a Image,
        place: RefcountTable,
        from: u64,
        blocks_max: usize,
        (turn, next): (&'a Turn, Next<'a>),
    ) -> Result<Self> {
        let cluster_bits = image.geometry.cluster_bits();
        let len = (place.clusters as usize) << cluster_bits;
        let table = image.read_file(place.offset.0, len, next).await?;
        let old: Vec<u64> = qcow2::words(&table).collect();
        let mut own: Vec<_> = old.iter().filter(|e| **e != 0).map(|e| e >> cluster_bits).collect();
        own.sort_unstable();
        let end = match next.grows(FILE_CHILD)? {
            true => 1 << (55 - cluster_bits),
            false => next.size(FILE_CHILD)? >> cluster_bits,
        };
        Ok(Self {
            image,
            turn,
            next,
            bits: place.bits,
            cluster_bits,
            new: old.clone(),
            old,
            old_place: place,
            own,
            blocks: HashMap::new(),
            blocks_max,
            clock: 0,
            following: Vec::new(),
            search: Search { at: from, end, block: None },
            end: 0,
        })
    }

    /// How often a cluster will be counted.
    pub(super) async fn count(&mut self, cluster: u64) -> Result<u64> {
        let per_block = self.per_block();
        if self.entry(cluster / per_block) == 0 {
            return Ok(0);
        }
        Ok(self.block(cluster / per_block).await?.counts.get(cluster % per_block))
    }

    /// Counts a cluster once more or once less.
    ///
    /// Errors: `Corrupt` where it is not counted at all; the system's `Invalid argument` where it cannot be counted
    /// once more; `NoSpace`.
    pub(super) async fn change(&mut self, cluster: u64, change: Change) -> Result<()> {
        self.change_one(cluster, change).await?;
        while let Some((cluster, change)) = self.following.pop() {
            self.change_one(cluster, change).await?;
        }
        Ok(())
    }

    /// The same of each cluster of a run.
    pub(super) async fn change_run(&mut self, run: Run, change: Change) -> Result<()> {
        for cluster in run.first..run.first + run.count {
            self.change(cluster, change).await?;
        }
        Ok(())
    }

    /// Takes `count` clusters in one run, counted once; answers the first.
    pub(super) async fn take(&mut self, count: u64) -> Result<u64> {
        let first = self.find(count).await?;
        self.change_run(Run { first, count }, Change::Fresh).await?;
        Ok(first)
    }

    /// Writes all of it, not yet durably; answers where the header has to find it, and behind which cluster nothing was
    /// taken.
    pub(super) async fn finish(mut self) -> Result<Recounted> {
        let old = self.old_place;
        let run = Run { first: old.offset.0 >> self.cluster_bits, count: old.clusters.into() };
        self.change_run(run, Change::Less).await?;
        let place = self.take_table().await?;
        let mut numbers: Vec<_> = self.blocks.keys().copied().collect();
        numbers.sort_unstable();
        for number in numbers {
            self.store(number).await?;
        }
        self.new.resize(((place.count << self.cluster_bits) / 8) as usize, 0);
        let bytes = qcow2::word_bytes(&self.new);
        let offset = self.image.host(place.first);
        self.image.write_table(offset.0, Lease::copy_of(&bytes), self.turn, self.next).await?;
        let place = RefcountTable { offset, clusters: place.count as u32, bits: self.bits };
        Ok(Recounted { place, table: self.new, end: self.end, old: self.old, own: self.own })
    }

    /// Takes room for the new table: for all blocks, those that count itself included.
    async fn take_table(&mut self) -> Result<Run> {
        let mut clusters = u64::from(self.old_place.clusters);
        loop {
            if clusters << self.cluster_bits > RefcountTable::BYTES_MAX {
                return Err(table_full());
            }
            let run = Run { first: self.take(clusters).await?, count: clusters };
            let needed = (self.new.len() as u64 * 8).div_ceil(1 << self.cluster_bits);
            if needed <= clusters {
                return Ok(run);
            }
            self.change_run(run, Change::Less).await?;
            clusters = needed;
        }
    }

    fn per_block(&self) -> u64 {
        (8 << self.cluster_bits) / u64::from(self.bits)
    }

    fn entry(&self, block: u64) -> u64 {
        self.new.get(block as usize).copied().unwrap_or(0)
    }

    async fn change_one(&mut self, cluster: u64, change: Change) -> Result<()> {
        let (number, index) = (cluster / self.per_block(), cluster % self.per_block());
        // Before anything is made for it: a table may name any cluster at all.
        if change != Change::Fresh && self.entry(number) == 0 {
            return Err(not_counted(cluster));
        }
        self.move_block(number).await?;
        let bits = self.bits;
        let block = self.block(number).await?;
        let count = block.counts.get(index);
        let changed = match change {
            Change::More | Change::Less if count == 0 => return Err(not_counted(cluster)),
            Change::More if count == block.counts.most() => return Err(cannot_count(cluster, bits)),
            Change::More => count + 1,
            Change::Less => count - 1,
            Change::Fresh => 1,
        };
        block.counts.set(index, changed);
        block.dirty = true;
        Ok(())
    }

    /// Gives a block that is about to change its new place, if it has none.
    async fn move_block(&mut self, number: u64) -> Result<()> {
        let at = number as usize;
        if at >= self.new.len() {
            if number >= RefcountTable::BYTES_MAX / 8 {
                return Err(table_full());
            }
            self.new.resize(at + 1, 0);
        }
        let before = self.old.get(at).copied().unwrap_or(0);
        if self.new[at] != before {
            return Ok(());
        }
        if before == 0 {
            let counts = RefcountBlock::parse(&vec![0; 1 << self.cluster_bits], self.bits)?;
            self.keep(number, counts).await?;
        } else {
            self.block(number).await?.dirty = true;
        }
        let place = self.find(1).await?;
        self.new[at] = place << self.cluster_bits;
        self.following.push((place, Change::Fresh));
        if before != 0 {
            self.following.push((before >> self.cluster_bits, Change::Less));
        }
        Ok(())
    }

    /// A block, from memory or from where it is.
    async fn block(&mut self, number: u64) -> Result<&mut Block> {
        if !self.blocks.contains_key(&number) {
            let counts = self.read(self.entry(number)).await?;
            self.keep(number, counts).await?;
        }
        self.clock += 1;
        let clock = self.clock;
        // It was just put there, if it was not there before.
        let block = self.blocks.get_mut(&number).expect("a block that is kept");
        block.used = clock;
        Ok(block)
    }

    async fn read(&self, entry: u64) -> Result<RefcountBlock> {
        let cluster = 1u64 << self.cluster_bits;
        if entry == 0 || !entry.is_multiple_of(cluster) || entry >= 1 << 56 {
            let context = format!("an entry of its refcount table ({entry:#x}) is no block: check the image");
            return Err(BlockError::new(ErrorKind::Corrupt, context));
        }
        let bytes = self.image.read_file(entry, cluster as usize, self.next).await;
        let bytes =
            bytes.map_err(|e| e.within(format_args!("cannot read its refcount block at {entry:#x}")))?;
        RefcountBlock::parse(&bytes, self.bits)
    }

    /// Puts a block into memory; the one that was used longest ago goes to its place where there are too many.
    async fn keep(&mut self, number: u64, counts: RefcountBlock) -> Result<()> {
        while self.blocks.len() >= self.blocks_max {
            let oldest = self.blocks.iter().min_by_key(|(_, block)| block.used).map(|(number, _)| *number);
            let Some(oldest) = oldest else { break };
            self.store(oldest).await?;
            self.blocks.remove(&oldest);
        }
        self.clock += 1;
        self.blocks.insert(number, Block { counts, dirty: false, used: self.clock });
        Ok(())
    }

    /// Writes a block that has changed to its new place.
    async fn store(&mut self, number: u64) -> Result<()> {
        let at = self.entry(number);
        let Some(block) = self.blocks.get_mut(&number).filter(|block| block.dirty) else { return Ok(()) };
        block.dirty = false;
        let bytes = Lease::copy_of(block.counts.bytes());
        self.image.write_table(at, bytes, self.turn, self.next).await
    }

    /// The first of `count` clusters in a row that are free now; each is found once.
    async fn find(&mut self, count: u64) -> Result<u64> {
        let per_block = self.per_block();
        let (mut first, mut found) = (self.search.at, 0);
        while found < count {
            let at = first + found;
            if at + (count - found) > self.search.end {
                return Err(full());
            }
            let number = at / per_block;
            match self.old.get(number as usize).copied().unwrap_or(0) {
                0 => found = (found + per_block - at % per_block).min(count),
                entry => {
                    if self.search.block.as_ref().is_none_or(|(block, _)| *block != number) {
                        self.search.block = Some((number, self.read(entry).await?));
                    }
                    let counts = &self.search.block.as_ref().expect("it was just read").1;
                    match counts.free_run(at % per_block, count - found) {
                        Some(free) if free.start == at % per_block => found += free.end - free.start,
                        Some(free) => (first, found) = (number * per_block + free.start, 0),
                        None => (first, found) = ((number + 1) * per_block, 0),
                    }
                }
            }
        }
        let own = self.own.partition_point(|cluster| *cluster < first);
        if self.own.get(own).is_some_and(|cluster| *cluster < first + count) {
            return Err(not_counted(self.own[own]));
        }
        let is_free = self.image.writer()?.books.lock().refcounts.check_free(Run { first, count });
        self.image.own(is_free)?;
        self.search.at = first + count;
        self.end = self.end.max(first + count);
        Ok(first)
    }
}

/// New refcounts that are written, not yet durably.
pub(super) struct Recounted {
    pub(super) place: RefcountTable,
    /// The entries of the table.
    pub(super) table: Vec<u64>,
    /// No cluster from here on was taken.
    pub(super) end: u64,
    /// The entries of the table before.
    pub(super) old: Vec<u64>,
    /// The clusters of the blocks that it named, in order.
    pub(super) own: Vec<u64>,
}

#[cold]
fn cannot_count(cluster: u64, bits: u32) -> BlockError {
    let context = format!(
        "cluster {cluster} cannot be counted once more in its refcounts of {bits} bits: delete a snapshot, or convert the image to one with more refcount_bits"
    );
    BlockError::system(context, std::io::Error::from_raw_os_error(22))
}

#[cold]
fn not_counted(cluster: u64) -> BlockError {
    let context = format!(
        "its refcounts are wrong: cluster {cluster} is in use and counts as free: repair it with 'qemu-img check -r all'"
    );
    BlockError::new(ErrorKind::Corrupt, context)
}
