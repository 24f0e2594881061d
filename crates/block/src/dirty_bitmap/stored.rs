//! Bitmaps as bytes: bit `n` is bit `n % 8` of byte `n / 8`, as images store them.

use super::{Chunk, DirtyBitmap, WORD};

/// Bytes of a word.
const WORD_BYTES: usize = 8;

/// A part of a bitmap as bytes.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum BitmapPart {
    /// All bits are clear.
    Clean,
    /// All bits are set; none is behind the end of the bitmap.
    Dirty,
    /// These bytes; zeros behind the end of the bitmap.
    Bytes(Vec<u8>),
}

impl DirtyBitmap {
    /// Bytes of the whole bitmap.
    pub fn stored_len(&self) -> u64 {
        self.bits().div_ceil(8)
    }

    /// The `len` bytes from byte `start` on; both are multiples of 64.
    pub fn stored(&self, start: u64, len: usize) -> BitmapPart {
        let (first, end) = (start * 8, (start + len as u64) * 8);
        match self.find(first, true) {
            Some(bit) if bit < end => {}
            _ => return BitmapPart::Clean,
        }
        if end <= self.bits() && self.find(first, false).is_none_or(|bit| bit >= end) {
            return BitmapPart::Dirty;
        }
        let mut bytes = vec![0; len];
        for (number, word) in bytes.as_chunks_mut::<WORD_BYTES>().0.iter_mut().enumerate() {
            *word = self.word(first / WORD + number as u64).to_le_bytes();
        }
        BitmapPart::Bytes(bytes)
    }

    /// Marks as dirty what `bytes`, which are stored at byte `start` (a multiple of 64), say; bits beyond the end are
    /// left out.
    pub fn load(&mut self, start: u64, bytes: &[u8]) {
        let first = start * 8;
        for (at, word) in words(bytes).enumerate() {
            let bit = first + at as u64 * WORD;
            if bit >= self.bits() {
                break;
            }
            let word = word & super::mask(0..(self.bits() - bit).min(WORD));
            if word != 0 {
                let number = bit / self.chunk_bits;
                let (all, count) = (self.bits_of(number), (self.chunk_bits / WORD) as usize);
                let chunk = &mut self.chunks[number as usize];
                if *chunk != Chunk::Dirty {
                    chunk.words(all, count)[(bit % self.chunk_bits / WORD) as usize] |= word;
                }
            }
        }
        let end = (first + bytes.len() as u64 * 8).min(self.bits());
        for number in first / self.chunk_bits..end.div_ceil(self.chunk_bits) {
            let all = self.bits_of(number);
            self.chunks[number as usize].settle(all);
        }
    }

    /// Marks as dirty all that the `len` bytes from byte `start` on stand for.
    pub fn load_dirty(&mut self, start: u64, len: u64) {
        let bytes = |bits: u64| bits.saturating_mul(self.granularity()).min(self.size);
        let range = crate::ByteRange::between(bytes(start * 8), bytes((start + len) * 8));
        self.set(range);
    }

    /// The word of that number; 0 behind the end.
    fn word(&self, number: u64) -> u64 {
        let bit = number * WORD;
        let (at, inside) = (bit / self.chunk_bits, bit % self.chunk_bits);
        match self.chunks.get(at as usize) {
            None | Some(Chunk::Clean) => 0,
            Some(Chunk::Dirty) => super::mask(0..self.bits_of(at).saturating_sub(inside).min(WORD)),
            Some(Chunk::Mixed(words)) => words[(inside / WORD) as usize],
        }
    }
}

/// Little-endian words; the last one may be cut.
fn words(bytes: &[u8]) -> impl Iterator<Item = u64> + '_ {
    bytes.chunks(WORD_BYTES).map(|bytes| {
        let mut word = [0; WORD_BYTES];
        word[..bytes.len()].copy_from_slice(bytes);
        u64::from_le_bytes(word)
    })
}
