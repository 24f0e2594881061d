//! New refcount structures, for images whose own are past mending, and a new snapshot table with them where that is to
//! be mended.
//!
//! Invariant: they lie in clusters that nothing refers to, the old structures included, and count what is there once
//! the header points to them: until then the image is as it was.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use block::{BlockError, ErrorKind};

use super::{Check, CheckWrite};
use crate::{RefcountBlock, RefcountTable, Snapshot, corrupt, word_bytes};

/// Where the header has its refcount table (offset, clusters), and its snapshots (count, offset).
const REFCOUNT_TABLE_AT: usize = 48;
const SNAPSHOTS_AT: usize = 60;
/// Where a version 3 header has the width of refcounts.
const REFCOUNT_ORDER_AT: usize = 96;

/// Where the new structures lie, in clusters.
pub(super) struct Plan {
    table: u64,
    table_clusters: u64,
    /// Number and cluster of each refcount block.
    blocks: Vec<(u64, u64)>,
    /// The snapshot table, where it is made anew: its cluster and its bytes; none of both where no snapshot is left.
    snapshots: Option<(u64, Vec<u8>)>,
    /// Clusters of zeros that entries are to point to.
    zeros: Vec<u64>,
    /// Clusters of the file when all of it is there.
    end: u64,
}

impl Check {
    /// The writes of the new structures; the header's sector that points to them is kept for later.
    pub(super) fn new_structures(&mut self) -> Result<Vec<CheckWrite>, BlockError> {
        let plan = self.plan()?;
        self.count_anew(&plan);
        let bits = self.facts.bits();
        let entries = (plan.table_clusters << bits) / 8;
        let mut table = vec![0u64; entries as usize];
        let mut blocks = Vec::new();
        for (number, cluster) in &plan.blocks {
            table[*number as usize] = cluster << bits;
            blocks.push((cluster << bits, self.block_bytes(*number)?));
        }
        let mut writes = blocks.clone();
        writes.push((plan.table << bits, word_bytes(&table)));
        if let Some((cluster, bytes)) = plan.snapshots.as_ref().filter(|(_, bytes)| !bytes.is_empty()) {
            writes.push((cluster << bits, bytes.clone()));
        }
        self.facts.new_sector = Some(self.sector_to(&plan));
        self.disk.replace(table, &blocks);
        Ok(writes)
    }

    pub(super) fn plan(&self) -> Result<Plan, BlockError> {
        if !self.header_will_be_ours() {
            return Err(corrupt(
                "its refcount structures have to be made anew, but a table points to its header",
            ));
        }
        let (bits, per_block_bits) = (self.facts.bits(), self.disk.per_block_bits());
        let snapshots = self.new_snapshots();
        let named = self.disk.named_clusters();
        let is_used =
            |block: &u64| self.references.any(block << per_block_bits, (block + 1) << per_block_bits);
        let mut numbers: BTreeSet<u64> = (0..=self.clusters >> per_block_bits).filter(is_used).collect();
        loop {
            let entries = numbers.last().map_or(1, |last| last + 1);
            let table_clusters = (entries * 8).div_ceil(self.facts.cluster());
            if table_clusters << bits > RefcountTable::BYTES_MAX {
                return Err(no_room("a refcount table of more than 8 MiB would be needed"));
            }
            let mut finder = Finder::new(self, &named);
            let table = finder.find(table_clusters)?;
            let made = snapshots.as_ref().map(|bytes| (bytes.len() as u64).div_ceil(self.facts.cluster()));
            let mut place = |count| if count == 0 { Ok(0) } else { finder.find(count) };
            let made = made.map(|count| place(count).map(|at| (at, count))).transpose()?;
            let found = numbers.iter().map(|number| Ok((*number, finder.find(1)?)));
            let blocks: Vec<_> = found.collect::<Result<_, BlockError>>()?;
            let zeros: Vec<_> =
                (0..self.new_zero_clusters()).map(|_| finder.find(1)).collect::<Result<_, BlockError>>()?;
            let single = blocks.iter().map(|(_, at)| *at).chain(zeros.iter().copied());
            let runs = single.map(|at| (at, 1)).chain(made).chain([(table, table_clusters)]);
            let end = runs.clone().map(|(at, count)| at + count).max().unwrap_or(0);
            let inside = self.beyond_clusters.range(..=end).map(|cluster| (*cluster, 1));
            let needed: BTreeSet<u64> = (runs.chain(inside))
                .filter(|(_, count)| *count > 0)
                .flat_map(|(at, count)| at >> per_block_bits..=(at + count - 1) >> per_block_bits)
                .collect();
            if needed.is_subset(&numbers) {
                let snapshots = made.map(|(at, _)| at).zip(snapshots);
                return Ok(Plan { table, table_clusters, blocks, snapshots, zeros, end });
            }
            numbers.extend(needed);
        }
    }

