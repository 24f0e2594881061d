//! Clusters that entries of loaded tables call their own, whatever their refcounts say.
//!
//! A cluster that counts as free and is claimed is one whose refcount lies: it is not handed out.
//!
//! Invariant: memory is bounded; what is beyond that is not remembered, which costs a find and no wrong one.

use std::collections::HashMap;

use super::Run;

/// Clusters of a page.
const PAGE: u64 = 4096;
/// Most pages: 16 MiB of memory, 8 TiB of clusters of 64 KiB.
const PAGES_MAX: usize = 32 << 10;

#[derive(Default)]
pub(crate) struct Claims {
    pages: HashMap<u64, Box<[u64; PAGE as usize / 64]>>,
}

impl Claims {
    pub(crate) fn add(&mut self, cluster: u64) {
        let (page, word, bit) = place(cluster);
        if self.pages.len() < PAGES_MAX || self.pages.contains_key(&page) {
            self.pages.entry(page).or_insert_with(|| Box::new([0; PAGE as usize / 64]))[word] |= bit;
        }
    }

    /// It is free now.
    pub(crate) fn remove(&mut self, cluster: u64) {
        let (page, word, bit) = place(cluster);
        if let Some(page) = self.pages.get_mut(&page) {
            page[word] &= !bit;
        }
    }

    /// The first cluster of a run that is claimed.
    pub(crate) fn first_in(&self, run: Run) -> Option<u64> {
        let claimed = |cluster: &u64| {
            let (page, word, bit) = place(*cluster);
            self.pages.get(&page).is_some_and(|page| page[word] & bit != 0)
        };
        (run.first..run.first + run.count).find(claimed)
    }
}

fn place(cluster: u64) -> (u64, usize, u64) {
    (cluster / PAGE, (cluster % PAGE / 64) as usize, 1 << (cluster % 64))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn claims_are_found_until_they_go() {
        let mut claims = Claims::default();
        claims.add(4095);
        claims.add(4097);
        let first = |first, count| claims_first(&claims, first, count);
        assert_eq!([first(0, 4095), first(4090, 10), first(4096, 9)], [None, Some(4095), Some(4097)]);
        claims.remove(4095);
        claims.remove(1 << 40);
        assert_eq!(claims_first(&claims, 0, 5000), Some(4097));
        (0..2 * PAGES_MAX as u64).for_each(|page| claims.add(page * PAGE));
        assert_eq!(claims.pages.len(), PAGES_MAX);
    }

    fn claims_first(claims: &Claims, first: u64, count: u64) -> Option<u64> {
        claims.first_in(Run { first, count })
    }
}
