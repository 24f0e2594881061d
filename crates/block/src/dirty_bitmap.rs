//! Which parts of a disk were changed: a bit for each `granularity` bytes.
//!
//! Bits are kept in chunks, of which those that are all alike take no memory: a bitmap costs what is scattered in it.
//!
//! Invariants: bits beyond the end of the disk are never set; a chunk whose bits are all clear or all set has none of
//! its own, so that the same bits are always the same value; there are at most [`CHUNKS_MAX`] chunks, however large the
//! disk.

use crate::ByteRange;

mod stored;
#[cfg(test)]
mod tests;

pub use stored::BitmapPart;

/// Smallest granularity in bytes.
pub const GRANULARITY_MIN: u64 = 512;
/// Largest granularity in bytes.
pub const GRANULARITY_MAX: u64 = 2 << 30;

/// Most chunks.
const CHUNKS_MAX: u64 = 8192;
/// Fewest words of a chunk.
const WORDS_MIN: u64 = 64;
/// Bits of a word.
const WORD: u64 = u64::BITS as u64;

/// A dirty bitmap in memory.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct DirtyBitmap {
    size: u64,
    granularity_bits: u32,
    /// Bits of a chunk: a power of two.
    chunk_bits: u64,
    chunks: Vec<Chunk>,
}

#[derive(Clone, PartialEq, Eq, Debug)]
enum Chunk {
    Clean,
    Dirty,
    Mixed(Box<[u64]>),
}

impl DirtyBitmap {
    /// A clean bitmap of a disk of `size` bytes; `None` where `granularity` is no power of two from [`GRANULARITY_MIN`]
    /// to [`GRANULARITY_MAX`].
    pub fn new(size: u64, granularity: u64) -> Option<Self> {
        let possible =
            granularity.is_power_of_two() && (GRANULARITY_MIN..=GRANULARITY_MAX).contains(&granularity);
        possible.then(|| {
            let bits = size.div_ceil(granularity);
            let words = bits.div_ceil(WORD).div_ceil(CHUNKS_MAX).next_power_of_two().max(WORDS_MIN);
            let chunk_bits = words * WORD;
            let chunks = vec![Chunk::Clean; bits.div_ceil(chunk_bits) as usize];
            Self { size, granularity_bits: granularity.trailing_zeros(), chunk_bits, chunks }
        })
    }

    /// Bytes of the disk.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Bytes that a bit stands for.
    pub fn granularity(&self) -> u64 {
        1 << self.granularity_bits
    }

    /// Bytes of memory that it takes.
    pub fn memory(&self) -> usize {
        let mixed = self.chunks.iter().filter(|chunk| matches!(chunk, Chunk::Mixed(_))).count();
        self.chunks.len() * size_of::<Chunk>() + mixed * (self.chunk_bits / 8) as usize
    }

    /// Marks all that `range` touches as dirty; what lies beyond the end is left out.
    pub fn set(&mut self, range: ByteRange) {
        self.change(range, true);
    }

    /// Marks all that `range` touches as clean: also what was dirty around it in the same units.
    pub fn reset(&mut self, range: ByteRange) {
        self.change(range, false);
    }

    /// Marks everything as clean.
    pub fn clear(&mut self) {
        self.chunks.fill(Chunk::Clean);
    }

    /// Dirty bytes, in whole units: the last one may reach beyond the end.
    pub fn count(&self) -> u64 {
        let count = |(number, chunk): (usize, &Chunk)| match chunk {
            Chunk::Clean => 0,
            Chunk::Dirty => self.bits_of(number as u64),
            Chunk::Mixed(words) => words.iter().map(|word| u64::from(word.count_ones())).sum(),
        };
        let bits: u64 = self.chunks.iter().enumerate().map(count).sum();
        bits.saturating_mul(self.granularity())
    }

    /// Whether nothing is dirty.
    pub fn is_clean(&self) -> bool {
        self.chunks.iter().all(|chunk| *chunk == Chunk::Clean)
    }

    /// Whether any byte of `range` is dirty.
    pub fn is_dirty(&self, range: ByteRange) -> bool {
        let range = range.intersection(ByteRange::new(0, self.size));
        self.next_dirty(range.start()).is_some_and(|dirty| dirty.overlaps(range))
    }

    /// The first dirty run that ends behind `from`, from there on; it ends with the disk at the latest.
    pub fn next_dirty(&self, from: u64) -> Option<ByteRange> {
        let first = self.find(from >> self.granularity_bits, true)?;
        let end = self.find(first, false).unwrap_or(self.bits());
        let start = (first << self.granularity_bits).max(from);
        let end = end.saturating_mul(self.granularity()).min(self.size);
        (start < end).then_some(ByteRange::between(start, end))
    }

