//! What a check makes different besides, for images that are to be of another kind: the width of refcounts, whole
//! entries of snapshots, and entries that version 2 does not have.
//!
//! Invariant: it begins only where nothing is wrong, but for refcounts that are to be of another width. Those of
//! another width are new structures, to which one sector of the header switches; a crash before leaves the old ones.

use block::{BlockError, ErrorKind};

use super::disk_counts::DiskCounts;
use super::mend::changed_sectors;
use super::{Check, Repair, Step};
use crate::l2_entry::{COMPRESSED, ZERO};
use crate::{Snapshot, corrupt};

/// What is asked for besides the check, and what was seen for it.
#[derive(Default)]
pub(super) struct Amending {
    /// Bits of each refcount.
    pub(super) bits: Option<u32>,
    /// Entries of version 2 snapshot tables are to say how large the disk was, too.
    pub(super) completes_snapshots: bool,
    /// Entries that read as zeros become unallocated.
    drops_zeros: bool,
    /// Entries that read as zeros, in all tables.
    pub(super) zeros: u64,
    /// The structures that counts of another width take the place of.
    pub(super) old: Option<Vec<(u64, u64)>>,
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
        self.amending.drops_zeros = true;
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

    pub(super) fn is_zero(&self, entry: u64) -> bool {
        entry & COMPRESSED == 0 && entry & ZERO != 0 && !self.facts.extended
    }

    pub(super) fn drop_zeros(&mut self, number: usize, bytes: &[u8]) {
        if !self.amending.drops_zeros {
            return;
        }
        let mut now = bytes.to_vec();
        for (word, entry) in now.as_chunks_mut::<8>().0.iter_mut().zip(super::words(bytes)) {
            if self.is_zero(entry) {
                *word = [0; 8];
            }
        }
        self.writes.extend(changed_sectors(self.l2_tables[number].offset, bytes, &now));
    }

    /// Goes over from checking to new structures.
    pub(super) fn begin_new_width(&mut self) -> Result<Step, BlockError> {
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
