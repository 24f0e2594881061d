//! The refcounts of a writable image, as far as they are in memory: which host clusters are free.
//!
//! No I/O: what has to be loaded first is an answer, what has to be written is handed out by the flush.
//!
//! Invariants:
//! * A cluster is handed out once: it is counted before anybody hears of it. Free clusters behind the frontier are
//!   those of `free`, which says where it misses some; before it only the counters know.
//! * A counter that has changed stays in memory until a flush has written it.
//! * Compressed bytes go behind others only in a cluster that those others still count for.
//! * No cluster of the header, the L1 table or the refcount table is ever handed out, nor any other that is known to be
//!   in use, whatever its counter says.

mod cut;
mod free_runs;
mod lies;
mod long;
mod resting;
mod search;
mod switch;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::ops::Range;

use block::{BlockError, ErrorKind, Result};
use qcow2::{Geometry, Header, RefcountBlock};

use super::super::corruption::Corruption;
use super::Run;
use super::claims::Claims;
use super::structures::{Structure, Structures, Watched};
pub(crate) use cut::End;
use free_runs::FreeRuns;
pub(crate) use long::table_full;
pub(crate) use switch::NewTables;

/// What is stored whole or not at all.
const SECTOR: usize = 512;
/// Refcount blocks that are always kept.
const BLOCKS_MIN: usize = 4;

/// What asking for clusters answers.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Took {
    /// These are counted now. Clean: they read as zeros, nothing has been written there.
    Run { run: Run, clean: bool },
    /// This refcount block has to be loaded first.
    Load(u64),
    /// There is none before the end of the file, which does not grow.
    Full,
}

/// Where a refcount table is: clusters.
pub(crate) type Place = Run;

pub(crate) struct Refcounts {
    cluster_bits: u32,
    bits: u32,
    table: Vec<u64>,
    /// Bytes of the table that are not durable.
    table_dirty: Range<usize>,
    /// Where the table is to be, and where the header says it is.
    place: Place,
    durable_place: Place,
    /// Where it was to be in between, oldest first: it has grown again before the header said so.
    overtaken: Vec<Place>,
    /// In order: what is written in which order is the same in each run of a simulation.
    blocks: BTreeMap<u64, Block>,
    blocks_max: usize,
    /// How many of them are dirty.
    dirty: usize,
    clock: u64,
    /// What it was when blocks that nobody needs were last looked for.
    cleaned: u64,
    free: FreeRuns,
    /// Runs of those that were freed and are not handed out; `None` where all are.
    resting: Option<BTreeMap<u64, u64>>,
    /// Where the next compressed bytes may go, behind the last ones, in a cluster that is counted for those.
    packed: Option<u64>,
    /// Clusters from here on have not been looked at.
    frontier: u64,
    /// Clusters from here on have never been handed out, and lay behind the end of the file when it was opened.
    untouched: u64,
    l1: Run,
    /// Clusters in front of this one are left alone for now.
    aside: Option<u64>,
    /// What the image consists of besides its disk, and what loaded tables call their own: not handed out.
    pub(crate) structures: Structures,
    pub(crate) claims: Claims,
    /// The first cluster that was to be freed though it counted as free.
    lie: Option<Corruption>,
}

struct Block {
    counts: RefcountBlock,
    dirty: Range<usize>,
    /// A flush has its bytes.
    writing: bool,
    used: u64,
}

impl Refcounts {
    /// The refcounts of an image in a file of `file_len` bytes, whose refcount table is `table`; `budget` bytes of
    /// blocks are kept.
    pub(crate) fn new(
        header: &Header,
        geometry: &Geometry,
        table: &[u8],
        file_len: u64,
        budget: u64,
    ) -> Self {
        let cluster_bits = geometry.cluster_bits();
        let place = Run {
            first: header.refcount_table.offset.0 >> cluster_bits,
            count: header.refcount_table.clusters.into(),
        };
        let l1_bytes = u64::from(geometry.l1_entries()) * 8;
        Self {
            cluster_bits,
            bits: header.refcount_table.bits,
            table: qcow2::words(table).collect(),
            table_dirty: 0..0,
            place,
            durable_place: place,
            overtaken: Vec::new(),
            blocks: BTreeMap::new(),
            blocks_max: BLOCKS_MIN.max((budget >> cluster_bits) as usize),
            dirty: 0,
            clock: 0,
            cleaned: 0,
            free: FreeRuns::new(per_block(cluster_bits, header.refcount_table.bits)),
            resting: None,
            packed: None,
            frontier: 0,
            untouched: file_len.div_ceil(geometry.cluster_size()),
            l1: Run {
                first: geometry.l1_offset().0 >> cluster_bits,
                count: l1_bytes.div_ceil(geometry.cluster_size()),
            },
            aside: None,
            structures: Structures::new(Watched::default()),
            claims: Claims::default(),
            lie: None,
        }
    }

