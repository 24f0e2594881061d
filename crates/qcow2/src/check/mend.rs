//! Repairing, once all is counted: in which order what is written.
//!
//! 1. Entries that lose room for zeros: what they pointed to is no longer counted.
//! 2. Refcounts: in place, where there is a block for each; else new blocks and a new table. A new snapshot table if
//!    that is to be mended. What is new lies in clusters that nothing refers to.
//! 3. For that, one sector of the header; then the old snapshot table is no longer counted.
//! 4. `COPIED` flags of the active tables, which say what refcounts say.
//! 5. The dirty and the corrupt bit, if nothing is wrong any more.
//!
//! A barrier lies between any two.

use std::collections::HashSet;
use std::ops::Range;

use block::BlockError;

use super::{Check, CheckWrite, Repair, State, Step, Zeroing};
use crate::corrupt;
use crate::l2_entry::ZERO;

/// What is written whole or not at all.
pub(super) const SECTOR: usize = 512;
/// Clusters whose refcounts are mended at a time, a block at least.
const CLUSTERS_TURN: u64 = 1 << 15;
/// How often entries are looked at that may lose their room, before the rest of them keeps it.
const PASSES_MAX: u32 = 8;
/// Where the header has its incompatible feature bits; the dirty and the corrupt one of them.
const INCOMPATIBLE_AT: usize = 72;
const DIRTY_AND_CORRUPT: u64 = 3;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Stage {
    Begin,
    Zeroings,
    /// From this block on.
    Refcounts(u64),
    Header,
    OldTable,
    FlagsL1,
    FlagsL2,
    FlagsEnd,
    Clean,
    End,
}

impl Check {
    pub(super) fn mend(&mut self, stage: Stage) -> Result<Step, BlockError> {
        use Stage::{Begin, Clean, End, FlagsEnd, FlagsL1, FlagsL2, Header, OldTable, Refcounts, Zeroings};
        let (next, step) = match stage {
            Begin if self.amending.counts_anew() => (Zeroings, self.begin_anew()?),
            Begin if self.repair == Repair::Nothing => (End, Step::Again),
            Begin => (Zeroings, self.zero_entries()?),
            Zeroings => (Refcounts(0), Step::Barrier),
            Refcounts(from) => self.mend_refcounts(from)?,
            Header => return Ok(self.point_to_new()),
            OldTable => (FlagsL1, self.free_old_table()),
            FlagsL1 => (FlagsL2, self.ask_l1_flags()),
            FlagsL2 => (FlagsEnd, self.ask_l2_flags()),
            FlagsEnd => (Clean, Step::Barrier),
            Clean => (End, self.clean()),
            End => {
                self.tell_late();
                self.state = State::Done;
                return Ok(if self.repair == Repair::Nothing { Step::Done } else { Step::Barrier });
            }
        };
        self.state = State::Mend(next);
        Ok(step)
    }

    /// Which entries may lose their room: those in tables that are nothing else. The others are counted after all.
    pub(super) fn settle_zeroings(&mut self) {
        let mut zeroings = std::mem::take(&mut self.zeroings);
        let blocks = self.disk.named_clusters();
        // What is counted after all may lie in tables of others.
        for pass in 1.. {
            let (kept, refused): (Vec<_>, Vec<_>) = zeroings
                .into_iter()
                .partition(|zeroing| pass < PASSES_MAX && self.can_zero(zeroing, &blocks));
            refused.iter().for_each(|zeroing| self.count_after_all(zeroing));
            zeroings = kept;
            if refused.is_empty() || zeroings.is_empty() {
                break;
            }
        }
        self.zeroings = zeroings;
    }

    fn can_zero(&self, zeroing: &Zeroing, blocks: &HashSet<u64>) -> bool {
        let table = self.l2_tables[zeroing.table];
        let cluster = table.offset >> self.facts.bits();
        self.facts.is_v3()
            && zeroing.at + 8 <= self.facts.file_len
            && self.facts.is_aligned(table.offset)
            && self.is_only(cluster, table.times())
            && !blocks.contains(&cluster)
    }

    fn count_after_all(&mut self, zeroing: &Zeroing) {
        let table = self.l2_tables[zeroing.table];
        let times = table.times();
        self.corrupt(times, format!("ERROR offset={:x}: cannot be repaired", zeroing.host));
        if !self.facts.external {
            self.refer(zeroing.host, self.facts.cluster(), times);
        }
    }

    pub(super) fn zero_entries(&mut self) -> Result<Step, BlockError> {
        let (l1, entries) = self.facts.l1();
        if l1 < self.facts.file_len && !self.was_counted(l1, entries * 8) {
            // Its entries are whatever lies there: to count for them would be no better.
            return Err(corrupt("its L1 table leaves the file: what it refers to is not known"));
        }
        if self.rebuild && self.repair == Repair::Leaks {
            return Err(corrupt(
                "its refcounts cannot be mended in place: repair all of it, not only leaks (-r all)",
            ));
        }
        self.move_snapshots();
        if self.makes_anew() {
            // Whatever stands in its way does so before anything is written.
            self.plan()?;
        }
        let entry = if self.facts.extended { 0 } else { ZERO };
        let writes = self.zeroings.iter().map(|zeroing| (zeroing.at, entry.to_be_bytes().to_vec()));
        let writes: Vec<_> = writes.collect();
        self.found.corruptions_fixed += writes.len() as u64;
        Ok(Step::Write(writes))
    }

