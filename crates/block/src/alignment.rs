//! Alignments: powers of two.

use crate::ByteRange;

/// A power of two that offsets and lengths must be multiples of, in bytes.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Alignment(u64);

impl Alignment {
    /// Every byte.
    pub const BYTE: Self = Self(1);
    /// The classic sector.
    pub const SECTOR: Self = Self(512);
    /// A page, the strictest that any driver asks for.
    pub const PAGE: Self = Self(4096);

    /// `bytes` as an alignment, or `None` unless it is a power of two.
    pub const fn new(bytes: u64) -> Option<Self> {
        if bytes.is_power_of_two() { Some(Self(bytes)) } else { None }
    }

    /// The alignment in bytes.
    pub const fn bytes(self) -> u64 {
        self.0
    }

    /// Whether `value` is a multiple.
    pub const fn fits(self, value: u64) -> bool {
        value & (self.0 - 1) == 0
    }

    /// Whether both ends of `range` are multiples.
    pub const fn fits_range(self, range: ByteRange) -> bool {
        self.fits(range.start() | range.len())
    }

    /// The largest multiple that is not above `value`.
    pub const fn down(self, value: u64) -> u64 {
        value & !(self.0 - 1)
    }

    /// The smallest multiple that is not below `value`, saturating at the largest multiple.
    pub const fn up(self, value: u64) -> u64 {
        match value.checked_add(self.0 - 1) {
            Some(sum) => self.down(sum),
            None => self.down(u64::MAX),
        }
    }

    /// The smallest aligned range around `range`.
    pub fn around(self, range: ByteRange) -> ByteRange {
        ByteRange::between(self.down(range.start()), self.up(range.end()))
    }

    /// The largest aligned range inside `range`; empty when there is none.
    pub fn inside(self, range: ByteRange) -> ByteRange {
        ByteRange::between(self.up(range.start()), self.down(range.end()))
    }
}

impl Default for Alignment {
    fn default() -> Self {
        Self::BYTE
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rounds_both_ways() {
        let a = Alignment::new(512).unwrap();
        let range = ByteRange::new(100, 1000);
        assert_eq!(a.around(range), ByteRange::new(0, 1536));
        assert_eq!(a.inside(range), ByteRange::new(512, 512));
        assert!(a.inside(ByteRange::new(100, 100)).is_empty());
        assert!(a.fits_range(ByteRange::new(512, 1024)) && !a.fits_range(range));
        assert_eq!(Alignment::new(3), None);
        assert_eq!(a.up(u64::MAX), u64::MAX - 511);
    }
}
