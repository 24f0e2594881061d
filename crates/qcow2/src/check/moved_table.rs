//! A new snapshot table where refcounts are mended in place: in clusters that the blocks which are there can count.
//!
//! Order: its bytes and its counts, a barrier, the header's sector, a barrier; then the old one is no longer counted.
//! So a crash leaves the old table or the new one, and nothing but leaks.

use std::ops::Range;

use super::disk_counts::TableEntry;
use super::rebuild::Finder;
use super::{Check, CheckWrite, Repair, Step};

/// Where the new table lies, in clusters (none where no snapshot is left), and the old one, as far as it was counted.
pub(super) struct MovedTable {
    place: Range<u64>,
    bytes: Vec<u8>,
    old: Range<u64>,
}

impl MovedTable {
    /// Whether it takes the place of nothing there, or of a leak.
    pub(super) fn takes(&self, cluster: u64) -> bool {
        self.place.contains(&cluster)
    }
}

impl Check {
    /// Looks for a place if a new table is all that has to be made anew. Finding none is no error: then refcounts are
    /// made anew as well.
    pub(super) fn move_snapshots(&mut self) {
        if self.repair != Repair::All || self.rebuild || !self.header_is_ours() {
            return;
        }
        let Some(bytes) = self.new_snapshots() else { return };
        let count = (bytes.len() as u64).div_ceil(self.facts.cluster());
        let named = self.disk.named_clusters();
        let Ok(at) = Finder::new(self, &named).find(count) else { return };
        let place = at..at + count;
        let hides_what_lies_beyond = place.end > self.clusters && !self.beyond.is_empty();
        if hides_what_lies_beyond || !place.clone().all(|cluster| self.has_counter(cluster)) {
            return;
        }
        let old = self.old_snapshots();
        place.clone().for_each(|cluster| self.references.set(cluster, 1));
        self.clusters = self.clusters.max(place.end);
        self.facts.file_len = self.facts.file_len.max(place.end << self.facts.bits());
        self.moved_table = Some(MovedTable { place, bytes, old });
    }

    fn has_counter(&self, cluster: u64) -> bool {
        let block = cluster >> self.disk.per_block_bits();
        matches!(self.disk.entry(block), TableEntry::Block(_)) && self.disk.bytes(block).is_some()
    }

    fn old_snapshots(&self) -> Range<u64> {
        let (offset, len) = (self.facts.header.snapshots.offset.0, self.snapshots_len);
        if len == 0 || !self.was_counted(offset, len) {
            return 0..0;
        }
        offset >> self.facts.bits()..((offset + len - 1) >> self.facts.bits()) + 1
    }

    /// The new table, if there is one; from the next step on the header is to point to it.
    pub(super) fn moved_bytes(&mut self) -> Option<CheckWrite> {
        let MovedTable { place, bytes, .. } = self.moved_table.as_ref()?;
        let mut sector = self.facts.sector.clone();
        self.put_snapshots(&mut sector, place.start);
        self.facts.new_sector = Some(sector);
        (!bytes.is_empty()).then(|| (place.start << self.facts.bits(), bytes.clone()))
    }

    /// The old one is in no use any more.
    pub(super) fn free_old_table(&mut self) -> Step {
        let Some(MovedTable { old, .. }) = self.moved_table.take() else { return Step::Again };
        old.clone().for_each(|cluster| self.references.take_one(cluster));
        let (bits, mut writes) = (self.disk.per_block_bits(), Vec::new());
        for block in old.start >> bits..old.end.div_ceil(1 << bits) {
            let inside = old.start.max(block << bits)..old.end.min((block + 1) << bits);
            writes.extend(self.rewrite(block, |check| {
                inside.for_each(|cluster| check.disk.set(cluster, check.countable(cluster)));
            }));
        }
        Step::Write(writes)
    }
}
