//! Offsets in the image file, apart from offsets in the virtual disk.

use std::fmt;

/// An offset in the image file, in bytes. Offsets in the virtual disk are plain `u64` or
/// [`block::ByteRange`], as everywhere on the data path.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug, Default)]
pub struct HostOffset(pub u64);

impl HostOffset {
    /// Whether it is a multiple of `1 << bits`.
    pub(crate) const fn is_aligned(self, bits: u32) -> bool {
        self.0 & ((1 << bits) - 1) == 0
    }
}

impl fmt::Display for HostOffset {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "host offset {:#x}", self.0)
    }
}