    /// Whether nothing else will refer to the header's cluster once what is made anew lies elsewhere.
    fn header_will_be_ours(&self) -> bool {
        let (refcounts, snapshots) = (self.facts.header.refcount_table, self.facts.header.snapshots);
        let goes = [
            (refcounts.offset.0, u64::from(refcounts.clusters) << self.facts.bits(), true),
            (snapshots.offset.0, self.snapshots_len, self.snapshot_faults > 0),
        ];
        let is_there = |(offset, len, goes): &&(u64, u64, bool)| {
            *goes && *offset == 0 && *len > 0 && self.was_counted(*offset, *len)
        };
        self.is_only(0, 1 + goes.iter().filter(is_there).count() as u64)
    }

    /// The bytes of a new snapshot table, if one is needed.
    pub(super) fn new_snapshots(&self) -> Option<Vec<u8>> {
        let whole = |snapshot: &Snapshot| {
            let disk_size = snapshot.disk_size.unwrap_or(self.facts.header.virtual_size);
            Snapshot { disk_size: Some(disk_size), ..snapshot.clone() }
        };
        let snapshots: Vec<_> = self.snapshots.iter().map(whole).collect();
        (self.snapshot_faults > 0).then(|| Snapshot::table_bytes(&snapshots))
    }

    /// Counts what there is once the header points to the new structures.
    fn count_anew(&mut self, plan: &Plan) {
        let old = self.amending.old.take().unwrap_or_else(|| self.old_structures());
        for (cluster, count) in self.take_from(&old) {
            let references = self.references.get(cluster);
            self.tell(1, format!("Repairing cluster {cluster} refcount={count} reference={references}"));
        }
        if plan.snapshots.is_some() {
            self.take_from(&[(self.facts.header.snapshots.offset.0, self.snapshots_len)]);
        }
        let bits = self.facts.bits();
        let snapshots =
            plan.snapshots.iter().map(|(at, bytes)| (*at, (bytes.len() as u64).div_ceil(1 << bits)));
        let blocks = plan.blocks.iter().map(|(_, at)| (*at, 1));
        for (at, count) in blocks.chain(snapshots).chain([(plan.table, plan.table_clusters)]) {
            for cluster in at..at + count {
                self.references.set(cluster, 1);
            }
        }
        self.count_zero_clusters(&plan.zeros);
        self.count_inside(plan.end);
    }

    /// Takes the references to what nothing will refer to any more; answers how many its clusters had.
    fn take_from(&mut self, runs: &[(u64, u64)]) -> BTreeMap<u64, u64> {
        let (bits, mut had) = (self.facts.bits(), BTreeMap::new());
        for &(offset, len) in runs.iter().filter(|(_, len)| *len > 0) {
            if !self.was_counted(offset, len) {
                continue;
            }
            for cluster in offset >> bits..=(offset + len - 1) >> bits {
                had.entry(cluster).or_insert(self.references.get(cluster));
                self.references.take_one(cluster);
            }
        }
        had
    }

    /// The refcount table and its blocks: offsets and lengths.
    pub(super) fn old_structures(&self) -> Vec<(u64, u64)> {
        let (bits, table) = (self.facts.bits(), self.facts.header.refcount_table);
        let mut old = vec![(table.offset.0, u64::from(table.clusters) << bits)];
        for block in 0..self.disk.table.len() as u64 {
            if let super::disk_counts::TableEntry::Block(offset) = self.disk.entry(block)
                && offset >> bits < self.clusters
            {
                old.push((offset, self.facts.cluster()));
            }
        }
        old
    }

