//! Look-ups that pretend their table is not in memory, from a seed.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// Decides which look-ups miss.
pub(super) struct Misses {
    /// Draws below it miss; 0: none.
    threshold: u64,
    state: AtomicU64,
}

impl Misses {
    pub(super) fn never() -> Self {
        Self::new(0.0, 0)
    }

    /// `probability` lies in 0..1.
    pub(super) fn new(probability: f64, seed: u64) -> Self {
        // Saturates; what is lost to rounding does not matter here.
        Self { threshold: (probability * u64::MAX as f64) as u64, state: AtomicU64::new(seed) }
    }

    /// Whether this look-up misses.
    #[inline]
    pub(super) fn strikes(&self) -> bool {
        self.threshold > 0 && self.draw() < self.threshold
    }

    /// splitmix64, shared by threads: each draw is a number of the one sequence.
    fn draw(&self) -> u64 {
        const STEP: u64 = 0x9e37_79b9_7f4a_7c15;
        let mut x = self.state.fetch_add(STEP, Relaxed).wrapping_add(STEP);
        x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        x ^ (x >> 31)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strikes_as_often_as_asked() {
        let count = |p| {
            let misses = Misses::new(p, 7);
            (0..10_000).filter(|_| misses.strikes()).count()
        };
        assert_eq!(count(0.0), 0);
        assert!((2_300..2_700).contains(&count(0.25)), "{}", count(0.25));
    }
}
