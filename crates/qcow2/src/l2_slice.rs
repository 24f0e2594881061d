//! Slices of L2 tables: what a driver reads and caches at a time.

use std::sync::atomic::{AtomicU64, Ordering};

use block::{BlockError, ErrorKind};

use crate::big_endian::be64_all;
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
    pub(crate) words: Box<[AtomicU64]>,
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
        Ok(Self { address, words: be64_all(bytes).map(AtomicU64::new).collect() })
    }

    /// Where it is.
    pub fn address(&self) -> SliceAddress {
        self.address
    }

    /// Writes it to `bytes` as it is to be stored. What does not fit is left out.
    pub fn store(&self, bytes: &mut [u8]) {
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
}
