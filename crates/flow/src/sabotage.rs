//! Breaking one rule of the contract on purpose, so that the tests for it can be shown to fail.
//!
//! Compiled in only with the feature `sabotage`, which nothing but tests turns on; without it
//! [`broken`] is a constant `false` and costs nothing.

/// A rule of the data path.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum Rule {
    /// A freed cluster is reused only when older guards are gone.
    Guards = 1,
    /// A remembered mapping is used only while the generations on its path are unchanged.
    Generations = 2,
    /// Stores, zeroing and read-modify-write hold their range.
    RangeLocks = 4,
    /// Bytes are lent only where they can neither change nor be reused.
    Lending = 8,
}

#[cfg(feature = "sabotage")]
mod switch {
    use std::sync::atomic::{AtomicU8, Ordering};

    static BROKEN: AtomicU8 = AtomicU8::new(0);

    /// Breaks `rule` in this process from now on.
    pub fn break_rule(rule: super::Rule) {
        BROKEN.fetch_or(rule as u8, Ordering::SeqCst);
    }

    /// Whether `rule` is broken on purpose.
    pub fn broken(rule: super::Rule) -> bool {
        BROKEN.load(Ordering::Relaxed) & rule as u8 != 0
    }
}

#[cfg(not(feature = "sabotage"))]
mod switch {
    /// Whether `rule` is broken on purpose: never, in this build.
    #[inline(always)]
    pub const fn broken(_rule: super::Rule) -> bool {
        false
    }
}

pub use switch::*;
