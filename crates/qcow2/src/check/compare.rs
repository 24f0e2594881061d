//! Comparing references with refcounts, cluster by cluster.

use super::references::PAGE;
use super::{Check, State, mend::Stage};

/// Clusters that are compared at a time.
const TURN: u64 = 1 << 15;

impl Check {
    pub(super) fn compare(&mut self, from: u64) {
        let to = self.clusters.min(from + TURN);
        // The header is there, whatever is known of it.
        self.found.image_end_offset = self.found.image_end_offset.max(self.facts.cluster());
        let mut cluster = from;
        while cluster < to {
            let page = cluster + PAGE as u64;
            if cluster.is_multiple_of(PAGE as u64) && page <= to && self.page_agrees(cluster) {
                cluster = page;
                continue;
            }
            let end = to.min(page - cluster % PAGE as u64);
            (cluster..end).for_each(|cluster| self.compare_one(cluster));
            cluster = end;
        }
        self.state = if to < self.clusters { State::Compare(to) } else { State::Mend(Stage::Begin) };
    }

    fn compare_one(&mut self, cluster: u64) {
        let references = self.countable(cluster);
        let Some(count) = self.disk.get(cluster) else {
            self.found.check_errors += 1;
            let line = format!("Can't get refcount for cluster {cluster}: Input/output error");
            return self.tell(1, line);
        };
        if count | references != 0 {
            self.found.image_end_offset = (cluster + 1) << self.facts.bits();
        }
        if count == references {
            return;
        }
        // Where there may be no block it cannot be counted up in place.
        self.rebuild |= count == 0;
        let verb = if count < references { "ERROR" } else { "Leaked" };
        let line = format!("{verb} cluster {cluster} refcount={count} reference={references}");
        match count < references {
            true => {
                self.miscounted += 1;
                self.corrupt(1, line);
            }
            false => {
                self.found.leaks += 1;
                self.tell(1, line);
            }
        }
    }

    /// References as far as a refcount can count them.
    pub(super) fn countable(&self, cluster: u64) -> u64 {
        self.references.get(cluster).min(self.facts.most)
    }
}
