//! What a check makes different besides, for images that are to be of another kind: the width of refcounts, whole
//! entries of snapshots, and entries that version 2 does not have.
//!
//! Invariants: it begins only where nothing is wrong, but for refcounts that are to be of another width. Those of
//! another width are new structures, to which one sector of the header switches; a crash before leaves the old ones.
//! Clusters of zeros are counted by such structures for all entries that are to point to them, before one does.

use std::collections::VecDeque;

use block::{BlockError, ErrorKind};

use super::disk_counts::DiskCounts;
use super::mend::changed_sectors;
use super::{Check, Repair, Step};
use crate::l2_entry::{COMPRESSED, ZERO};
use crate::{Snapshot, corrupt};

/// Entries that share a cluster of zeros. Each snapshot that is taken of them counts it as often once more, so that far
/// less than what 16 bits count leaves room for 255 of them.
const SHARED_MAX: u64 = 256;

/// A cluster that is counted for entries which are to point to it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ZeroCluster {
    /// Where it lies in the image file, in bytes.
    pub offset: u64,
    /// So many references are counted.
    pub uses: u64,
}

/// What is asked for besides the check, and what was seen for it.
#[derive(Default)]
pub(super) struct Amending {
    /// Bits of each refcount.
    pub(super) bits: Option<u32>,
    /// Entries of version 2 snapshot tables are to say how large the disk was, too.
    pub(super) completes_snapshots: bool,
    /// What entries that read as zeros become, in all tables.
    become_of_zeros: BecomeOfZeros,
    /// How many there are.
    zeros: u64,
    /// How often each cluster of zeros is to be counted, where such are to be made.
    uses: Option<Vec<u64>>,
    /// Those that were made.
    zero_clusters: Vec<ZeroCluster>,
    /// The structures that counts of another width take the place of.
    pub(super) old: Option<Vec<(u64, u64)>>,
}

#[derive(Default)]
enum BecomeOfZeros {
    #[default]
    Nothing,
    Unallocated,
    /// Data: they point to these, as often as is counted.
    Data(VecDeque<ZeroCluster>),
}

impl Amending {
    /// Whether there are to be new refcount structures, though the old ones are right.
    pub(super) fn counts_anew(&self) -> bool {
        self.bits.is_some() || self.uses.is_some()
    }

    /// An entry in a table that is used so often.
    fn note_zero(&mut self, times: u64) {
        self.zeros += 1;
        let Some(uses) = &mut self.uses else { return };
        match uses.last_mut() {
            Some(uses) if *uses + times <= SHARED_MAX => *uses += times,
            _ => uses.push(times),
        }
    }
}

impl BecomeOfZeros {
    /// What an entry becomes in a table that is used so often; `None` where clusters have been counted for less.
    fn of_one(&mut self, times: u64) -> Option<u64> {
        let Self::Data(clusters) = self else { return Some(0) };
        // As they were counted: each for entries in a row.
        while clusters.front()?.uses < times {
            clusters.pop_front();
        }
        let cluster = clusters.front_mut()?;
        cluster.uses -= times;
        Some(cluster.offset)
    }
}

impl Check {
    /// The same check of a version 3 image, which then gets refcounts of `bits` bits, a power of two up to 64.
    ///
    /// Errors of [`Check::step`] besides, before anything is written: `Corrupt` where something but refcounts is wrong,
    /// `Unsupported` where a cluster is counted higher than `bits` allow.
    #[must_use]
    pub fn with_refcount_bits(mut self, bits: u32) -> Self {
        self.repair = Repair::Nothing;
        self.amending.bits = Some(bits);
        self
    }

    /// The same check; a repair of all ([`Repair::All`]) makes the entries of snapshots of a version 2 image whole,
    /// too.
    #[must_use]
    pub fn completing_snapshots(mut self) -> Self {
        self.amending.completes_snapshots = true;
        self
    }

    /// The same check, on an image without backing image in which nothing is wrong: entries that read as zeros become
    /// unallocated ones, which do, too. Clusters that they kept leak.
    #[must_use]
    pub fn dropping_zeros(mut self) -> Self {
        self.amending.become_of_zeros = BecomeOfZeros::Unallocated;
        self
    }

