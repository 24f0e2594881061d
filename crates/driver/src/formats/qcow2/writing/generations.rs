//! A generation for each 2 MiB of the disk, by which remembered mappings notice that they are old.
//!
//! Invariant: memory is bounded: of very large disks regions share generations, which costs look-ups and no more.

use std::sync::atomic::{AtomicU32, Ordering::SeqCst};

use block::{Alignment, ByteRange};

/// What shares a generation at the least, in bytes.
const REGION: u64 = 2 << 20;
/// Most generations: 4 MiB of memory.
const MOST: u64 = 1 << 20;

/// The generations of one image.
pub(crate) struct Generations(Box<[AtomicU32]>);

impl Generations {
    /// For a disk of `size` bytes.
    pub(crate) fn new(size: u64) -> Self {
        let wanted = size.div_ceil(REGION).clamp(1, MOST);
        Self((0..wanted).map(|_| AtomicU32::new(0)).collect())
    }

    /// That of the region around `offset`.
    pub(crate) fn of(&self, offset: u64) -> &AtomicU32 {
        &self.0[(offset / REGION % self.0.len() as u64) as usize]
    }

    /// Tells all who remember mappings.
    pub(crate) fn bump_all(&self) {
        self.0.iter().for_each(|generation| _ = generation.fetch_add(1, SeqCst));
    }

    /// Tells those who remember mappings of `range` that they are old.
    pub(crate) fn bump(&self, range: ByteRange) {
        let regions = Alignment::new(REGION).unwrap_or_default().around(range);
        let count = (regions.len() / REGION).min(self.0.len() as u64);
        for at in 0..count {
            self.of(regions.start() + at * REGION).fetch_add(1, SeqCst);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn regions_of_a_change_are_bumped() {
        let generations = Generations::new(7 << 20);
        generations.bump(ByteRange::new(REGION - 1, 2));
        let seen: Vec<_> = (0..4).map(|at| generations.of(at * REGION + 7).load(SeqCst)).collect();
        assert_eq!(seen, [1, 1, 0, 0]);
        let huge = Generations::new(1 << 60);
        huge.bump(ByteRange::new(0, 1 << 60));
        assert_eq!(huge.of(77 << 40).load(SeqCst), 1);
    }
}
