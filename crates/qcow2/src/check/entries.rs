//! L2 tables: what each entry refers to, and what is wrong with it.

use block::BlockError;

use super::{Check, L2Table, Repair, Zeroing};
use crate::l2_entry::{COMPRESSED, COPIED, OFFSET, RESERVED, ZERO};

/// Compressed data is counted in sectors of that many bytes.
const SECTOR: u64 = 512;

/// What an entry is, without regard to whether it may be so.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Compressed,
    /// Data, or zeros with room kept.
    Allocated,
    ZeroPlain,
    Unallocated,
}

impl Check {
    /// One L2 table, or as much of it as the file has.
    pub(super) fn take_l2(&mut self, number: usize, bytes: &[u8]) -> Result<(), BlockError> {
        let table = self.l2_tables[number];
        let (mut behind, mut index, mut looked) = (0, 0, 0);
        let words: Vec<u64> = super::words(bytes).collect();
        let step = self.facts.entry_bytes() / 8;
        while let Some(entry) = words.get((index * step) as usize).copied() {
            if entry != 0 && index >= looked {
                let rest = words.get(index as usize..).unwrap_or_default();
                let (taken, slow) = self.take_run(table, rest, &mut behind);
                looked = index + taken + slow;
                if taken > 0 {
                    index += taken;
                    continue;
                }
            }
            let bitmap =
                if step == 2 { words.get((index * step + 1) as usize).copied().unwrap_or(0) } else { 0 };
            self.note_zero(entry, table.times());
            if entry | bitmap != 0 {
                self.l2_entry(number, table, index, (entry, bitmap), &mut behind);
            }
            index += 1;
        }
        self.replace_zeros(number, bytes)
    }

    fn l2_entry(
        &mut self,
        number: usize,
        table: L2Table,
        index: u64,
        (entry, bitmap): (u64, u64),
        behind: &mut u64,
    ) {
        let times = table.times();
        let kind = self.kind(entry);
        if kind != Kind::Compressed && entry & RESERVED != 0 {
            self.corrupt(times, format!("ERROR found l2 entry with reserved bits set: {entry:x}"));
        }
        match kind {
            Kind::Compressed => self.compressed(table, index, entry, bitmap),
            Kind::Allocated => {
                if self.zeroed(number, index, entry, bitmap) {
                    return;
                }
                self.allocated(table, entry, bitmap, behind);
            }
            Kind::Unallocated if bitmap & u64::from(u32::MAX) != 0 => {
                let line = "ERROR: Unallocated cluster has non-zero subcluster allocation map";
                self.corrupt(times, line.to_owned());
            }
            Kind::ZeroPlain | Kind::Unallocated => {}
        }
    }

    fn kind(&self, entry: u64) -> Kind {
        let host = entry & OFFSET;
        if entry & COMPRESSED != 0 {
            Kind::Compressed
        } else if entry & ZERO != 0 && !self.facts.extended {
            if host != 0 { Kind::Allocated } else { Kind::ZeroPlain }
        } else if host == 0 && !(self.facts.external && entry & COPIED != 0) {
            Kind::Unallocated
        } else {
            Kind::Allocated
        }
    }

    fn compressed(&mut self, table: L2Table, index: u64, entry: u64, bitmap: u64) {
        let times = table.times();
        // The bits of the offset, then one bit for each sector of a cluster.
        let sector_bits = self.facts.bits() - 8;
        let offset_bits = 62 - sector_bits;
        let offset = entry & ((1 << offset_bits) - 1);
        if entry & COPIED != 0 {
            let line =
                format!("ERROR: coffset={offset:#x}: copied flag must never be set for compressed clusters");
            self.corrupt(times, line);
        }
        let entry = entry & !COPIED;
        let wrong = if self.facts.external {
            "with data file"
        } else if bitmap != 0 {
            "with non-zero subcluster allocation bitmap"
        } else {
            let sectors = (entry >> offset_bits & ((1 << sector_bits) - 1)) + 1;
            self.refer(offset, sectors * SECTOR - offset % SECTOR, times);
            let active = u64::from(table.active);
            self.found.allocated_clusters += active;
            self.found.compressed_clusters += active;
            self.found.fragmented_clusters += active;
            return;
        };
        self.corrupt(times, format!("ERROR compressed cluster {index} {wrong}, entry={entry:#x}"));
    }

    fn allocated(&mut self, table: L2Table, entry: u64, bitmap: u64, behind: &mut u64) {
        let (host, times) = (entry & OFFSET, table.times());
        if bitmap >> 32 & bitmap & u64::from(u32::MAX) != 0 {
            let line = format!(
                "ERROR offset={host:x}: Allocated cluster has corrupted subcluster allocation bitmap"
            );
            self.corrupt(times, line);
        }
        if !self.facts.is_aligned(host) {
            let what = if self.holds_data(entry, bitmap) { "Data" } else { "Preallocated" };
            let line =
                format!("ERROR offset={host:x}: {what} cluster is not properly aligned; L2 entry corrupted.");
            self.corrupt(times, line);
        }
        if table.active > 0 {
            self.found.allocated_clusters += u64::from(table.active);
            if *behind != 0 && host != *behind {
                self.found.fragmented_clusters += u64::from(table.active);
            }
            *behind = host + self.facts.cluster();
        }
        if !self.facts.external {
            self.refer(host, self.facts.cluster(), times);
        }
        if table.judged > 0 {
            self.judge(table.judged, entry);
        }
    }

    fn judge(&mut self, times: u32, entry: u64) {
        if let Some(count) = self.count_for_flag(entry)
            && (count == 1) != (entry & COPIED != 0)
        {
            let line = format!("ERROR OFLAG_COPIED data cluster: l2_entry={entry:x} refcount={count}");
            self.corrupt_late(times.into(), line);
        }
    }

    /// The refcount that the flag of an allocated entry has to agree with; `None` where it cannot be read.
    pub(super) fn count_for_flag(&self, entry: u64) -> Option<u64> {
        match self.facts.external {
            true => Some(1),
            false => self.disk.get((entry & OFFSET) >> self.facts.bits()),
        }
    }

    /// Whether an entry has a flag that says something.
    pub(super) fn has_flag(&self, entry: u64) -> bool {
        self.kind(entry) == Kind::Allocated
    }

    fn holds_data(&self, entry: u64, bitmap: u64) -> bool {
        if self.facts.extended { bitmap & u64::from(u32::MAX) != 0 } else { entry & ZERO == 0 }
    }

    /// Notes an entry that is to lose the room it has for zeros, because that is not aligned.
    fn zeroed(&mut self, number: usize, index: u64, entry: u64, bitmap: u64) -> bool {
        let host = entry & OFFSET;
        // One in a table that is not aligned keeps its room: such tables lie in one another, each with all entries.
        let can_be = self.repair == Repair::All && self.facts.is_aligned(self.l2_tables[number].offset);
        let is = can_be && !self.facts.is_aligned(host) && !self.holds_data(entry, bitmap);
        if is {
            let at = self.l2_tables[number].offset + index * self.facts.entry_bytes();
            let table = self.l2_tables[number];
            let counted = if entry & RESERVED == 0 { 0 } else { table.times() };
            self.zeroings.push(Zeroing { at, host, table: number, counted });
            self.tell(
                1,
                format!(
                    "Repairing offset={host:x}: Preallocated cluster is not properly aligned; L2 entry corrupted."
                ),
            );
        }
        is
    }
}
