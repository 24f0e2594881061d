//! Counting references: from the L1 tables down.

use block::{BlockError, ByteRange};

use super::{Check, L2Table, PIECE, Piece, Repair, State};
use crate::l2_entry::{COPIED, OFFSET};

/// Clusters beyond the end of the file that are remembered, so that nothing is put there.
const BEYOND_MAX: usize = 1 << 16;

/// What there is to do about counts that do not fit; QEMU's words.
const WIDEN: &str = "Use qemu-img amend to increase the refcount entry width or qemu-img convert to create a clean copy if the image cannot be opened for writing";

impl Check {
    pub(super) fn ask_l1_tables(&mut self) -> Result<(), BlockError> {
        self.disk.loaded();
        let (offset, entries) = self.facts.l1();
        let active = (offset, entries, 1, 0);
        let others =
            self.snapshots_l1()?.into_iter().map(|(offset, entries, times)| (offset, entries, 0, times));
        for (offset, entries, active, others) in std::iter::once(active).chain(others) {
            self.refer(offset, entries * 8, u64::from(active + others));
            for at in (0..entries * 8).step_by(PIECE as usize) {
                let piece = Piece::L1 { first: at / 8, active, others };
                self.ask(piece, offset + at, PIECE.min(entries * 8 - at));
            }
            self.check_reads()?;
        }
        self.state = State::L2Tables;
        Ok(())
    }

    pub(super) fn take_l1(&mut self, first: u64, active: u32, others: u32, bytes: &[u8]) {
        let times = u64::from(active + others);
        for (index, entry) in (first..).zip(super::words(bytes)).filter(|(_, entry)| *entry != 0) {
            if entry & !(OFFSET | COPIED) != 0 {
                self.corrupt(times, format!("ERROR found L1 entry with reserved bits set: {entry:x}"));
            }
            let table = entry & OFFSET;
            self.refer(table, self.facts.cluster(), times);
            if !self.facts.is_aligned(table) {
                let line =
                    format!("ERROR l2_offset={table:x}: Table is not cluster aligned; L1 entry corrupted");
                self.corrupt(times, line);
            }
            let judged = if active > 0 { self.judge_l1(index, entry) } else { 0 };
            self.note_l2(L2Table { offset: table, active, judged, others });
        }
    }

    /// Judges the flag of an L1 entry, unless that is done after a repair; answers whether those below it can be
    /// judged.
    fn judge_l1(&mut self, index: u64, entry: u64) -> u32 {
        let table = entry & OFFSET;
        if table == 0 || self.repair != Repair::Nothing {
            return 0;
        }
        let Some(count) = self.disk.get(table >> self.facts.bits()) else { return 0 };
        if (count == 1) != (entry & COPIED != 0) {
            let line = format!(
                "ERROR OFLAG_COPIED L2 cluster: l1_index={index} l1_entry={entry:x} refcount={count}"
            );
            self.corrupt_late(1, line);
        }
        1
    }

    fn note_l2(&mut self, table: L2Table) {
        if !self.facts.is_aligned(table.offset) {
            *self.astray.entry(table.offset >> self.facts.bits()).or_default() += table.times();
        }
        let number = self.l2_by_offset.entry(table.offset).or_insert(self.l2_tables.len() as u32);
        match self.l2_tables.get_mut(*number as usize) {
            Some(known) => {
                known.active += table.active;
                known.judged += table.judged;
                known.others += table.others;
            }
            None => self.l2_tables.push(table),
        }
    }

    pub(super) fn ask_l2_tables(&mut self) {
        self.l2_by_offset = std::collections::HashMap::new();
        let cluster = self.facts.cluster();
        let mut first = 0;
        while let Some(table) = self.l2_tables.get(first).copied() {
            let behind = |(number, next): &(usize, &L2Table)| {
                let at = *number as u64 * cluster;
                next.offset == table.offset + at && at + cluster <= PIECE.max(cluster)
            };
            let count = self.l2_tables[first..].iter().enumerate().take_while(behind).count();
            // Those that lie beyond the end of the file are empty.
            self.ask(Piece::L2 { first, count }, table.offset, count as u64 * cluster);
            first += count;
        }
        self.state = State::Bitmaps;
    }

    pub(super) fn take_l2_tables(
        &mut self,
        first: usize,
        count: usize,
        bytes: &[u8],
    ) -> Result<(), BlockError> {
        let tables = bytes.chunks(self.facts.cluster() as usize).take(count);
        (first..).zip(tables).try_for_each(|(number, bytes)| self.take_l2(number, bytes))
    }

    /// Counts `times` references to each cluster that has bytes of the range.
    pub(super) fn refer(&mut self, offset: u64, len: u64, times: u64) {
        if len == 0 {
            return;
        }
        let end = offset.saturating_add(len);
        if end < self.facts.reach() {
            return self.count(ByteRange::between(offset, end), times);
        }
        self.note_beyond(ByteRange::between(offset, end), times);
        let line = format!(
            "ERROR: counting reference for region exceeding the end of the file by one cluster or more: offset {offset:#x} size {len:#x}"
        );
        self.corrupt(times, line);
    }

    pub(super) fn count(&mut self, range: ByteRange, times: u64) {
        let bits = self.facts.bits();
        let last = (range.end() - 1) >> bits;
        self.clusters = self.clusters.max(last + 1);
        for number in range.start() >> bits..=last {
            let over = self.references.add(number, times, self.facts.most);
            if over > 0 {
                self.miscounted += over;
                let line = format!("ERROR: overflow cluster offset={:#x}\n{WIDEN}", number << bits);
                self.corrupt(over, line);
            }
        }
    }

    fn note_beyond(&mut self, range: ByteRange, times: u64) {
        if self.repair == Repair::Nothing {
            return;
        }
        let bits = self.facts.bits();
        if range.start() >> bits < self.clusters {
            self.overlong_from = self.overlong_from.min(range.start());
        }
        let clusters = range.start() >> bits..=(range.end() - 1) >> bits;
        let behind = clusters.skip_while(|cluster| *cluster < self.clusters).take(BEYOND_MAX);
        self.beyond_clusters.extend(behind);
        self.beyond.push((range, times));
        if self.beyond_clusters.len() >= BEYOND_MAX || self.beyond.len() >= BEYOND_MAX {
            // Too many to be remembered: whatever is made is made inside.
            self.facts.grows = false;
            (self.beyond, self.beyond_clusters) = Default::default();
        }
    }

    /// Whether so many references are all that there are to a cluster, which may be written then.
    pub(super) fn is_only(&self, cluster: u64, times: u64) -> bool {
        self.references.get(cluster) == times && !self.is_overlong(cluster)
    }

    /// Whether a range that leaves the file may have bytes of a cluster of the file.
    pub(super) fn is_overlong(&self, cluster: u64) -> bool {
        cluster >= self.overlong_from >> self.facts.bits()
    }
}
