//! What has references besides guest data: snapshot table, refcount table, bitmaps, refcount blocks.

use block::BlockError;

use super::{Check, PIECE, Piece, Repair, State};
use crate::check::disk_counts::TableEntry;
use crate::snapshot_table::Excess;
use crate::{BitmapCluster, BitmapEntry, L1Table, ParsedSnapshots, Snapshot, corrupt};

/// No file has bytes from here on.
const OFFSET_MAX: u64 = 1 << 63;

impl Check {
    pub(super) fn ask_snapshots(&mut self) -> Result<(), BlockError> {
        let table = self.facts.header.snapshots;
        if table.count == 0 {
            self.state = State::RefcountTable;
            return Ok(());
        }
        if !self.ask(Piece::Snapshots, table.offset.0, self.snapshots_want) {
            self.take_snapshots(&[])?;
        }
        Ok(())
    }

    pub(super) fn take_snapshots(&mut self, bytes: &[u8]) -> Result<(), BlockError> {
        let table = self.facts.header.snapshots;
        let at_end = (bytes.len() as u64) < self.snapshots_want;
        let mut excess = Vec::new();
        let parsed = match self.repair {
            Repair::All => Snapshot::salvage_table(bytes, table.count, at_end, |found| excess.push(found))?,
            _ => Snapshot::parse_table(bytes, table.count, at_end)?,
        };
        match parsed {
            ParsedSnapshots::More(more) => self.snapshots_want = more.max(2 * self.snapshots_want),
            ParsedSnapshots::Whole(snapshots, len) => {
                (self.snapshots, self.snapshots_len) = (snapshots, len);
                self.state = State::RefcountTable;
                excess.into_iter().for_each(|excess| self.discard(excess));
                self.check_complete();
                if self.repair == Repair::All {
                    self.discard_lost();
                }
            }
        }
        Ok(())
    }

    /// Leaves snapshots whose state nobody can have any more out of the new table: what they held cannot be told from
    /// what nothing refers to.
    fn discard_lost(&mut self) {
        let bits = self.facts.bits();
        let mut lines = Vec::new();
        let mut snapshots = std::mem::take(&mut self.snapshots);
        snapshots.retain(|snapshot| {
            let is_header = snapshot.l1_offset.0 == 0 && snapshot.l1_entries > 0;
            let place = match snapshot.check_l1(bits) {
                Ok(()) if is_header => "the header",
                Ok(()) => return true,
                Err(_) => "outside of all files",
            };
            let misplaced = || format!("l1_offset={:#x}: L1 table is {place}", snapshot.l1_offset.0);
            let lost = self.lost(snapshot).unwrap_or_else(|| told_of(snapshot, &misplaced()));
            lines.push(format!("Discarding {lost}"));
            false
        });
        self.snapshots = snapshots;
        lines.into_iter().for_each(|line| self.snapshot_faults(1, line));
    }

    /// Notes what the new snapshot table leaves out.
    fn discard(&mut self, excess: Excess) {
        let (times, line) = match excess {
            Excess::Extra { entry, len } => {
                let (what, kept) = ("too much extra metadata in snapshot table entry", Snapshot::EXTRA_MAX);
                (1, format!("Discarding {what} {entry} ({len} > {kept})"))
            }
            Excess::Count { left } => (left, format!("Discarding {left} overhanging snapshots")),
            Excess::Table { left } => {
                (left, format!("Discarding {left} overhanging snapshots (snapshot table is too big)"))
            }
        };
        self.snapshot_faults(times.into(), line);
    }

    /// What a new snapshot table mends: so many faults, of which one line tells.
    fn snapshot_faults(&mut self, times: u64, line: String) {
        self.snapshot_faults += times;
        self.found.corruptions += times;
        self.tell(1, line);
    }

