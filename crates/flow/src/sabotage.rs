//! Breaking one rule of the contract on purpose, so that the tests for it can be shown to fail.
//!
//! Compiled in only with the feature `sabotage`, which nothing but tests turns on; without it
//! [`broken`] is a constant `false` and costs nothing.

/// A rule of the data path.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u16)]
pub enum Rule {
    /// A freed cluster is reused only when older guards are gone.
    Guards = 1,
    /// A remembered mapping is used only while the generations on its path are unchanged.
    Generations = 2,
    /// Stores, zeroing and read-modify-write hold their range.
    RangeLocks = 4,
    /// Bytes are lent only where they can neither change nor be reused.
    Lending = 8,
    /// Data and refcounts are durable before a table on disk points to them.
    DataBarrier = 16,
    /// A refcount block is durable before a table on disk relies on it.
    RefcountBarrier = 32,
    /// A flush is answered when all that it covers is durable.
    LastBarrier = 64,
    /// A freed cluster is reused only when the table that dropped it is durable.
    DurableDrop = 128,
    /// What a header says of an image's content is durably cleared before the content changes.
    HeaderBarrier = 256,
    /// Data in a file of its own is durable before a table points to it.
    DataFileBarrier = 512,
}

#[cfg(feature = "sabotage")]
mod switch {
    use std::sync::atomic::{AtomicU16, Ordering};

    static BROKEN: AtomicU16 = AtomicU16::new(0);

    /// Breaks `rule` in this process from now on.
    pub fn break_rule(rule: super::Rule) {
        BROKEN.fetch_or(rule as u16, Ordering::SeqCst);
    }

    /// Whether `rule` is broken on purpose.
    pub fn broken(rule: super::Rule) -> bool {
        BROKEN.load(Ordering::Relaxed) & rule as u16 != 0
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