    /// Clusters that one block counts.
    pub(crate) fn per_block(&self) -> u64 {
        per_block(self.cluster_bits, self.bits)
    }

    /// Most clusters for refcounts themselves that come on top of `used` until the file is `limit` of them long.
    pub(crate) fn to_come(&self, used: u64, limit: u64) -> u64 {
        let blocks = limit.div_ceil(self.per_block());
        let more = blocks.saturating_sub(used.div_ceil(self.per_block()));
        // A table that has to move is longer than it must be, and leaves its old place.
        let table = match blocks > self.table.len() as u64 {
            true => 2 * (blocks * 8).div_ceil(1 << self.cluster_bits),
            false => 0,
        };
        more + table
    }

    /// Takes `len` bytes, at most a cluster, behind those that were taken last or in new clusters. The run is of the
    /// clusters that they touch; each is counted once more. Answers also where they begin.
    pub(crate) fn pack(&mut self, len: u64, end: u64) -> Result<(Took, u64)> {
        let (bits, cluster) = (self.cluster_bits, 1 << self.cluster_bits);
        if let Some(last) = self.packed.map(|at| at >> bits) {
            match self.count(last) {
                None => return Ok((Took::Load(last / self.per_block()), 0)),
                // It can be counted no further.
                Some((count, most)) if count >= most => self.packed = None,
                Some(_) => {}
            }
        }
        let before = self.packed.map(|at| (at, at >> bits));
        if let Some((at, last)) = before.filter(|(at, _)| len <= cluster - at % cluster) {
            self.count_once_more(last);
            self.pack_behind(at + len);
            return Ok((Took::Run { run: Run { first: last, count: 1 }, clean: false }, at));
        }
        let fresh = match self.take(1, end)? {
            Took::Run { run, .. } => run,
            other => return Ok((other, 0)),
        };
        // Its block may have made room for the other's.
        let goes_on = before.filter(|(_, last)| last + 1 == fresh.first && self.count(*last).is_some());
        let (at, run) = match goes_on {
            Some((at, last)) => {
                self.count_once_more(last);
                (at, Run { first: last, count: 2 })
            }
            None => (fresh.first << bits, fresh),
        };
        self.pack_behind(at + len);
        Ok((Took::Run { run, clean: false }, at))
    }

    /// A full cluster is left alone.
    fn pack_behind(&mut self, at: u64) {
        self.packed = Some(at).filter(|at| !at.is_multiple_of(1 << self.cluster_bits));
    }

    /// How often a cluster is counted, and could be; `None` where its block is not here.
    fn count(&self, cluster: u64) -> Option<(u64, u64)> {
        let counts = &self.blocks.get(&(cluster / self.per_block()))?.counts;
        Some((counts.get(cluster % self.per_block()), counts.most()))
    }

    fn count_once_more(&mut self, cluster: u64) {
        if let Some((count, _)) = self.count(cluster) {
            self.set(cluster, count + 1);
        }
    }

    /// Makes the block that counts the clusters from the frontier on. It lies in the first of them.
    fn create_block(&mut self, block: u64) -> Result<()> {
        let own = Run { first: block * self.per_block(), count: 1 };
        self.check_free(own)?;
        let counts = RefcountBlock::parse(&vec![0; 1 << self.cluster_bits], self.bits)?;
        self.place_block(block, own.first, counts);
        self.count_up(own);
        self.structures.add(Structure::RefcountBlock, own);
        self.frontier = self.frontier.max(own.first + 1);
        Ok(())
    }

    fn hand_out(&mut self, run: Run) -> Took {
        let clean = run.first >= self.untouched;
        self.count_up(run);
        Took::Run { run, clean }
    }

    fn count_up(&mut self, run: Run) {
        self.untouched = self.untouched.max(run.first + run.count);
        for cluster in run.first..run.first + run.count {
            self.set(cluster, 1);
        }
    }

