//! Byte ranges, and sets of them.

use std::fmt;

/// A range of bytes `[start, start + len)` of a node or a file.
///
/// Invariant: `start + len` does not overflow `u64`.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct ByteRange {
    start: u64,
    len: u64,
}

impl ByteRange {
    /// The range of `len` bytes from `start`; panics when the end would overflow, so use
    /// [`ByteRange::checked`] for anything that a peer or a file states.
    pub const fn new(start: u64, len: u64) -> Self {
        assert!(start.checked_add(len).is_some(), "byte range overflows");
        Self { start, len }
    }

    /// The range of `len` bytes from `start`, or `None` when its end would overflow.
    pub const fn checked(start: u64, len: u64) -> Option<Self> {
        match start.checked_add(len) {
            Some(_) => Some(Self { start, len }),
            None => None,
        }
    }

    /// The range from `start` up to but excluding `end`; empty when `end <= start`.
    pub const fn between(start: u64, end: u64) -> Self {
        Self { start, len: end.saturating_sub(start) }
    }

    /// First byte.
    pub const fn start(self) -> u64 {
        self.start
    }

    /// Number of bytes.
    pub const fn len(self) -> u64 {
        self.len
    }

    /// One past the last byte.
    pub const fn end(self) -> u64 {
        self.start + self.len
    }

    /// Whether it holds no byte.
    pub const fn is_empty(self) -> bool {
        self.len == 0
    }

    /// Whether every byte of `other` lies inside.
    pub const fn contains(self, other: Self) -> bool {
        self.start <= other.start && other.end() <= self.end()
    }

    /// Whether a byte lies in both; none lies in an empty range.
    pub fn overlaps(self, other: Self) -> bool {
        !self.intersection(other).is_empty()
    }

    /// The bytes that lie in both; empty when there are none.
    pub fn intersection(self, other: Self) -> Self {
        let start = self.start.max(other.start);
        Self::between(start, self.end().min(other.end()))
    }

    /// The first `len` bytes (or all of it when it is shorter).
    pub fn head(self, len: u64) -> Self {
        Self { start: self.start, len: self.len.min(len) }
    }

    /// What is left after the first `len` bytes (empty at the end when it is shorter).
    pub fn skip(self, len: u64) -> Self {
        let len = len.min(self.len);
        Self { start: self.start + len, len: self.len - len }
    }

    /// The same length at another place.
    pub const fn at(self, start: u64) -> Self {
        Self::new(start, self.len)
    }
}

impl fmt::Debug for ByteRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "[{:#x}, {:#x})", self.start, self.end())
    }
}

impl fmt::Display for ByteRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bytes at {}", self.len, self.start)
    }
}

/// A set of bytes as sorted, disjoint, non-adjacent ranges. Small sets only: insertion is linear.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RangeSet {
    ranges: Vec<ByteRange>,
}

impl RangeSet {
    /// The empty set.
    pub const fn new() -> Self {
        Self { ranges: Vec::new() }
    }

    /// Adds every byte of `range`.
    pub fn insert(&mut self, range: ByteRange) {
        if range.is_empty() {
            return;
        }
        let first = self.ranges.partition_point(|r| r.end() < range.start());
        let last = self.ranges.partition_point(|r| r.start() <= range.end());
        let start = self
            .ranges
            .get(first)
            .filter(|_| first < last)
            .map_or(range.start(), |r| r.start().min(range.start()));
        let end = self.ranges[first..last].last().map_or(range.end(), |r| r.end().max(range.end()));
        self.ranges.splice(first..last, [ByteRange::between(start, end)]);
    }

    /// Removes every byte of `range`.
    pub fn remove(&mut self, range: ByteRange) {
        let old = std::mem::take(&mut self.ranges);
        for r in old {
            for piece in [
                ByteRange::between(r.start(), r.end().min(range.start())),
                ByteRange::between(r.start().max(range.end()), r.end()),
            ] {
                if !piece.is_empty() {
                    self.insert(piece);
                }
            }
        }
    }

    /// Whether every byte of `range` is in the set.
    pub fn covers(&self, range: ByteRange) -> bool {
        range.is_empty() || self.ranges.iter().any(|r| r.contains(range))
    }

    /// The bytes of `range` that are not in the set, in order.
    pub fn gaps(&self, range: ByteRange) -> Vec<ByteRange> {
        let mut gaps = Vec::new();
        let mut at = range.start();
        for r in self.ranges.iter().filter(|r| r.overlaps(range)) {
            gaps.push(ByteRange::between(at, r.start()));
            at = r.end();
        }
        gaps.push(ByteRange::between(at, range.end()));
        gaps.retain(|gap| !gap.is_empty());
        gaps
    }

    /// The ranges in order.
    pub fn iter(&self) -> impl Iterator<Item = ByteRange> + '_ {
        self.ranges.iter().copied()
    }

    /// Number of bytes in the set.
    pub fn bytes(&self) -> u64 {
        self.iter().map(ByteRange::len).sum()
    }

    /// Whether the set holds no byte.
    pub fn is_empty(&self) -> bool {
        self.ranges.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn r(start: u64, end: u64) -> ByteRange {
        ByteRange::between(start, end)
    }

    #[test]
    fn ranges_split_and_meet() {
        let range = r(10, 30);
        assert_eq!(range.head(5), r(10, 15));
        assert_eq!(range.skip(5), r(15, 30));
        assert_eq!(range.skip(50), r(30, 30));
        assert!(range.overlaps(r(29, 31)) && !range.overlaps(r(30, 31)));
        assert!(!range.overlaps(r(20, 20)) && !r(20, 20).overlaps(range));
        assert_eq!(range.intersection(r(0, 12)), r(10, 12));
        assert!(range.intersection(r(40, 50)).is_empty());
        assert_eq!(ByteRange::checked(u64::MAX, 1), None);
    }

    #[test]
    fn sets_agree_with_a_bitmap() {
        // A linear congruential walk over a 64-byte space, against a plain array.
        let (mut set, mut model, mut x) = (RangeSet::new(), [false; 64], 1u64);
        for _ in 0..4000 {
            x = x.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            let (start, len) = ((x >> 33) % 64, (x >> 45) % 12);
            let range = r(start, (start + len).min(64));
            let add = x >> 63 == 0;
            if add {
                set.insert(range)
            } else {
                set.remove(range)
            }
            model[range.start() as usize..range.end() as usize].fill(add);
            assert_eq!(set.bytes(), model.iter().filter(|b| **b).count() as u64);
            let gaps: u64 = set.gaps(r(0, 64)).iter().map(|g| g.len()).sum();
            assert_eq!(gaps, 64 - set.bytes());
            assert!(set.iter().all(|g| model[g.start() as usize..g.end() as usize].iter().all(|b| *b)));
        }
    }
}
