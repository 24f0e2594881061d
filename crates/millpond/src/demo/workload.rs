//! What the readers read before the cache is full: like guests, here and there, and at first what nobody has read.
//!
//! Invariants: the same image gives the same workload; no granule is in two lists, but all readers share the burst; no
//! list is empty.

use block::ByteRange;

use super::source::Source;

/// Granules with data, and without, that every reader begins with.
const BURST: usize = 16;
/// Cold reads of each reader.
const READS_MAX: usize = 200;
/// Bytes of a cold read.
const READ: u64 = 4096;

/// Lists of reads.
pub(super) struct Workload {
    /// What all readers read at the same time, holes among it.
    pub(super) burst: Vec<ByteRange>,
    /// Cold reads of each reader while the fill runs, which comes from the front: in the back half, the last of it
    /// first.
    pub(super) during: Vec<Vec<ByteRange>>,
}

impl Workload {
    /// A workload for so many readers.
    pub(super) fn new(source: &Source, readers: usize) -> Self {
        let mut dice = Dice(0x6d69_6c6c_706f_6e64);
        let (granules, mut holes) = (source.granules(), source.holes());
        dice.shuffle(&mut holes);
        let shared = BURST.min(granules.len().div_ceil(4));
        let mut burst: Vec<_> = granules[..shared].to_vec();
        burst.extend(holes.into_iter().take(BURST));
        // The fill comes from the front: what is read meanwhile lies in the back half, the last of it first.
        let back = &granules[shared..];
        let mut back = back[back.len() / 2..].to_vec();
        let reads = (back.len() / (2 * readers)).min(READS_MAX);
        dice.shuffle(&mut back);
        back.truncate(reads * readers);
        back.sort_by_key(|granule| std::cmp::Reverse(granule.start()));
        let burst: Vec<_> = burst.into_iter().map(|granule| granule.head(READ)).collect();
        let mut during = deal(&back, readers, &mut dice);
        // An image too small to have something for everybody.
        during.iter_mut().filter(|list| list.is_empty()).for_each(|list| list.clone_from(&burst));
        Self { burst, during }
    }
}

/// A read somewhere in each granule, dealt out to the readers.
fn deal(granules: &[ByteRange], readers: usize, dice: &mut Dice) -> Vec<Vec<ByteRange>> {
    let mut hands = vec![Vec::new(); readers];
    for (number, granule) in granules.iter().enumerate() {
        let at = dice.below(granule.len().div_ceil(READ)) * READ;
        hands[number % readers].push(granule.skip(at).head(READ));
    }
    hands
}

/// Numbers that look random and are the same each time (splitmix64).
struct Dice(u64);

impl Dice {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, end: u64) -> u64 {
        self.next() % end.max(1)
    }

    fn shuffle<T>(&mut self, list: &mut [T]) {
        for last in (1..list.len()).rev() {
            let other = self.below(last as u64 + 1) as usize;
            list.swap(last, other);
        }
    }
}
