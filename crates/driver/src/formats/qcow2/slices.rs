//! The cache of L2 slices: looked up without a lock, bounded in bytes.
//!
//! Sets of up to eight slices each; a slice is replaced by the clock rule (the first one that was not used since
//! the hand last passed).
//!
//! Invariants: the slices and what keeps them take no more than the budget (two slices are always allowed); a slice
//! that was just kept outlives all others of its set, so that whoever loaded it finds it unless that many others
//! have loaded theirs in the moment between: somebody always gets on.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use arc_swap::ArcSwapOption;
use qcow2::{Geometry, L2Slice, SliceAddress};

/// Slices of a set.
const WAYS: u64 = 8;
/// Fewest slices: a table and the one behind it.
const FEWEST: u64 = 2;
/// Most slices: enough for 4 GiB of tables of the default slice size.
const MOST: u64 = 1 << 20;
/// Bytes that a slice takes beside its entries: its way, its head, its share of the allocator.
const OVERHEAD: u64 = 128;

/// The slices of one image.
pub(super) struct Slices {
    first: Sets,
    /// Once the disk has grown beyond what the first ones were made for: as many as the budget allows.
    larger: OnceLock<Sets>,
    span_bits: u32,
    slice_bytes: u64,
    budget: u64,
}

/// Ways, in sets.
struct Sets {
    ways: Box<[Way]>,
    /// Where each set's hand stands; held by those who keep a slice.
    hands: Mutex<Box<[u8]>>,
    count: u64,
    per_set: usize,
}

#[derive(Default)]
struct Way {
    /// Number of the slice plus one, to find it without touching others; 0: none. The slice itself has the last word.
    key: AtomicU64,
    used: AtomicBool,
    slice: ArcSwapOption<L2Slice>,
}

impl Slices {
    /// Room for `budget` bytes, or for all slices of the image if they take less.
    pub(super) fn new(geometry: &Geometry, budget: u64) -> Self {
        let span_bits = geometry.slice_span().ilog2();
        let slice_bytes = geometry.slice_bytes() as u64;
        let wanted = geometry.virtual_size().div_ceil(geometry.slice_span());
        let first = Sets::new(wanted, budget, slice_bytes);
        Self { first, larger: OnceLock::new(), span_bits, slice_bytes, budget }
    }

    /// Bytes that all slices of so many bytes of tables take.
    pub(super) fn bytes_for(geometry: &Geometry, tables: u64) -> u64 {
        let slice_bytes = geometry.slice_bytes() as u64;
        tables.div_ceil(slice_bytes).saturating_mul(slice_bytes + OVERHEAD)
    }

    /// The disk is `size` bytes long now. Where that takes more room than there is, all slices are read again.
    pub(super) fn cover(&self, size: u64) {
        let wanted = size.div_ceil(1 << self.span_bits);
        if wanted <= self.first.ways.len() as u64 || self.larger.get().is_some() {
            return;
        }
        let larger = Sets::new(u64::MAX, self.budget, self.slice_bytes);
        if larger.ways.len() > self.first.ways.len() && self.larger.set(larger).is_ok() {
            let _alone = self.first.hands();
            for way in &self.first.ways {
                way.clear();
            }
        }
    }

    /// What `ask` says of the slice at `address`, if it is here.
    #[inline]
    pub(super) fn find<T>(&self, address: SliceAddress, ask: impl FnOnce(&L2Slice) -> T) -> Option<T> {
        let number = self.number(address);
        let way =
            self.sets().set(number).1.iter().find(|way| way.key.load(Ordering::Acquire) == number + 1)?;
        let slice = way.slice.load();
        let slice = slice.as_ref().filter(|slice| slice.address() == address)?;
        // Reading is cheap where all have it; writing takes the line from the other threads.
        if !way.used.load(Ordering::Relaxed) {
            way.used.store(true, Ordering::Relaxed);
        }
        Some(ask(slice))
    }

    /// The slice at `address`, if it is here.
    pub(super) fn get(&self, address: SliceAddress) -> Option<Arc<L2Slice>> {
        let number = self.number(address);
        let way =
            self.sets().set(number).1.iter().find(|way| way.key.load(Ordering::Acquire) == number + 1)?;
        way.slice.load_full().filter(|slice| slice.address() == address)
    }

    /// Keeps a slice, in place of one that was not used lately.
    pub(super) fn keep(&self, slice: Arc<L2Slice>) {
        let number = self.number(slice.address());
        let sets = self.sets();
        let (set, ways) = sets.set(number);
        let mut hands = sets.hands();
        let same = ways.iter().find(|way| way.key.load(Ordering::Relaxed) == number + 1);
        let way = same.unwrap_or_else(|| victim(ways, &mut hands[set]));
        way.key.store(0, Ordering::Release);
        way.used.store(true, Ordering::Relaxed);
        way.slice.store(Some(slice));
        way.key.store(number + 1, Ordering::Release);
    }