    /// Sets a counter whose block is here.
    fn set(&mut self, cluster: u64, count: u64) {
        let block = cluster / self.per_block();
        let index = cluster % self.per_block();
        if let Some(found) = self.blocks.get_mut(&block) {
            let changed = found.counts.set(index, count);
            self.touch(block, changed);
        }
    }

    /// Has the table say that a block is there; 0: nowhere.
    fn set_entry(&mut self, block: u64, offset: u64) {
        self.table[block as usize] = offset;
        let at = block as usize * 8;
        self.table_dirty = hull(&self.table_dirty, &(at..at + 8));
    }

    fn touch(&mut self, block: u64, bytes: Range<usize>) {
        self.clock += 1;
        if let Some(found) = self.blocks.get_mut(&block) {
            self.dirty += usize::from(found.dirty.is_empty() && !bytes.is_empty());
            found.dirty = hull(&found.dirty, &bytes);
            found.used = self.clock;
        }
    }

    /// Takes one reference from each cluster of a run, which lies in one block; who has none left is free. With `hold`
    /// the last ones stay for now: answers whose they are. Or the block that has to be loaded first.
    pub(crate) fn release(&mut self, run: Run, hold: bool) -> std::result::Result<Vec<Run>, u64> {
        let block = run.first / self.per_block();
        let Some(found) = self.blocks.get(&block) else { return Err(block) };
        let index = |cluster: u64| cluster % self.per_block();
        let counts: Vec<_> =
            (run.first..run.first + run.count).map(|c| (c, found.counts.get(index(c)))).collect();
        let mut held: Vec<Run> = Vec::new();
        for (cluster, count) in counts {
            if count == 1 && self.packed.is_some_and(|at| at >> self.cluster_bits == cluster) {
                self.packed = None;
            }
            match (count, held.last_mut()) {
                // It is left alone.
                (0, _) => self.note_free_twice(cluster),
                (1, Some(last)) if hold && last.first + last.count == cluster => last.count += 1,
                (1, _) if hold => held.push(Run { first: cluster, count: 1 }),
                (1, _) => {
                    self.set(cluster, 0);
                    self.structures.forget(cluster);
                    self.claims.remove(cluster);
                    self.give(cluster);
                }
                _ => self.set(cluster, count - 1),
            }
        }
        Ok(held)
    }

    /// Cuts a run where it leaves a block.
    pub(crate) fn by_block(&self, run: Run) -> impl Iterator<Item = Run> + use<> {
        let (per_block, mut rest) = (self.per_block(), run);
        std::iter::from_fn(move || {
            let count = rest.count.min(per_block - rest.first % per_block);
            let part = Run { first: rest.first, count };
            rest = Run { first: rest.first + count, count: rest.count - count };
            (count > 0).then_some(part)
        })
    }

    /// Where a block is in a file of `file_len` bytes; `None` when it is here already. `Corrupt` where the table lies,
    /// also where it has none.
    pub(crate) fn to_load(&self, block: u64, file_len: u64) -> Result<Option<u64>> {
        if self.blocks.contains_key(&block) {
            return Ok(None);
        }
        let entry = self.table.get(block as usize).copied().unwrap_or(0);
        let cluster = 1u64 << self.cluster_bits;
        if entry % cluster != 0 {
            return Err(Corruption::unaligned_block(entry, block).error());
        }
        if entry == 0 || entry >= 1 << 56 || entry + cluster > file_len {
            let context = format!("entry {block} of its refcount table ({entry:#x}) is no block of the file");
            return Err(BlockError::new(ErrorKind::Corrupt, context));
        }
        Ok(Some(entry))
    }

    /// Keeps a block that was loaded.
    pub(crate) fn keep(&mut self, block: u64, bytes: &[u8]) -> Result<()> {
        let counts = RefcountBlock::parse(bytes, self.bits)?;
        self.insert(block, counts);
        Ok(())
    }

    fn insert(&mut self, block: u64, counts: RefcountBlock) {
        self.clock += 1;
        let clean = |block: &Block| block.dirty.is_empty() && !block.writing;
        if self.blocks.len() >= self.blocks_max
            && let Some(oldest) =
                self.blocks.iter().filter(|(_, b)| clean(b)).min_by_key(|(_, b)| b.used).map(|(at, _)| *at)
        {
            self.blocks.remove(&oldest);
        }
        self.blocks.insert(block, Block { counts, dirty: 0..0, writing: false, used: self.clock });
    }