    fn mend_refcounts(&mut self, from: u64) -> Result<(Stage, Step), BlockError> {
        let writes = if self.makes_anew() {
            self.tell(1, "Rebuilding refcount structure".to_owned());
            let writes = self.new_structures()?;
            self.mended(true, true);
            self.found.check_errors = 0;
            writes
        } else {
            let per_block = self.disk.per_block_bits();
            let (end, to) = ((self.clusters >> per_block) + 1, from + (CLUSTERS_TURN >> per_block).max(1));
            let mut writes = self.mend_in_place(from..to.min(end));
            if to < end {
                return Ok((Stage::Refcounts(to), Step::Write(writes)));
            }
            self.mended(true, self.repair == Repair::All);
            writes.extend(self.moved_bytes());
            writes
        };
        self.found.image_end_offset = self.end_of_use();
        Ok((Stage::Header, Step::Write(writes)))
    }

    fn makes_anew(&self) -> bool {
        let moves = self.snapshot_faults > 0 && self.moved_table.is_none();
        self.repair == Repair::All && (self.rebuild || moves)
    }

    /// Whether nothing but the header refers to its cluster, so that it may change.
    pub(super) fn header_is_ours(&self) -> bool {
        self.is_only(0, 1)
    }

    fn end_of_use(&self) -> u64 {
        let used = |cluster: &u64| self.references.get(*cluster) | self.disk.get(*cluster).unwrap_or(0) > 0;
        (0..self.clusters).rev().find(used).map_or(1, |cluster| cluster + 1) << self.facts.bits()
    }

    fn mended(&mut self, leaks: bool, corruptions: bool) {
        if leaks {
            self.found.leaks_fixed += std::mem::take(&mut self.found.leaks);
        }
        if corruptions {
            self.found.corruptions_fixed += self.found.corruptions - self.lasting;
            self.found.corruptions = self.lasting;
        }
    }

    /// Makes refcounts exact in those blocks that there are.
    fn mend_in_place(&mut self, blocks: Range<u64>) -> Vec<CheckWrite> {
        let (per_block, all) = (1 << self.disk.per_block_bits(), self.repair == Repair::All);
        let mut writes = Vec::new();
        for block in blocks {
            writes.extend(self.rewrite(block, |check| {
                for cluster in block * per_block..check.clusters.min((block + 1) * per_block) {
                    check.mend_count(cluster, all);
                }
            }));
        }
        writes
    }

    fn mend_count(&mut self, cluster: u64, all: bool) {
        let counted = self.countable(cluster);
        let is_new = self.moved_table.as_ref().is_some_and(|table| table.takes(cluster));
        let references = if is_new { 0 } else { counted };
        let count = self.disk.get(cluster).unwrap_or(counted);
        let is_wrong = count > references || all && count < references;
        if is_wrong {
            self.tell(1, format!("Repairing cluster {cluster} refcount={count} reference={references}"));
        }
        if is_wrong || is_new {
            self.disk.set(cluster, counted);
        }
    }

    /// What is to be written of a refcount block, if it is there, once `change` has set counts in it.
    pub(super) fn rewrite(&mut self, block: u64, change: impl FnOnce(&mut Self)) -> Vec<CheckWrite> {
        let super::disk_counts::TableEntry::Block(offset) = self.disk.entry(block) else { return Vec::new() };
        let Some(before) = self.disk.bytes(block).map(<[u8]>::to_vec) else { return Vec::new() };
        change(self);
        changed_sectors(offset, &before, self.disk.bytes(block).unwrap_or_default())
    }

    /// Has the header point to what was made new, once that is durable.
    fn point_to_new(&mut self) -> Step {
        let rebuilt = self.facts.new_sector.take();
        match rebuilt {
            // Twice here: once for the barrier before, then with nothing left to be written.
            Some(sector) if !self.facts.is_durable => {
                self.facts.is_durable = true;
                self.facts.new_sector = Some(sector);
                Step::Barrier
            }
            Some(sector) => {
                self.facts.sector.clone_from(&sector);
                Step::Write(vec![(0, sector)])
            }
            None => {
                self.state = State::Mend(Stage::OldTable);
                Step::Barrier
            }
        }
    }

    fn clean(&mut self) -> Step {
        let mut sector = self.facts.sector.clone();
        let field = &mut sector[INCOMPATIBLE_AT..INCOMPATIBLE_AT + 8];
        let bits = self.facts.header.features.incompatible;
        let sound = self.found.corruptions + self.found.check_errors == 0;
        if !sound || bits & DIRTY_AND_CORRUPT == 0 || !self.header_is_ours() {
            return Step::Again;
        }
        field.copy_from_slice(&(bits & !DIRTY_AND_CORRUPT).to_be_bytes());
        Step::Write(vec![(0, sector)])
    }
}

/// The runs of sectors of a table at `offset` that differ.
pub(super) fn changed_sectors(offset: u64, before: &[u8], now: &[u8]) -> Vec<CheckWrite> {
    let mut writes: Vec<CheckWrite> = Vec::new();
    for (number, (old, new)) in before.chunks(SECTOR).zip(now.chunks(SECTOR)).enumerate() {
        let at = offset + (number * SECTOR) as u64;
        match writes.last_mut() {
            _ if old == new => {}
            Some((from, bytes)) if *from + bytes.len() as u64 == at => bytes.extend(new),
            _ => writes.push((at, new.to_vec())),
        }
    }
    writes
}