    /// All dirty runs, in order.
    pub fn dirty(&self) -> impl Iterator<Item = ByteRange> + '_ {
        let mut from = 0;
        std::iter::from_fn(move || {
            let run = self.next_dirty(from)?;
            from = run.end();
            Some(run)
        })
    }

    /// Marks as dirty what is dirty in `other`, of whatever granularity.
    pub fn merge(&mut self, other: &Self) {
        other.dirty().for_each(|run| self.set(run));
    }

    /// The disk is `size` bytes long from now on: what is new is clean.
    pub fn resize(&mut self, size: u64) {
        let old = std::mem::replace(self, Self::sized(size, self.granularity_bits));
        self.merge(&old);
    }

    fn sized(size: u64, granularity_bits: u32) -> Self {
        Self::new(size, 1 << granularity_bits).expect("the granularity of a bitmap is a possible one")
    }

    /// Number of bits.
    fn bits(&self) -> u64 {
        self.size.div_ceil(self.granularity())
    }

    /// Number of bits of a chunk that are on the disk.
    fn bits_of(&self, chunk: u64) -> u64 {
        (self.bits() - chunk * self.chunk_bits).min(self.chunk_bits)
    }

    fn change(&mut self, range: ByteRange, dirty: bool) {
        let range = range.intersection(ByteRange::new(0, self.size));
        if range.is_empty() {
            return;
        }
        let (from, to) =
            (range.start() >> self.granularity_bits, ((range.end() - 1) >> self.granularity_bits) + 1);
        for chunk in from / self.chunk_bits..to.div_ceil(self.chunk_bits) {
            let first = chunk * self.chunk_bits;
            let inside = from.max(first) - first..to.min(first + self.chunk_bits) - first;
            self.change_chunk(chunk, inside, dirty);
        }
    }

    /// Changes these bits of a chunk.
    fn change_chunk(&mut self, number: u64, bits: std::ops::Range<u64>, dirty: bool) {
        let (all, words) = (self.bits_of(number), (self.chunk_bits / WORD) as usize);
        let alike = if dirty { Chunk::Dirty } else { Chunk::Clean };
        let chunk = &mut self.chunks[number as usize];
        if *chunk == alike {
            return;
        }
        if bits == (0..all) {
            *chunk = alike;
            return;
        }
        let words = chunk.words(all, words);
        for at in bits.start / WORD..bits.end.div_ceil(WORD) {
            let first = at * WORD;
            let mask = mask(bits.start.max(first) - first..bits.end.min(first + WORD) - first);
            let word = &mut words[at as usize];
            *word = if dirty { *word | mask } else { *word & !mask };
        }
        chunk.settle(all);
    }

    /// The first bit from `from` on that is `dirty` or not; `None` where the disk ends before.
    fn find(&self, from: u64, dirty: bool) -> Option<u64> {
        let (mut at, end) = (from, self.bits());
        while at < end {
            let number = at / self.chunk_bits;
            let first = number * self.chunk_bits;
            let found = match &self.chunks[number as usize] {
                Chunk::Clean => (!dirty).then_some(at - first),
                Chunk::Dirty => dirty.then_some(at - first),
                Chunk::Mixed(words) => find_in(words, at - first, dirty),
            };
            if let Some(bit) = found {
                return Some(first + bit).filter(|bit| *bit < end);
            }
            at = first + self.chunk_bits;
        }
        None
    }
}

impl Chunk {
    /// Its words, of which `bits` bits are on the disk.
    fn words(&mut self, bits: u64, count: usize) -> &mut [u64] {
        if !matches!(self, Self::Mixed(_)) {
            let mut words = vec![0; count].into_boxed_slice();
            if *self == Self::Dirty {
                for (at, word) in words.iter_mut().enumerate() {
                    *word = mask(0..bits.saturating_sub(at as u64 * WORD).min(WORD));
                }
            }
            *self = Self::Mixed(words);
        }
        match self {
            Self::Mixed(words) => words,
            _ => &mut [],
        }
    }

    /// Gives its words up where its `bits` bits are all alike.
    fn settle(&mut self, bits: u64) {
        let Self::Mixed(words) = self else { return };
        let set: u64 = words.iter().map(|word| u64::from(word.count_ones())).sum();
        if set == 0 {
            *self = Self::Clean;
        } else if set == bits {
            *self = Self::Dirty;
        }
    }
}

/// A word in which these bits are set.
fn mask(bits: std::ops::Range<u64>) -> u64 {
    match bits.end.saturating_sub(bits.start) {
        0 => 0,
        count => (u64::MAX >> (WORD - count)) << bits.start,
    }
}

fn find_in(words: &[u64], from: u64, dirty: bool) -> Option<u64> {
    let mut at = from / WORD;
    let mut wanted = u64::MAX << (from % WORD);
    while let Some(word) = words.get(at as usize) {
        let found = if dirty { *word } else { !*word } & wanted;
        if found != 0 {
            return Some(at * WORD + u64::from(found.trailing_zeros()));
        }
        (at, wanted) = (at + 1, u64::MAX);
    }
    None
}