    /// What lay beyond the end of the file lies inside where it grows, and reads as zeros as before.
    fn count_inside(&mut self, end: u64) {
        let grown = (end << self.facts.bits()).max(self.facts.file_len);
        let before = std::mem::replace(&mut self.facts.file_len, grown);
        if before == grown {
            return;
        }
        self.clusters = self.clusters.max(end);
        for (range, times) in std::mem::take(&mut self.beyond) {
            if range.end() < self.facts.reach() {
                self.count(range, times);
                self.lasting -= times;
            }
        }
    }

    /// Whether a range was counted: those beyond the end of the file were not.
    pub(super) fn was_counted(&self, offset: u64, len: u64) -> bool {
        offset.saturating_add(len) < self.facts.reach()
    }

    fn block_bytes(&self, number: u64) -> Result<Vec<u8>, BlockError> {
        let bits = self.disk.per_block_bits();
        let mut block = RefcountBlock::parse(&vec![0; 1 << self.facts.bits()], self.disk.bits)?;
        for index in 0..1u64 << bits {
            let count = self.countable((number << bits) + index);
            if count > 0 {
                block.set(index, count);
            }
        }
        Ok(block.bytes().to_vec())
    }

    /// The header's first sector, pointing to the new structures.
    fn sector_to(&self, plan: &Plan) -> Vec<u8> {
        let (mut sector, bits) = (self.facts.sector.clone(), self.facts.bits());
        let mut put = |at: usize, bytes: &[u8]| sector[at..at + bytes.len()].copy_from_slice(bytes);
        put(REFCOUNT_TABLE_AT, &(plan.table << bits).to_be_bytes());
        put(REFCOUNT_TABLE_AT + 8, &(plan.table_clusters as u32).to_be_bytes());
        if let Some(width) = self.amending.bits {
            put(REFCOUNT_ORDER_AT, &width.ilog2().to_be_bytes());
        }
        if let Some((cluster, _)) = &plan.snapshots {
            self.put_snapshots(&mut sector, *cluster);
        }
        sector
    }

    /// Has the header's first sector point to a snapshot table in that cluster.
    pub(super) fn put_snapshots(&self, sector: &mut [u8], cluster: u64) {
        let count = (self.snapshots.len() as u32).to_be_bytes();
        let offset = (cluster << self.facts.bits()).to_be_bytes();
        sector[SNAPSHOTS_AT..SNAPSHOTS_AT + 12].copy_from_slice(&[&count[..], &offset].concat());
    }
}

/// Looks for free clusters, from the first one on.
pub(super) struct Finder<'a> {
    check: &'a Check,
    /// What the present refcount table names stays as it is, true or not, until the header points elsewhere.
    named: &'a HashSet<u64>,
    at: u64,
}

impl<'a> Finder<'a> {
    pub(super) fn new(check: &'a Check, named: &'a HashSet<u64>) -> Self {
        Self { check, named, at: 0 }
    }

    /// The first of so many free clusters in a row.
    pub(super) fn find(&mut self, count: u64) -> Result<u64, BlockError> {
        let facts = &self.check.facts;
        let end = if facts.grows { 1 << (55 - facts.bits()) } else { facts.file_len >> facts.bits() };
        let mut first = self.at;
        let mut at = first;
        while at < first + count {
            if at >= end {
                return Err(no_room("its file has no free clusters left and cannot grow"));
            }
            let taken = self.check.references.get(at) > 0
                || self.named.contains(&at)
                || at < self.check.clusters && self.check.is_overlong(at)
                || self.check.beyond_clusters.contains(&at);
            at += 1;
            if taken {
                first = at;
            }
        }
        self.at = at;
        Ok(first)
    }
}

fn no_room(why: &str) -> BlockError {
    BlockError::new(ErrorKind::NoSpace, format!("its refcount structures have to be made anew, but {why}"))
}