    /// Drops the slice at `address`, if it is here.
    pub(super) fn forget(&self, address: SliceAddress) {
        let number = self.number(address);
        let sets = self.sets();
        let _alone = sets.hands();
        let same = |way: &&Way| way.key.load(Ordering::Acquire) == number + 1;
        if let Some(way) = sets.set(number).1.iter().find(same)
            && way.slice.load().as_ref().is_some_and(|slice| slice.address() == address)
        {
            way.clear();
        }
    }

    /// Drops all slices.
    pub(super) fn forget_all(&self) {
        let sets = self.sets();
        let _alone = sets.hands();
        sets.ways.iter().for_each(Way::clear);
    }

    /// Drops the slices that nobody has found since this was last called.
    pub(super) fn drop_unused(&self) {
        let sets = self.sets();
        let _alone = sets.hands();
        for way in &sets.ways {
            if way.key.load(Ordering::Relaxed) != 0 && !way.used.swap(false, Ordering::Relaxed) {
                way.clear();
            }
        }
    }

    fn number(&self, address: SliceAddress) -> u64 {
        address.first_guest >> self.span_bits
    }

    #[inline]
    fn sets(&self) -> &Sets {
        self.larger.get().unwrap_or(&self.first)
    }

    #[cfg(test)]
    fn memory(&self) -> u64 {
        let all: Vec<_> = [Some(&self.first), self.larger.get()].into_iter().flatten().collect();
        let slices = all.iter().flat_map(|sets| &sets.ways).filter_map(|way| way.slice.load_full());
        let held: usize = slices.map(|slice| slice.memory() + 2 * size_of::<usize>()).sum();
        let ways: u64 = all.iter().map(|sets| size_of_val(&*sets.ways) as u64 + sets.count).sum();
        held as u64 + ways
    }
}

impl Sets {
    /// For `wanted` slices of `slice_bytes`, in `budget` bytes.
    fn new(wanted: u64, budget: u64, slice_bytes: u64) -> Self {
        let allowed = (budget / (slice_bytes + OVERHEAD)).clamp(FEWEST, MOST);
        let per_set = allowed.min(WAYS);
        let count = wanted.div_ceil(per_set).min(allowed / per_set).max(1);
        let ways = (0..count * per_set).map(|_| Way::default()).collect();
        Self { ways, hands: Mutex::new(vec![0; count as usize].into()), count, per_set: per_set as usize }
    }

    fn hands(&self) -> MutexGuard<'_, Box<[u8]>> {
        // The hands are whole at any point.
        self.hands.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The set that a slice belongs to: which one, and its ways.
    #[inline]
    fn set(&self, number: u64) -> (usize, &[Way]) {
        let set = (number % self.count) as usize;
        (set, &self.ways[set * self.per_set..][..self.per_set])
    }
}

impl Way {
    fn clear(&self) {
        self.key.store(0, Ordering::Release);
        self.slice.store(None);
    }
}

