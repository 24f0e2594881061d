//! Refcount blocks: how many references each host cluster has.
//!
//! A block is one cluster of counters of 1 to 64 bits each. Counters of less than a byte lie in it from the least
//! significant bit up.

use std::ops::Range;

use block::{BlockError, ErrorKind};

/// The counters of as many host clusters as fit one.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct RefcountBlock {
    bytes: Box<[u8]>,
    /// Width of a counter in bits.
    bits: u32,
}

impl RefcountBlock {
    /// The block from its bytes as stored, a cluster; counters have `bits` bits, as
    /// [`crate::RefcountTable::bits`] says. `Invalid` for other numbers.
    pub fn parse(bytes: &[u8], bits: u32) -> Result<Self, BlockError> {
        if !bits.is_power_of_two() || bits > 64 || !bytes.len().is_power_of_two() || bytes.len() < 512 {
            let context = format!("refcounts of {bits} bits in a block of {} bytes", bytes.len());
            return Err(BlockError::new(ErrorKind::Invalid, context));
        }
        Ok(Self { bytes: bytes.into(), bits })
    }

    /// Number of counters.
    pub fn len(&self) -> u64 {
        self.bytes.len() as u64 * 8 / u64::from(self.bits)
    }

    /// Never: a block has counters.
    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// Largest count.
    pub fn most(&self) -> u64 {
        u64::MAX >> (64 - self.bits)
    }

    /// The bytes as they are to be stored.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// The counter of the cluster at `index`, below [`RefcountBlock::len`]; 0 beyond.
    pub fn get(&self, index: u64) -> u64 {
        let Some(bytes) = self.bytes.get(self.place(index)) else { return 0 };
        let number = bytes.iter().fold(0, |number, byte| number << 8 | u64::from(*byte));
        number >> self.shift(index) & self.most()
    }

    /// Sets a counter to `count`, at most [`RefcountBlock::most`]; answers which bytes have changed.
    pub fn set(&mut self, index: u64, count: u64) -> Range<usize> {
        let (place, shift, most) = (self.place(index), self.shift(index), self.most());
        let Some(bytes) = self.bytes.get_mut(place.clone()) else { return 0..0 };
        let old = bytes.iter().fold(0, |number, byte| number << 8 | u64::from(*byte));
        let new = old & !(most << shift) | (count & most) << shift;
        let width = bytes.len();
        bytes.copy_from_slice(&new.to_be_bytes()[8 - width..]);
        place
    }

    /// The first run of counters from `from` on that are zero: at most `longest` of them, none at or beyond the end.
    pub fn free_run(&self, from: u64, longest: u64) -> Option<Range<u64>> {
        let start = (from..self.len()).find(|index| self.get(*index) == 0)?;
        let most = self.len().min(start.saturating_add(longest));
        let end = (start..most).find(|index| self.get(*index) != 0);
        Some(start..end.unwrap_or(most))
    }

    /// The bytes that hold a counter: itself, or the byte that it lies in.
    fn place(&self, index: u64) -> Range<usize> {
        let width = (self.bits / 8).max(1) as usize;
        // Beyond the end for an index beyond the end: nothing is found there.
        let at = usize::try_from(index.saturating_mul(u64::from(self.bits)) / 8).unwrap_or(usize::MAX - 8);
        at..at + width
    }

    fn shift(&self, index: u64) -> u32 {
        if self.bits >= 8 { 0 } else { (index % u64::from(8 / self.bits)) as u32 * self.bits }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_of_all_widths_keep_to_themselves() {
        for bits in [1, 2, 4, 8, 16, 32, 64] {
            let mut block = RefcountBlock::parse(&[0; 512], bits).expect("good");
            assert_eq!(block.len(), 4096 / u64::from(bits));
            let mut model = vec![0; block.len() as usize];
            let mut x = 1u64;
            for _ in 0..2000 {
                x = x.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
                let (index, count) = (x >> 33 & (block.len() - 1), x.rotate_left(17) & block.most());
                let changed = block.set(index, count);
                assert!(changed.contains(&((index * u64::from(bits) / 8) as usize)));
                model[index as usize] = count;
            }
            let found: Vec<_> = (0..block.len()).map(|index| block.get(index)).collect();
            assert_eq!(found, model, "{bits} bits");
            assert_eq!(block.set(block.len(), 1), 0..0);
        }
        assert!(RefcountBlock::parse(&[0; 512], 3).is_err() && RefcountBlock::parse(&[0; 500], 16).is_err());
    }

    #[test]
    fn sixteen_bits_are_big_endian_and_small_ones_begin_low() {
        let mut block = RefcountBlock::parse(&[0; 512], 16).expect("good");
        block.set(1, 0x102);
        assert_eq!(block.bytes()[..4], [0, 0, 1, 2]);
        let mut block = RefcountBlock::parse(&[0; 512], 1).expect("good");
        block.set(0, 1);
        block.set(9, 1);
        assert_eq!(block.bytes()[..2], [1, 2]);
    }

    #[test]
    fn runs_of_free_clusters() {
        let mut block = RefcountBlock::parse(&[0; 512], 16).expect("good");
        for taken in [0, 1, 5, 255] {
            block.set(taken, 1);
        }
        assert_eq!(block.free_run(0, 100), Some(2..5));
        assert_eq!(block.free_run(3, 1), Some(3..4));
        assert_eq!(block.free_run(5, 1000), Some(6..255));
        assert_eq!(block.free_run(255, 1), None);
        assert_eq!(block.free_run(256, 1), None);
    }
}
