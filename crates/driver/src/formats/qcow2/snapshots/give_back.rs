//! What nothing refers to any more after a change of snapshots leaves the file (`pass-discard-snapshot`).
//!
//! Invariants: it goes when nobody reads it any more, and before anybody may take it; what cannot go yet stays in the
//! file, free. Blocks of old and new counters are in memory two at a time.

use block::{ByteRange, Result};
use flow::{Next, Op, Request};
use io::Lease;
use qcow2::{FILE_CHILD, RefcountBlock};

use super::super::image::Image;
use super::super::space::Run;
use super::recount::Recounted;

impl Image {
    /// Gives back what was counted before and is not any more. The caller lets nobody write or flush, and the new
    /// tables are those in memory. Failures cost room in the file and nothing else.
    pub(super) async fn give_back(&self, refcounts: &Recounted, next: Next<'_>) -> Result<()> {
        if !self.writer()?.readers_left(next.reclaim()).await {
            return Ok(());
        }
        for (number, old) in refcounts.old.iter().enumerate() {
            let new = refcounts.table.get(number).copied().unwrap_or(0);
            if *old == 0 || *old == new {
                continue;
            }
            for run in self.freed(refcounts, number as u64, (*old, new), next).await? {
                let bits = self.geometry.cluster_bits();
                let range = ByteRange::new(run.first << bits, run.count << bits);
                next.execute(FILE_CHILD, Request::new(Op::Discard, range), Lease::empty()).await.0?;
            }
        }
        Ok(())
    }

    /// The runs that a block counted at its old place and does not count at its new one; without the old blocks
    /// themselves, which are still to be read.
    async fn freed(
        &self,
        refcounts: &Recounted,
        number: u64,
        (old, new): (u64, u64),
        next: Next<'_>,
    ) -> Result<Vec<Run>> {
        let cluster = self.geometry.cluster_size() as usize;
        let old = RefcountBlock::parse(&self.read_file(old, cluster, next).await?, refcounts.place.bits)?;
        let new = RefcountBlock::parse(&self.read_file(new, cluster, next).await?, refcounts.place.bits)?;
        let mut runs: Vec<Run> = Vec::new();
        for index in 0..old.len() {
            let at = number * old.len() + index;
            if old.get(index) == 0 || new.get(index) > 0 || refcounts.own.binary_search(&at).is_ok() {
                continue;
            }
            match runs.last_mut() {
                Some(last) if last.first + last.count == at => last.count += 1,
                _ => runs.push(Run { first: at, count: 1 }),
            }
        }
        Ok(runs)
    }
}
