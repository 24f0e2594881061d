//! Dice: a small generator (SplitMix64) whose streams can be forked, so that one part of the world drawing
//! more often does not change what another part draws.

use std::ops::RangeInclusive;
use std::time::Duration;

/// A stream of random numbers that the seed decides.
#[derive(Clone, Debug)]
pub struct Rng(u64);

impl Rng {
    /// The stream of `seed`.
    pub const fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// Another stream, independent of what is drawn from this one afterwards.
    #[must_use]
    pub fn fork(&mut self) -> Self {
        Self(mix(self.u64()))
    }

    /// 64 random bits.
    pub fn u64(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        mix(self.0)
    }

    /// A number below `bound`; 0 when `bound` is 0.
    pub fn below(&mut self, bound: u64) -> u64 {
        // The high half of a widening product: the bias of 2^-64 per value does not matter here.
        u64::try_from((u128::from(self.u64()) * u128::from(bound)) >> 64).unwrap_or(0)
    }

    /// An index below `len`; 0 when `len` is 0.
    pub fn index(&mut self, len: usize) -> usize {
        // Below `len`, so it fits.
        self.below(len as u64) as usize
    }

    /// True with probability `p` (0.0 never, 1.0 always).
    pub fn chance(&mut self, p: f64) -> bool {
        // Always draws, so that the stream does not depend on `p`.
        ((self.u64() >> 11) as f64) < p * (1u64 << 53) as f64
    }

    /// A span within `range`, to the nanosecond.
    pub fn span(&mut self, range: &RangeInclusive<Duration>) -> Duration {
        let width = range.end().saturating_sub(*range.start());
        let nanos = u64::try_from(width.as_nanos()).unwrap_or(u64::MAX);
        *range.start() + Duration::from_nanos(self.below(nanos.saturating_add(1)))
    }

    /// Fills `bytes`.
    pub fn fill(&mut self, bytes: &mut [u8]) {
        for piece in bytes.chunks_mut(8) {
            piece.copy_from_slice(&self.u64().to_le_bytes()[..piece.len()]);
        }
    }

    /// Puts `items` in random order.
    pub fn shuffle<T>(&mut self, items: &mut [T]) {
        for last in (1..items.len()).rev() {
            items.swap(last, self.index(last + 1));
        }
    }
}

/// A bijection of 64 bits in which each bit depends on all.
pub(crate) const fn mix(mut x: u64) -> u64 {
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn draws_are_in_range_and_repeat() {
        let (mut a, mut b) = (Rng::new(7), Rng::new(7));
        let mut seen = [0u32; 10];
        for _ in 0..1000 {
            seen[a.index(10)] += 1;
            assert_eq!(b.below(10) < 10, b.below(0) == 0);
            b = a.clone();
        }
        assert!(seen.iter().all(|n| (50..200).contains(n)), "{seen:?}");
        assert!(!a.chance(0.0) && a.chance(1.0));
    }

    #[test]
    fn shuffles_keep_every_item() {
        let mut items: Vec<u32> = (0..100).collect();
        Rng::new(3).shuffle(&mut items);
        assert!(items.iter().enumerate().any(|(at, item)| at as u32 != *item));
        items.sort_unstable();
        assert!(items.iter().enumerate().all(|(at, item)| at as u32 == *item));
    }
}