    /// Drops the blocks that are as in the file and that nobody has needed since this was last called.
    pub(crate) fn drop_unused(&mut self) {
        let cleaned = std::mem::replace(&mut self.cleaned, self.clock);
        self.blocks.retain(|_, block| !block.dirty.is_empty() || block.writing || block.used > cleaned);
    }

    /// The blocks that are to be written, and the bytes of the table that rely on no others: its offset and them.
    pub(crate) fn begin_write(&mut self) -> (Vec<u64>, Option<TableWrite>) {
        let dirty = self.blocks.iter_mut().filter(|(_, block)| !block.dirty.is_empty());
        let blocks = dirty.map(|(at, block)| {
            block.writing = true;
            *at
        });
        (blocks.collect(), self.table_write())
    }

    fn table_write(&mut self) -> Option<TableWrite> {
        let moved = self.place != self.durable_place;
        let dirty = std::mem::replace(&mut self.table_dirty, 0..0);
        if dirty.is_empty() && !moved {
            return None;
        }
        let range = if moved { 0..self.table.len() * 8 } else { in_sectors(&dirty, self.table.len() * 8) };
        let entries = &self.table[range.start / 8..range.end / 8];
        Some(TableWrite {
            offset: (self.place.first << self.cluster_bits) + range.start as u64,
            bytes: qcow2::word_bytes(entries),
            moved_to: moved.then_some(self.place),
        })
    }

    /// What of a block is to be written where, as it is now.
    pub(crate) fn store(&mut self, block: u64) -> Option<(u64, Vec<u8>)> {
        let found = self.blocks.get_mut(&block)?;
        let dirty = std::mem::replace(&mut found.dirty, 0..0);
        self.dirty -= usize::from(!dirty.is_empty());
        let range = in_sectors(&dirty, 1 << self.cluster_bits);
        Some((self.table[block as usize] + range.start as u64, found.counts.bytes()[range].to_vec()))
    }

    /// The writing of blocks and table has ended, if any had begun; if not well, all of it is to be written again.
    pub(crate) fn end_write(&mut self, well: bool) {
        for block in self.blocks.values_mut().filter(|block| block.writing) {
            block.writing = false;
            if !well {
                self.dirty += usize::from(block.dirty.is_empty());
                block.dirty = 0..1 << self.cluster_bits;
            }
        }
        if !well {
            self.table_dirty = 0..self.table.len() * 8;
        }
    }

    /// The header says now that the L1 table is there; answers the clusters in which it was before.
    pub(crate) fn l1_moved(&mut self, place: Run) -> Run {
        self.structures.moved_to(Structure::ActiveL1, place);
        std::mem::replace(&mut self.l1, place)
    }

    /// The header says now that the table is at `place`; answers the clusters in which it was, or was to be, before.
    pub(crate) fn moved(&mut self, place: Place) -> Vec<Run> {
        let before = std::mem::replace(&mut self.durable_place, place);
        // Those that it was moved to meanwhile, while this was written, are still to come.
        let later = self.overtaken.iter().position(|other| *other == place);
        let mut gone = match later {
            Some(at) => self.overtaken.drain(..=at).filter(|other| *other != place).collect(),
            None => std::mem::take(&mut self.overtaken),
        };
        gone.push(before);
        gone
    }
}

/// What of the refcount table is to be written.
pub(crate) struct TableWrite {
    pub(crate) offset: u64,
    pub(crate) bytes: Vec<u8>,
    /// It is a new table: the header has to say so, once it is durable.
    pub(crate) moved_to: Option<Place>,
}

fn per_block(cluster_bits: u32, bits: u32) -> u64 {
    (8 << cluster_bits) / u64::from(bits)
}

/// The shortest range around both.
fn hull(a: &Range<usize>, b: &Range<usize>) -> Range<usize> {
    match (a.is_empty(), b.is_empty()) {
        (true, _) => b.clone(),
        (_, true) => a.clone(),
        _ => a.start.min(b.start)..a.end.max(b.end),
    }
}

fn in_sectors(range: &Range<usize>, len: usize) -> Range<usize> {
    range.start / SECTOR * SECTOR..range.end.next_multiple_of(SECTOR).min(len)
}
