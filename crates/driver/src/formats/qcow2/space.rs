//! Which clusters of the image file are whose: what counts them, what claims them, what holds the image's own
//! structures, and what was dropped and is not free yet.
//!
//! No I/O here, and nothing of guests: who needs room asks, and what has to be loaded or written is an answer.

pub(super) mod claims;
pub(super) mod freed;
pub(super) mod refcounts;
pub(super) mod structures;

/// A run of clusters: its first, and how many.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Run {
    pub(crate) first: u64,
    pub(crate) count: u64,
}