    /// Entries of version 3 images say how large the disk was.
    fn check_complete(&mut self) {
        let incomplete = |snapshot: &Snapshot| !snapshot.is_complete();
        let lacking: Vec<_> =
            (0..self.snapshots.len()).filter(|number| incomplete(&self.snapshots[*number])).collect();
        if !self.facts.is_v3() && !self.amending.completes_snapshots {
            return;
        }
        let verb = if self.repair == Repair::All { "Repairing" } else { "ERROR" };
        for number in lacking {
            self.snapshot_faults(1, format!("{verb} snapshot table entry {number} is incomplete"));
        }
    }

    /// The L1 tables of snapshots: where, how many entries, how often.
    pub(super) fn snapshots_l1(&mut self) -> Result<Vec<(u64, u64, u32)>, BlockError> {
        if self.facts.external && !self.snapshots.is_empty() {
            let line = format!("ERROR {} snapshots in image with data file", self.snapshots.len());
            self.corrupt(1, line);
        }
        let mut tables: Vec<(u64, u64)> = Vec::new();
        for number in 0..self.snapshots.len() {
            let Snapshot { l1_offset, l1_entries, .. } = self.snapshots[number];
            if let Some(lost) = self.lost(&self.snapshots[number]) {
                self.corrupt(1, format!("ERROR {lost}; snapshot table entry corrupted"));
            } else if l1_offset.0 >= OFFSET_MAX {
                return Err(corrupt(format!("the L1 table of snapshot {number} lies at {l1_offset}")));
            } else if l1_entries > 0 {
                tables.push((l1_offset.0, l1_entries.into()));
            }
        }
        tables.sort_unstable();
        Ok(tables.chunk_by(|a, b| a == b).map(|same| (same[0].0, same[0].1, same.len() as u32)).collect())
    }

    /// Which snapshot is lost, and why, where no L1 table can be like its own.
    fn lost(&self, snapshot: &Snapshot) -> Option<String> {
        let Snapshot { l1_offset, l1_entries, .. } = snapshot;
        let why = if !self.facts.is_aligned(l1_offset.0) {
            format!("l1_offset={:#x}: L1 table is not cluster aligned", l1_offset.0)
        } else if u64::from(*l1_entries) * 8 > L1Table::BYTES_MAX {
            format!("l1_size={l1_entries:#x}: L1 table is too large")
        } else {
            return None;
        };
        Some(told_of(snapshot, &why))
    }

    pub(super) fn ask_refcount_table(&mut self) {
        let table = self.facts.header.refcount_table;
        let len = u64::from(table.clusters) << self.facts.bits();
        for at in (0..len).step_by(PIECE as usize) {
            self.ask(Piece::RefcountTable, table.offset.0 + at, PIECE.min(len - at));
        }
        self.state = State::RefcountBlocks;
    }

    pub(super) fn ask_refcount_blocks(&mut self) {
        let table = self.facts.header.refcount_table;
        let entries = (u64::from(table.clusters) << self.facts.bits()) / 8;
        self.disk.table.resize(entries as usize, 0);
        for offset in self.disk.wanted(self.clusters + 1, self.facts.file_len) {
            self.ask(Piece::RefcountBlock(offset), offset, self.facts.cluster());
        }
        self.state = State::L1Tables;
    }

    pub(super) fn ask_bitmaps(&mut self) -> Result<(), BlockError> {
        let (snapshots, table) = (self.facts.header.snapshots, self.facts.header.refcount_table);
        let is_replaced = self.snapshot_faults > 0;
        self.refer_to_table(snapshots.offset.0, self.snapshots_len, is_replaced);
        self.refer_to_table(table.offset.0, u64::from(table.clusters) << self.facts.bits(), true);
        self.state = State::BitmapTables;
        let Some(bitmaps) = self.facts.header.bitmaps else { return Ok(()) };
        let end = bitmaps.directory.0.saturating_add(bitmaps.directory_len);
        self.refer(bitmaps.directory.0, bitmaps.directory_len, 1);
        if bitmaps.directory_len == 0 || end > self.facts.file_len {
            return Err(corrupt("the bitmap directory is empty or leaves the file"));
        }
        for at in (0..bitmaps.directory_len).step_by(PIECE as usize) {
            let len = PIECE.min(bitmaps.directory_len - at);
            self.ask(Piece::BitmapDirectory, bitmaps.directory.0 + at, len);
        }
        Ok(())
    }

