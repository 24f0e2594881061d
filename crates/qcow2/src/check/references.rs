//! How many references each host cluster has.
//!
//! A byte for each cluster, in pages that exist where there is a reference; what a byte cannot hold lies in a map. So
//! memory is at most a byte for each cluster of the file, and never more than 256 bytes for each reference, whatever
//! length the file claims: beside an index of four bytes for 256 clusters.

use std::collections::HashMap;

/// Clusters of a page.
pub(super) const PAGE: usize = 256;
/// What a byte holds when the count lies in the map.
pub(super) const MANY: u8 = u8::MAX;

#[derive(Clone, Default)]
pub(super) struct References {
    /// Number of the page plus one; 0: no references.
    index: Vec<u32>,
    pages: Vec<[u8; PAGE]>,
    many: HashMap<u64, u64>,
}

impl References {
    #[inline]
    pub(super) fn get(&self, cluster: u64) -> u64 {
        let page = self.index.get((cluster / PAGE as u64) as usize).copied().unwrap_or(0);
        match page {
            0 => 0,
            page => match self.pages[page as usize - 1][(cluster % PAGE as u64) as usize] {
                MANY => self.many.get(&cluster).copied().unwrap_or(0),
                count => count.into(),
            },
        }
    }

    /// Adds `times` references; answers how many of them are beyond `most`, which are counted all the same.
    #[inline]
    pub(super) fn add(&mut self, cluster: u64, times: u64, most: u64) -> u64 {
        let place = self.place(cluster);
        let old = u64::from(*place);
        if old + times < MANY.into() && old + times <= most {
            *place = (old + times) as u8;
            return 0;
        }
        let old = self.get(cluster);
        let new = old.saturating_add(times);
        self.set(cluster, new);
        new.saturating_sub(most) - old.saturating_sub(most)
    }

    /// Adds `times` references to each cluster of a run, if none has any yet and one can be counted; answers whether.
    pub(super) fn add_run(&mut self, first: u64, count: u64, times: u64, most: u64) -> bool {
        if times >= MANY.into() || times > most {
            return false;
        }
        let pages = |first: u64, count: u64| {
            let end = first + count;
            (first / PAGE as u64..end.div_ceil(PAGE as u64)).map(move |page| {
                let from = first.max(page * PAGE as u64);
                (from, end.min((page + 1) * PAGE as u64) - from)
            })
        };
        for (from, len) in pages(first, count) {
            let at = (from % PAGE as u64) as usize;
            if self.page(from).is_some_and(|page| page[at..at + len as usize].iter().any(|count| *count != 0))
            {
                return false;
            }
        }
        for (from, len) in pages(first, count) {
            let at = (from % PAGE as u64) as usize;
            self.page_mut(from)[at..at + len as usize].fill(times as u8);
        }
        true
    }

    /// The page of a cluster, if it has references that bytes hold; a byte of 255 stands for more.
    pub(super) fn page(&self, cluster: u64) -> Option<&[u8; PAGE]> {
        match self.index.get((cluster / PAGE as u64) as usize).copied().unwrap_or(0) {
            0 => None,
            page => self.pages.get(page as usize - 1),
        }
    }

    pub(super) fn set(&mut self, cluster: u64, count: u64) {
        let was_many = *self.place(cluster) == MANY;
        match u8::try_from(count) {
            Ok(small) if small != MANY => {
                *self.place(cluster) = small;
                if was_many {
                    self.many.remove(&cluster);
                }
            }
            _ => {
                *self.place(cluster) = MANY;
                self.many.insert(cluster, count);
            }
        }
    }

    /// Takes one reference away, if there is one.
    pub(super) fn take_one(&mut self, cluster: u64) {
        let count = self.get(cluster);
        if count > 0 {
            self.set(cluster, count - 1);
        }
    }

    /// Whether a cluster of `first..end` has references.
    pub(super) fn any(&self, first: u64, end: u64) -> bool {
        let mut at = first;
        while at < end {
            let page = (at / PAGE as u64) as usize;
            if page >= self.index.len() {
                return false;
            }
            let page_end = (page as u64 + 1) * PAGE as u64;
            if self.index[page] != 0 && (at..end.min(page_end)).any(|cluster| self.get(cluster) > 0) {
                return true;
            }
            at = page_end;
        }
        false
    }

    #[inline]
    fn place(&mut self, cluster: u64) -> &mut u8 {
        &mut self.page_mut(cluster)[(cluster % PAGE as u64) as usize]
    }

    #[inline]
    fn page_mut(&mut self, cluster: u64) -> &mut [u8; PAGE] {
        let number = (cluster / PAGE as u64) as usize;
        if number >= self.index.len() {
            // Doubling would take twice what is stated.
            self.index.reserve_exact((number + 1 - self.index.len()).max(self.index.len() / 8));
            self.index.resize(number + 1, 0);
        }
        if self.index[number] == 0 {
            self.pages.push([0; PAGE]);
            self.index[number] = self.pages.len() as u32;
        }
        &mut self.pages[self.index[number] as usize - 1]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_are_kept_and_bounded() {
        let mut counts = References::default();
        assert_eq!(counts.add(1000, 1, 1), 0);
        assert_eq!(counts.add(1000, 2, 1), 2);
        assert_eq!(counts.add(5, 300, u64::MAX), 0);
        assert_eq!(counts.add(5, 1, 65535), 0);
        assert_eq!((counts.get(5), counts.get(1000), counts.get(6), counts.get(1 << 40)), (301, 3, 0, 0));
        counts.take_one(5);
        assert_eq!(counts.get(5), 300);
        counts.set(5, 254);
        assert_eq!(counts.add(5, 1, 65535), 0);
        assert_eq!(counts.get(5), 255);
        assert!(
            counts.any(0, 6) && !counts.any(6, 1000) && counts.any(6, 1001) && !counts.any(1001, 1 << 40)
        );
        counts.take_one(7);
        assert_eq!(counts.get(7), 0);
    }
}