/// The way that is free, or whose slice goes: the first from the hand on that was not used since it last passed.
fn victim<'a>(ways: &'a [Way], hand: &mut u8) -> &'a Way {
    if let Some(free) = ways.iter().find(|way| way.key.load(Ordering::Relaxed) == 0) {
        return free;
    }
    loop {
        let way = &ways[usize::from(*hand)];
        *hand = (*hand + 1) % ways.len() as u8;
        if !way.used.swap(false, Ordering::Relaxed) {
            return way;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use qcow2::{Header, HostOffset};

    const SPAN: u64 = 512 << 16;

    /// An image of `size` bytes with clusters of 64 KiB.
    fn geometry(size: u64) -> Geometry {
        let mut header = [0; 512];
        header[..4].copy_from_slice(b"QFI\xfb");
        let words: [(usize, u32); 8] = [
            (4, 2),
            (20, 16),
            (24, (size >> 32) as u32),
            (28, size as u32),
            (36, 1 << 20),
            (44, 1 << 16),
            (52, 2 << 16),
            (56, 1),
        ];
        for (at, value) in words {
            header[at..at + 4].copy_from_slice(&value.to_be_bytes());
        }
        Geometry::new(&Header::parse(&header).unwrap())
    }

    fn address(number: u64) -> SliceAddress {
        SliceAddress { host: HostOffset(number << 16), first_guest: number * SPAN }
    }

    fn slice(geometry: &Geometry, number: u64) -> Arc<L2Slice> {
        Arc::new(L2Slice::parse(geometry, address(number), &[0; 4096]).unwrap())
    }

    #[test]
    fn all_slices_stay_where_there_is_room_and_no_more_than_the_budget_where_there_is_not() {
        let geometry = geometry(1000 * SPAN);
        for budget in [0, 1, 4096, 10_000, 40_000, 1 << 20, 3 << 20, 32 << 20, u64::MAX] {
            let slices = Slices::new(&geometry, budget);
            for number in 0..1000 {
                slices.keep(slice(&geometry, number));
                assert!(slices.find(address(number), |s| s.address() == address(number)).unwrap());
            }
            let least = 2 * (4096 + OVERHEAD);
            assert!(slices.memory() <= budget.max(least), "{budget}: {}", slices.memory());
            let kept = (0..1000).filter(|n| slices.find(address(*n), |_| ()).is_some()).count() as u64;
            let fits = (budget / (4096 + OVERHEAD)).clamp(2, 1000);
            assert!(kept >= fits - fits % WAYS.min(fits), "{budget}: {kept} of {fits}");
        }
    }

    #[test]
    fn a_fresh_slice_outlives_the_rest_of_its_set() {
        let geometry = geometry(1000 * SPAN);
        let slices = Slices::new(&geometry, 8 * (4096 + OVERHEAD));
        for number in 0..500 {
            slices.keep(slice(&geometry, number));
            // Others may be looked at as they like meanwhile.
            for other in (0..number).rev().take(5) {
                slices.find(address(other), |_| ());
            }
            for later in 0..6 {
                slices.keep(slice(&geometry, 500 + later));
                assert!(slices.find(address(number), |_| ()).is_some(), "{number} after {later}");
            }
        }
    }

    #[test]
    fn a_disk_that_has_grown_has_room_for_its_slices() {
        let budget = 100 * (4096 + OVERHEAD);
        let slices = Slices::new(&geometry(2 * SPAN), budget);
        let larger = geometry(1000 * SPAN);
        slices.keep(slice(&larger, 1));
        slices.cover(1000 * SPAN);
        slices.cover(1001 * SPAN);
        for number in 0..96 {
            slices.keep(slice(&larger, number));
        }
        assert!((0..96).all(|number| slices.find(address(number), |_| ()).is_some()));
        (96..1000).for_each(|number| slices.keep(slice(&larger, number)));
        assert!(slices.memory() <= budget, "{}", slices.memory());
    }

    #[test]
    fn what_nobody_looks_at_goes_with_the_second_look_around() {
        let geometry = geometry(1000 * SPAN);
        let slices = Slices::new(&geometry, 1 << 20);
        (0..8).for_each(|number| slices.keep(slice(&geometry, number)));
        slices.drop_unused();
        assert!(slices.find(address(3), |_| ()).is_some());
        slices.drop_unused();
        let left: Vec<_> = (0..8).filter(|number| slices.get(address(*number)).is_some()).collect();
        assert_eq!(left, [3]);
        slices.drop_unused();
        assert!(slices.get(address(3)).is_none());
    }

    #[test]
    fn the_same_guest_bytes_in_another_table_are_another_slice() {
        let geometry = geometry(4 * SPAN);
        let slices = Slices::new(&geometry, 1 << 20);
        slices.keep(slice(&geometry, 3));
        let moved = SliceAddress { host: HostOffset(77 << 16), ..address(3) };
        assert!(slices.find(moved, |_| ()).is_none());
        slices.keep(Arc::new(L2Slice::parse(&geometry, moved, &[0; 4096]).unwrap()));
        assert!(slices.find(moved, |_| ()).is_some() && slices.find(address(3), |_| ()).is_none());
        slices.forget(address(3));
        assert!(slices.find(moved, |_| ()).is_some(), "that one was gone already");
        slices.forget(moved);
        assert!(slices.find(moved, |_| ()).is_none());
    }

    #[test]
    fn threads_that_load_and_look_see_whole_slices_and_get_on() {
        let geometry = geometry(1000 * SPAN);
        let slices = Slices::new(&geometry, 0);
        std::thread::scope(|scope| {
            for thread in 0..4 {
                let (slices, geometry) = (&slices, &geometry);
                scope.spawn(move || {
                    for turn in 0..20_000u64 {
                        let number = (turn * 7 + thread * 13) % 5;
                        while slices
                            .find(address(number), |s| assert_eq!(s.address(), address(number)))
                            .is_none()
                        {
                            slices.keep(slice(geometry, number));
                        }
                    }
                });
            }
        });
    }
}
