//! The cache of L2 slices: looked up without a lock, bounded in bytes.
//!
//! Sets of a few slices each; a slice is replaced by the clock rule (the first one that was not used since the
//! hand last passed).

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use arc_swap::ArcSwapOption;
use qcow2::{Geometry, L2Slice, SliceAddress};

const WAYS: usize = 8;

/// The slices of one image.
pub(super) struct Slices {
    sets: Box<[Set]>,
    span: u64,
}

#[derive(Default)]
struct Set {
    ways: [Way; WAYS],
    hand: AtomicUsize,
}

#[derive(Default)]
struct Way {
    slice: ArcSwapOption<L2Slice>,
    used: AtomicBool,
}

impl Slices {
    /// Room for `budget` bytes of slices, or for all of the image if that is less.
    pub(super) fn new(geometry: &Geometry, budget: u64) -> Self {
        let wanted = geometry.virtual_size().div_ceil(geometry.slice_span());
        let allowed = budget / geometry.slice_bytes() as u64;
        let sets = wanted.min(allowed).div_ceil(WAYS as u64).max(1);
        // A handful more than asked for when the budget is tiny; never more than the image has.
        let sets = (0..sets.min(1 << 22)).map(|_| Set::default()).collect();
        Self { sets, span: geometry.slice_span() }
    }

    /// What `ask` says of the slice at `address`, if it is here.
    #[inline]
    pub(super) fn find<T>(&self, address: SliceAddress, ask: impl FnOnce(&L2Slice) -> T) -> Option<T> {
        for way in &self.set(address).ways {
            let slice = way.slice.load();
            if let Some(slice) = slice.as_ref().filter(|slice| super::same(slice, address)) {
                if !way.used.load(Ordering::Relaxed) {
                    way.used.store(true, Ordering::Relaxed);
                }
                return Some(ask(slice));
            }
        }
        None
    }

    /// Keeps a slice, in place of one that was not used lately.
    pub(super) fn keep(&self, slice: Arc<L2Slice>) {
        let set = self.set(slice.address());
        let empty = set.ways.iter().find(|way| way.slice.load().is_none());
        let way = empty.unwrap_or_else(|| set.victim());
        way.used.store(true, Ordering::Relaxed);
        way.slice.store(Some(slice));
    }

    fn set(&self, address: SliceAddress) -> &Set {
        let number = address.first_guest / self.span;
        &self.sets[(number % self.sets.len() as u64) as usize]
    }
}

impl Set {
    fn victim(&self) -> &Way {
        for _ in 0..WAYS {
            let way = self.next();
            if !way.used.swap(false, Ordering::Relaxed) {
                return way;
            }
        }
        self.next()
    }

    fn next(&self) -> &Way {
        &self.ways[self.hand.fetch_add(1, Ordering::Relaxed) % WAYS]
    }
}
