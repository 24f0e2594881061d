//! Slices of L2 tables: what a driver reads and caches at a time.

use std::sync::atomic::{AtomicU64, Ordering, fence};

use block::{BlockError, ErrorKind};

use crate::big_endian::words;
use crate::{Geometry, HostOffset};

/// Which bytes of the image file a slice is, and which guest bytes it maps. Both are the key of a cache:
/// nothing forbids two L1 entries to name one table.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct SliceAddress {
    /// Where it starts in the image file.
    pub host: HostOffset,
    /// The first guest byte that it maps, a multiple of [`Geometry::slice_span`].
    pub first_guest: u64,
}

/// A slice in memory. Writers change entries while others look: each one is old or new.
#[derive(Debug)]
pub struct L2Slice {
    pub(crate) address: SliceAddress,
    /// Entries in the machine's byte order: one word each, or entry and bitmap with extended L2 entries.
    words: Box<[AtomicU64]>,
    /// Whether entries have two words.
    paired: bool,
    /// Counts changes of pairs: odd in the midst of one, so that those who read meanwhile read again.
    changes: AtomicU64,
}

impl L2Slice {
    /// The slice from its bytes as stored: [`Geometry::slice_bytes`] from `address.host`. `Invalid` for any
    /// other number of bytes. Entries are checked when they are used.
    pub fn parse(geometry: &Geometry, address: SliceAddress, bytes: &[u8]) -> Result<Self, BlockError> {
        if bytes.len() != geometry.slice_bytes() {
            let context =
                format!("an L2 slice of {} bytes was asked of {} bytes", geometry.slice_bytes(), bytes.len());
            return Err(BlockError::new(ErrorKind::Invalid, context));
        }
        let words = words(bytes).map(AtomicU64::new).collect();
        Ok(Self { address, words, paired: geometry.extended, changes: AtomicU64::new(0) })
    }

    /// Where it is.
    pub fn address(&self) -> SliceAddress {
        self.address
    }

    /// Writes it to `bytes` as it is to be stored, each entry whole. What does not fit is left out.
    pub fn store(&self, bytes: &mut [u8]) {
        if self.paired {
            for (index, bytes) in
                bytes.as_chunks_mut::<16>().0.iter_mut().take(self.words.len() / 2).enumerate()
            {
                let (entry, bitmap) = self.pair(index);
                *bytes = (u128::from(entry) << 64 | u128::from(bitmap)).to_be_bytes();
            }
            return;
        }
        for (word, bytes) in self.words.iter().zip(bytes.as_chunks_mut().0) {
            *bytes = word.load(Ordering::SeqCst).to_be_bytes();
        }
    }

    /// Bytes of memory that it takes.
    pub fn memory(&self) -> usize {
        size_of::<Self>() + size_of_val(&*self.words)
    }

    #[inline]
    pub(crate) fn word(&self, at: usize) -> u64 {
        self.words[at].load(Ordering::Acquire)
    }

    /// Entry and bitmap of the same moment.
    #[inline]
    pub(crate) fn pair(&self, index: usize) -> (u64, u64) {
        loop {
            let before = self.changes.load(Ordering::Acquire);
            let pair = (self.word(2 * index), self.word(2 * index + 1));
            fence(Ordering::Acquire);
            if before & 1 == 0 && self.changes.load(Ordering::Relaxed) == before {
                return pair;
            }
            // Two stores of another thread are under way.
            std::hint::spin_loop();
        }
    }

    /// Changes an entry of one word.
    pub(crate) fn set_word(&self, index: usize, entry: u64) {
        self.words[index].store(entry, Ordering::SeqCst);
    }

    /// Changes an entry of two words. One writer at a time.
    pub(crate) fn set_pair(&self, index: usize, entry: u64, bitmap: u64) {
        let before = self.changes.load(Ordering::Relaxed);
        self.changes.store(before + 1, Ordering::Relaxed);
        fence(Ordering::Release);
        self.words[2 * index].store(entry, Ordering::Relaxed);
        self.words[2 * index + 1].store(bitmap, Ordering::Relaxed);
        self.changes.store(before + 2, Ordering::Release);
    }
}
