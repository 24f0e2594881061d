//! The usual case, many clusters at a time: entries that point to one cluster after the other, counts that agree.
//!
//! Invariant: what is not as usual is left to those who look at each cluster, as if nobody had looked before.

use super::disk_counts::DiskCounts;
use super::references::{MANY, PAGE};
use super::{Check, L2Table};
use crate::l2_entry::{COPIED, OFFSET};

/// Fewest entries that are worth it.
const RUN_MIN: u64 = 8;

impl Check {
    /// Takes the run of entries that `words` begins with, if all of them are its own clusters that lie one behind the
    /// other in the file and count once. Answers how many were taken; and how many are not worth another look.
    pub(super) fn take_run(&mut self, table: L2Table, words: &[u64], behind: &mut u64) -> (u64, u64) {
        let Some(first) = words.first().copied() else { return (0, 0) };
        let (host, cluster) = (first & OFFSET, self.facts.cluster());
        let is_usual = first & !OFFSET == COPIED && host != 0 && self.facts.is_aligned(host);
        if !is_usual || self.facts.extended || self.facts.external || table.judged > table.active {
            return (0, 1);
        }
        let whole = (self.facts.file_len.saturating_sub(host) / cluster).min(words.len() as u64);
        let follows = |(number, word): &(u64, &u64)| **word == first + number * cluster;
        let count = (0..whole).zip(words).take_while(follows).count() as u64;
        let (from, times) = (host >> self.facts.bits(), table.times());
        let agrees = |disk: &DiskCounts| table.judged == 0 || disk.count_once(from, count);
        if count < RUN_MIN
            || !agrees(&self.disk)
            || !self.references.add_run(from, count, times, self.facts.most)
        {
            return (0, count.max(1));
        }
        if table.active > 0 {
            self.found.allocated_clusters += count * u64::from(table.active);
            if *behind != 0 && host != *behind {
                self.found.fragmented_clusters += u64::from(table.active);
            }
            *behind = host + count * cluster;
        }
        (count, 0)
    }

    /// Whether counts and references agree in the page of clusters that begins with `first`; notes where its use ends.
    pub(super) fn page_agrees(&mut self, first: u64) -> bool {
        let Some(counts) = self.disk.counters(first, PAGE as u64) else { return false };
        let is_same =
            |(references, count): (&u8, &[u8; 2])| *count == [0, *references] && *references != MANY;
        let agrees = match self.references.page(first) {
            Some(page) => page.iter().zip(counts).all(is_same),
            None => counts.iter().all(|count| *count == [0, 0]),
        };
        if let Some(last) = counts.iter().rposition(|count| *count != [0, 0]).filter(|_| agrees) {
            self.found.image_end_offset = (first + last as u64 + 1) << self.facts.bits();
        }
        agrees
    }
}
