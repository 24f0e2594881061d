//! Mending the `COPIED` flags of the active tables, after the refcounts.
//!
//! Invariant: a table is written only where all that refers to its clusters takes it for a table.

use super::mend::changed_sectors;
use super::{Check, L2Table, PIECE, Piece, Repair, Step};
use crate::l2_entry::{COPIED, OFFSET};

impl Check {
    pub(super) fn ask_l1_flags(&mut self) -> Step {
        let (offset, entries) = self.facts.l1();
        for at in (0..entries * 8).step_by(PIECE as usize) {
            self.ask(Piece::FlagsL1(at), offset + at, PIECE.min(entries * 8 - at));
        }
        self.asked_for()
    }

    pub(super) fn ask_l2_flags(&mut self) -> Step {
        let hit = |table: &&L2Table| table.active > 0 && self.is_hit(table) && self.is_nothing_else(table);
        self.hit_tables =
            self.l2_tables.iter().filter(hit).map(|table| table.offset >> self.facts.bits()).collect();
        for number in 0..self.l2_tables.len() {
            let table = self.l2_tables[number];
            let can_be_judged = self.disk.get(table.offset >> self.facts.bits()).is_some();
            if table.active > 0 && table.offset != 0 && can_be_judged {
                self.ask(Piece::FlagsL2(number), table.offset, self.facts.cluster());
            }
        }
        self.asked_for()
    }

    /// Whether flags are mended: always with everything; with leaks alone where nothing else is wrong.
    fn mends_flags(&self) -> bool {
        let found = &self.found;
        self.repair == Repair::All || found.corruptions + found.check_errors + found.leaks == 0
    }

    pub(super) fn take_l1_flags(&mut self, from: u64, bytes: &[u8]) {
        let (offset, entries) = self.facts.l1();
        let (first, last) = (offset >> self.facts.bits(), (offset + entries * 8 - 1) >> self.facts.bits());
        let mends = self.mends_flags() && (first..=last).all(|cluster| self.is_only(cluster, 1));
        let mut now = bytes.to_vec();
        for (number, entry) in super::words(bytes).enumerate() {
            let table = entry & OFFSET;
            let count = self.disk.get(table >> self.facts.bits()).filter(|_| table != 0);
            let Some(count) = count.filter(|count| (*count == 1) != (entry & COPIED != 0)) else { continue };
            let index = from / 8 + number as u64;
            let what =
                format!("OFLAG_COPIED L2 cluster: l1_index={index} l1_entry={entry:x} refcount={count}");
            let is_put = mends && put(&mut now, number, entry ^ COPIED);
            self.flag(is_put, 1, &what);
        }
        self.writes.extend(changed_sectors(offset + from, bytes, &now));
    }

    pub(super) fn take_l2_flags(&mut self, number: usize, bytes: &[u8]) {
        let table = self.l2_tables[number];
        let mends = self.mends_flags() && self.is_nothing_else(&table);
        let mut now = bytes.to_vec();
        let step = self.facts.entry_bytes() as usize / 8;
        for (number, entry) in super::words(bytes).enumerate().step_by(step) {
            if !mends && self.is_mended_elsewhere(table.offset + number as u64 * 8) {
                continue;
            }
            let count = self.has_flag(entry).then(|| self.count_for_flag(entry)).flatten();
            let Some(count) = count.filter(|count| (*count == 1) != (entry & COPIED != 0)) else { continue };
            let what = format!("OFLAG_COPIED data cluster: l2_entry={entry:x} refcount={count}");
            let is_put = mends && put(&mut now, number, entry ^ COPIED);
            self.flag(is_put, table.active, &what);
        }
        self.writes.extend(changed_sectors(table.offset, bytes, &now));
    }

    /// Whether all that refers to its cluster takes it for this table, or for a part of one that nobody reads.
    fn is_nothing_else(&self, table: &L2Table) -> bool {
        let cluster = table.offset >> self.facts.bits();
        self.facts.is_aligned(table.offset) && self.is_only(cluster, table.times() + self.astray_in(cluster))
    }

    /// Whether L1 entries that are not aligned take a part of it for a part of a table.
    fn is_hit(&self, table: &L2Table) -> bool {
        self.astray_in(table.offset >> self.facts.bits()) > 0
    }

    /// Whether the entry at `host` is mended as one of the table that really lies there.
    fn is_mended_elsewhere(&self, host: u64) -> bool {
        self.mends_flags() && self.hit_tables.contains(&(host >> self.facts.bits()))
    }

    /// How often L1 entries that are not aligned refer to a cluster: as to a part of a table, which nobody reads.
    fn astray_in(&self, cluster: u64) -> u64 {
        // The cluster where they begin, and the one behind it.
        let begins = [cluster.checked_sub(1), Some(cluster)].into_iter().flatten();
        begins.filter_map(|begin| self.astray.get(&begin)).sum()
    }

    fn flag(&mut self, is_put: bool, times: u32, what: &str) {
        match is_put {
            true => {
                self.found.corruptions_fixed += 1;
                self.tell(1, format!("Repairing {what}"));
            }
            false => self.corrupt_late(times.into(), format!("ERROR {what}")),
        }
    }
}

/// Changes a word; answers whether there is all of it: the end of the file may cut it.
fn put(bytes: &mut [u8], number: usize, word: u64) -> bool {
    let place = bytes.get_mut(number * 8..number * 8 + 8);
    let is_whole = place.is_some();
    place.into_iter().for_each(|place| place.copy_from_slice(&word.to_be_bytes()));
    is_whole
}
