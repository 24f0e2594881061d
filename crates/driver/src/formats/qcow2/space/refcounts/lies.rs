//! Counters that cannot be true: clusters that count as free and are not.
//!
//! Invariant: what is known to be in use is neither handed out nor freed again, whatever its counter says.

use block::{BlockError, ByteRange, Result};

use super::super::super::corruption::Corruption;
use super::super::Run;
use super::super::structures::Structure;
use super::Refcounts;

impl Refcounts {
    /// An error where counters say that clusters are free which cannot be.
    pub(crate) fn check_free(&self, run: Run) -> Result<()> {
        let overlaps =
            |other: Run| run.first < other.first + other.count && other.first < run.first + run.count;
        let reserved = [
            (Run { first: 0, count: 1 }, Structure::Header),
            (self.l1, Structure::ActiveL1),
            (self.place, Structure::RefcountTable),
            (self.durable_place, Structure::RefcountTable),
        ];
        let found = reserved
            .into_iter()
            .find(|(other, _)| overlaps(*other))
            .map(|(other, what)| (other.first.max(run.first), what.name()));
        if let Some((cluster, what)) = found.or_else(|| self.structures.overlap(run)) {
            return Err(self.overlap(cluster, what));
        }
        match self.claims.first_in(run) {
            Some(cluster) => Err(Corruption::in_use(self.bytes_of(cluster)).error()),
            None => Ok(()),
        }
    }

    /// The error of who would write to a cluster which is that.
    pub(crate) fn overlap(&self, cluster: u64, what: &str) -> BlockError {
        Corruption::overlap(self.bytes_of(cluster), what).error()
    }

    fn bytes_of(&self, cluster: u64) -> ByteRange {
        ByteRange::new(cluster << self.cluster_bits, 1 << self.cluster_bits)
    }

    #[cold]
    pub(crate) fn note_free_twice(&mut self, cluster: u64) {
        let range = self.bytes_of(cluster);
        self.lie.get_or_insert_with(|| Corruption::free_twice(range));
    }

    /// What was found wrong while clusters were freed, once.
    pub(crate) fn take_lie(&mut self) -> Option<Corruption> {
        self.lie.take()
    }
}
