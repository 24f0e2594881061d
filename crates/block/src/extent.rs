//! What a client is told about a run of bytes (`NBD block status`, `qemu-img map`).

use crate::ByteRange;

/// State of an extent, as NBD's base:allocation knows it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, PartialOrd, Ord)]
pub enum ExtentState {
    /// Allocated; may hold anything.
    Data,
    /// Allocated and known to read as zeros.
    AllocatedZero,
    /// Not allocated anywhere; reads as zeros.
    Hole,
}

impl ExtentState {
    /// Whether it is known to read as zeros.
    pub const fn reads_zero(self) -> bool {
        !matches!(self, Self::Data)
    }
}

/// A run of bytes that share a state.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Extent {
    /// Where.
    pub range: ByteRange,
    /// What can be said of it.
    pub state: ExtentState,
}

/// Appends `extent`, merged with the last one when it continues it in the same state.
pub fn push_extent(extents: &mut Vec<Extent>, extent: Extent) {
    match extents.last_mut() {
        _ if extent.range.is_empty() => {}
        Some(last) if last.state == extent.state && last.range.end() == extent.range.start() => {
            last.range = ByteRange::between(last.range.start(), extent.range.end());
        }
        _ => extents.push(extent),
    }
}
