//! Checking the table against the clusters: every cluster that was taken is mapped once, prepared or waiting.

use block::{BlockError, ByteRange, ErrorKind, Result};
use flow::{Check, CheckReport, Next, Repair, Tell};
use io::LocalFut;

use super::MemoryFormat;
use super::clusters::Books;
use super::table::Entry;

/// Most lines of a report.
const LINES_MAX: usize = 100;

impl Check for MemoryFormat {
    fn check<'a>(
        &'a self,
        repair: Repair,
        tell: Tell<'a>,
        _next: Next<'a>,
    ) -> LocalFut<'a, Result<CheckReport>> {
        Box::pin(async move {
            if repair != Repair::Nothing {
                let context = "its tables are in memory: there is nothing that could be mended";
                return Err(BlockError::new(ErrorKind::Unsupported, context));
            }
            Ok(self.report(tell))
        })
    }
}

impl MemoryFormat {
    /// Entries do not change meanwhile: that needs the books.
    fn report(&self, tell: Tell<'_>) -> CheckReport {
        let books = self.clusters.books();
        let mut mapped = self.mapped();
        mapped.sort_unstable();
        let mut corruptions: Vec<_> = wrong(&books, &mapped).take(LINES_MAX).collect();
        mapped.dedup_by_key(|(host, _)| *host);
        let distinct = mapped.len() as u64;
        if distinct != books.mapped && corruptions.is_empty() {
            corruptions.push(format!("{distinct} clusters are mapped, {} should be", books.mapped));
        }
        let reachable = distinct + books.prepared() + books.waiting();
        corruptions.iter().for_each(|line| tell(line));
        CheckReport {
            allocated: books.taken(),
            leaks: books.taken().saturating_sub(reachable),
            corruptions: corruptions.len() as u64,
            ..CheckReport::default()
        }
    }

    /// Host and guest cluster of every entry with data.
    fn mapped(&self) -> Vec<(u64, u64)> {
        let offsets = |region: ByteRange| self.each_cluster(region);
        let data = |offset: u64| match self.table.get(offset) {
            Entry::Data(host) => Some((host, offset)),
            _ => None,
        };
        self.table.made().flat_map(offsets).filter_map(data).collect()
    }
}

fn wrong<'a>(books: &'a Books, mapped: &'a [(u64, u64)]) -> impl Iterator<Item = String> + 'a {
    let twice = mapped.windows(2).filter(|pair| pair[0].0 == pair[1].0).map(|pair| {
        format!("cluster {} holds the guest bytes at {} and at {}", pair[0].0, pair[0].1, pair[1].1)
    });
    let not_ours = mapped
        .iter()
        .filter(|(host, _)| !books.may_be_mapped(*host))
        .map(|(host, guest)| format!("cluster {host} is free and holds the guest bytes at {guest}"));
    twice.chain(not_ours)
}
