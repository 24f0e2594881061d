//! The bytes of a file as pages; a page that is not there reads as zeros. Clones share pages until written.

use std::collections::BTreeMap;
use std::sync::Arc;

use block::{Alignment, ByteRange};

pub(crate) const PAGE: u64 = Alignment::PAGE.bytes();

type Page = [u8; PAGE as usize];

#[derive(Clone, Default)]
pub(crate) struct Sparse {
    pages: BTreeMap<u64, Arc<Page>>,
}

impl Sparse {
    pub(crate) fn read(&self, offset: u64, buf: &mut [u8]) {
        for (piece, part) in pieces(offset, buf.len()) {
            match self.pages.get(&piece.page) {
                Some(page) => buf[part].copy_from_slice(&page[piece.start..piece.end]),
                None => buf[part].fill(0),
            }
        }
    }

    pub(crate) fn write(&mut self, offset: u64, bytes: &[u8]) {
        for (piece, part) in pieces(offset, bytes.len()) {
            let page = self.pages.entry(piece.page).or_insert_with(|| Arc::new([0; PAGE as usize]));
            Arc::make_mut(page)[piece.start..piece.end].copy_from_slice(&bytes[part]);
        }
    }

    /// Makes `range` read as zeros; whole pages go away.
    pub(crate) fn punch(&mut self, range: ByteRange) {
        let inside = Alignment::PAGE.inside(range);
        if inside.is_empty() {
            self.zero_stored(range);
            return;
        }
        self.zero_stored(ByteRange::between(range.start(), inside.start()));
        self.zero_stored(ByteRange::between(inside.end(), range.end()));
        let gone = self.pages.range(inside.start() / PAGE..inside.end() / PAGE);
        for page in gone.map(|(page, _)| *page).collect::<Vec<_>>() {
            self.pages.remove(&page);
        }
    }

    /// Zeroes `range` (which lies in at most two pages) where there are pages.
    fn zero_stored(&mut self, range: ByteRange) {
        // Shorter than two pages, so its length fits.
        for (piece, _) in pieces(range.start(), range.len() as usize) {
            if let Some(page) = self.pages.get_mut(&piece.page) {
                Arc::make_mut(page)[piece.start..piece.end].fill(0);
            }
        }
    }

    /// Forgets everything from `len` on.
    pub(crate) fn truncate(&mut self, len: u64) {
        self.zero_stored(ByteRange::between(len, Alignment::PAGE.up(len)));
        self.pages.split_off(&len.div_ceil(PAGE));
    }

    /// The parts of `range` that have pages, in order.
    pub(crate) fn stored(&self, range: ByteRange) -> impl Iterator<Item = ByteRange> + '_ {
        let pages = self.pages.range(range.start() / PAGE..range.end().div_ceil(PAGE));
        pages.map(move |(page, _)| ByteRange::new(page * PAGE, PAGE).intersection(range))
    }

    /// Bytes of storage in use.
    pub(crate) fn allocated(&self) -> u64 {
        self.pages.len() as u64 * PAGE
    }

    /// Bytes of storage that writing `range` would add.
    pub(crate) fn missing(&self, range: ByteRange) -> u64 {
        let around = Alignment::PAGE.around(range);
        around.len() - self.stored(around).count() as u64 * PAGE
    }
}

/// Part of one page.
struct Piece {
    page: u64,
    start: usize,
    end: usize,
}

/// Cuts `len` bytes at `offset` along pages: the part of each page, and of the buffer.
fn pieces(offset: u64, len: usize) -> impl Iterator<Item = (Piece, std::ops::Range<usize>)> {
    let mut at = 0;
    std::iter::from_fn(move || {
        if at == len {
            return None;
        }
        let place = offset + at as u64;
        // Below a page, so it fits.
        let start = (place % PAGE) as usize;
        let end = (start + len - at).min(PAGE as usize);
        let part = at..at + end - start;
        at = part.end;
        Some((Piece { page: place / PAGE, start, end }, part))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Rng;

    #[test]
    fn agrees_with_a_plain_vector() {
        const LEN: u64 = 5 * PAGE + 100;
        let (mut rng, mut sparse, mut model) = (Rng::new(1), Sparse::default(), vec![0u8; LEN as usize]);
        for _ in 0..2000 {
            let start = rng.below(LEN);
            let range = ByteRange::new(start, rng.below(LEN - start + 1).min(rng.below(9000)));
            let place = range.start() as usize..range.end() as usize;
            match rng.below(5) {
                0 => {
                    sparse.punch(range);
                    model[place].fill(0);
                }
                1 if rng.chance(0.1) => {
                    sparse.truncate(start);
                    model[start as usize..].fill(0);
                }
                _ => {
                    rng.fill(&mut model[place.clone()]);
                    sparse.write(range.start(), &model[place]);
                }
            }
            let mut all = vec![1; LEN as usize];
            sparse.read(0, &mut all);
            assert!(all == model);
            let holes = ByteRange::new(0, LEN);
            let stored: u64 = sparse.stored(holes).map(ByteRange::len).sum();
            assert!(stored >= model.iter().filter(|b| **b != 0).count() as u64);
            assert_eq!(sparse.missing(holes), Alignment::PAGE.up(LEN) - sparse.allocated());
        }
    }

    #[test]
    fn a_huge_hole_costs_nothing() {
        let mut sparse = Sparse::default();
        sparse.write(1 << 50, b"far");
        sparse.punch(ByteRange::new(0, 1 << 49));
        assert_eq!(sparse.allocated(), PAGE);
        sparse.punch(ByteRange::new(0, 1 << 51));
        assert_eq!(sparse.allocated(), 0);
    }
}