    /// The same check of an image in which nothing is wrong, which then counts clusters of zeros
    /// ([`Check::zero_clusters`]) for all entries that read as zeros. Nothing points to them yet: they leak.
    #[must_use]
    pub fn making_zero_clusters(mut self) -> Self {
        self.repair = Repair::Nothing;
        self.amending.uses = Some(Vec::new());
        self
    }

    /// Those that were made. Once it is done; nothing was written to them.
    pub fn zero_clusters(&self) -> &[ZeroCluster] {
        &self.amending.zero_clusters
    }

    /// The same check right after that one, once `clusters` durably hold zeros: entries that read as zeros point to
    /// them. Clusters that they kept leak.
    #[must_use]
    pub fn filling_zeros(mut self, clusters: &[ZeroCluster]) -> Self {
        self.amending.become_of_zeros = BecomeOfZeros::Data(clusters.iter().copied().collect());
        self
    }

    /// How many entries of L2 tables, those of snapshots included, read as zeros. Once it is done.
    pub fn zeros(&self) -> u64 {
        self.amending.zeros
    }

    /// The internal snapshots. Once it is done.
    pub fn snapshots(&self) -> &[Snapshot] {
        &self.snapshots
    }

    fn is_zero(&self, entry: u64) -> bool {
        entry & COMPRESSED == 0 && entry & ZERO != 0 && !self.facts.extended
    }

    pub(super) fn note_zero(&mut self, entry: u64, times: u64) {
        if self.is_zero(entry) {
            self.amending.note_zero(times);
        }
    }

    /// Has entries of a table that read as zeros become what they are to be.
    pub(super) fn replace_zeros(&mut self, number: usize, bytes: &[u8]) -> Result<(), BlockError> {
        if matches!(self.amending.become_of_zeros, BecomeOfZeros::Nothing) {
            return Ok(());
        }
        let table = self.l2_tables[number];
        let mut now = bytes.to_vec();
        for (word, entry) in now.as_chunks_mut::<8>().0.iter_mut().zip(super::words(bytes)) {
            if self.is_zero(entry) {
                let becomes = self.amending.become_of_zeros.of_one(table.times());
                let becomes = becomes.ok_or_else(|| corrupt("its tables have changed meanwhile"))?;
                *word = becomes.to_be_bytes();
            }
        }
        self.writes.extend(changed_sectors(table.offset, bytes, &now));
        Ok(())
    }

    /// How many clusters of zeros are to be made.
    pub(super) fn new_zero_clusters(&self) -> usize {
        self.amending.uses.as_ref().map_or(0, Vec::len)
    }

    /// Counts them where they were put.
    pub(super) fn count_zero_clusters(&mut self, places: &[u64]) {
        for (cluster, uses) in places.iter().zip(self.amending.uses.take().unwrap_or_default()) {
            self.references.set(*cluster, uses);
            let offset = cluster << self.facts.bits();
            self.amending.zero_clusters.push(ZeroCluster { offset, uses });
        }
    }

    /// Goes over from checking to new structures.
    pub(super) fn begin_anew(&mut self) -> Result<Step, BlockError> {
        let bits = self.amending.bits.unwrap_or(self.disk.bits);
        // New refcounts are made of what refers to clusters, whatever the old ones said.
        if self.found.corruptions > self.miscounted || self.found.check_errors > 0 {
            return Err(corrupt("it has errors, which have to be mended first: 'img check -r all'"));
        }
        let most = u64::MAX >> (64 - bits);
        if let Some(cluster) = (0..self.clusters).find(|cluster| self.references.get(*cluster) > most) {
            let (at, count) = (cluster << self.facts.bits(), self.references.get(cluster));
            let context = format!(
                "Cannot decrease refcount entry width to {bits} bits: Cluster at offset {at:#x} has a refcount of {count}"
            );
            return Err(BlockError::new(ErrorKind::Unsupported, context));
        }
        self.amending.old = Some(self.old_structures());
        self.disk = DiskCounts::new(self.facts.bits(), bits);
        self.facts.most = most;
        (self.repair, self.rebuild) = (Repair::All, true);
        self.zero_entries()
    }
}