    /// Counts the reference to a table which, if it `is_replaced`, another one takes the place of that lies elsewhere.
    fn refer_to_table(&mut self, offset: u64, len: u64, is_replaced: bool) {
        let before = (self.found.corruptions, self.beyond.len());
        self.refer(offset, len, 1);
        if is_replaced {
            self.table_corruptions += self.found.corruptions - before.0;
            self.beyond.truncate(before.1);
        }
    }

    pub(super) fn ask_bitmap_tables(&mut self) -> Result<(), BlockError> {
        self.state = State::Blocks;
        let Some(extension) = self.facts.header.bitmaps else { return Ok(()) };
        let directory = std::mem::take(&mut self.directory);
        let (bits, size) = (self.facts.bits(), self.facts.header.virtual_size);
        self.bitmaps = BitmapEntry::parse_directory(&directory, extension.count, bits, size)?;
        for number in 0..self.bitmaps.len() {
            if let Some(line) = self.bitmaps[number].too_long(bits, size) {
                self.corrupt(1, line);
            }
            let (offset, len) =
                (self.bitmaps[number].table.0, u64::from(self.bitmaps[number].table_entries) * 8);
            self.refer(offset, len, 1);
            for at in (0..len.min(self.facts.file_len)).step_by(PIECE as usize) {
                self.ask(Piece::BitmapTable, offset + at, PIECE.min(len - at));
            }
            self.check_reads()?;
        }
        Ok(())
    }

    pub(super) fn take_bitmap_table(&mut self, bytes: &[u8]) -> Result<(), BlockError> {
        for entry in super::words(bytes) {
            if let BitmapCluster::At(offset) = BitmapCluster::parse(entry, self.facts.bits())? {
                self.refer(offset.0, self.facts.cluster(), 1);
            }
        }
        Ok(())
    }

    /// The refcount blocks: each lies in the file, by itself.
    pub(super) fn check_blocks(&mut self) {
        self.settle_zeroings();
        let zeroed: u64 = self.zeroings.iter().map(|zeroing| zeroing.counted).sum();
        // What blocks are found to be is mended by others in their place.
        self.lasting = self.found.corruptions - self.snapshot_faults - self.table_corruptions - zeroed;
        for block in 0..self.disk.table.len() as u64 {
            let said = match self.disk.entry(block) {
                TableEntry::Nothing => continue,
                TableEntry::Reserved => format!("refcount table entry {block} has reserved bits set"),
                TableEntry::Unaligned => {
                    format!("refcount block {block} is not cluster aligned; refcount table entry corrupted")
                }
                TableEntry::Block(offset) if offset >> self.facts.bits() >= self.clusters => {
                    // Elsewhere it is as good as not there.
                    self.corrupt(1, format!("ERROR refcount block {block} is outside image"));
                    self.rebuild |= self.repair == Repair::All;
                    continue;
                }
                TableEntry::Block(offset) => {
                    let before = self.beyond.len();
                    self.refer(offset, self.facts.cluster(), 1);
                    // Another one takes its place.
                    self.beyond.truncate(before);
                    // What is used as something else too must not be written.
                    self.rebuild |=
                        self.repair != Repair::Nothing && !self.is_only(offset >> self.facts.bits(), 1);
                    match self.countable(offset >> self.facts.bits()) {
                        1 => continue,
                        count => format!("refcount block {block} refcount={count}"),
                    }
                }
            };
            self.corrupt(1, format!("ERROR {said}"));
            self.rebuild = true;
        }
        self.state = State::Compare(0);
    }
}

/// What is told of a snapshot.
fn told_of(snapshot: &Snapshot, what: &str) -> String {
    let (id, name) = (String::from_utf8_lossy(&snapshot.id), String::from_utf8_lossy(&snapshot.name));
    format!("snapshot {id} ({name}) {what}")
}
