//! Buffers of the path that waits: owned, pooled, splittable, passed and returned by value.
//!
//! Invariants: the bytes are always initialised; the start of a fresh lease is page-aligned; two leases never
//! share a byte; what a lease carries is dropped only when the last operation that used it, or any part that was
//! split off it, has ended.

use std::any::Any;
use std::cell::RefCell;
use std::fmt;
use std::ops::{Deref, DerefMut};
use std::sync::Arc;

use block::Alignment;
use bytes::{Buf, BytesMut};

/// Bytes that each thread keeps for reuse, at most.
const POOL_BYTES_MAX: usize = 8 << 20;
const PAGE: usize = 4096;

thread_local! {
    static POOL: RefCell<Pool> = const { RefCell::new(Pool { free: Vec::new(), bytes: 0 }) };
}

struct Pool {
    free: Vec<BytesMut>,
    bytes: usize,
}

impl Pool {
    fn take(&mut self, len: usize) -> Option<BytesMut> {
        // A buffer that is much too large would pin memory: leave it for a request of its size.
        let fits = |b: &BytesMut| b.capacity() >= len && b.capacity() / 4 <= len;
        let at = self.free.iter().position(fits)?;
        let bytes = self.free.swap_remove(at);
        self.bytes -= bytes.capacity();
        Some(bytes)
    }

    fn give(&mut self, bytes: BytesMut) {
        if self.bytes + bytes.capacity() <= POOL_BYTES_MAX {
            self.bytes += bytes.capacity();
            self.free.push(bytes);
        }
    }
}

/// An owned buffer of a request that waits.
pub struct Lease {
    bytes: BytesMut,
    cargo: Vec<Arc<dyn Any + Send + Sync>>,
}

impl Lease {
    /// A buffer of `len` bytes with arbitrary (initialised) contents, page-aligned.
    pub fn new(len: usize) -> Self {
        let pooled = POOL.with_borrow_mut(|pool| pool.take(len));
        let mut bytes = pooled.unwrap_or_else(|| aligned(len));
        // Within the capacity; only bytes never handed out before need to be written here.
        bytes.resize(len, 0);
        Self { bytes, cargo: Vec::new() }
    }

    /// A buffer of no bytes, without memory: for requests that carry no data.
    pub fn empty() -> Self {
        Self { bytes: BytesMut::new(), cargo: Vec::new() }
    }

    /// A buffer of `len` zero bytes.
    pub fn zeroed(len: usize) -> Self {
        let mut lease = Self::new(len);
        lease.fill(0);
        lease
    }

    /// A buffer that holds a copy of `bytes`.
    pub fn copy_of(bytes: &[u8]) -> Self {
        let mut lease = Self::new(bytes.len());
        lease.copy_from_slice(bytes);
        lease
    }

    /// Splits off the first `len` bytes; both parts carry what this one did.
    #[must_use]
    pub fn split_to(&mut self, len: usize) -> Self {
        Self { bytes: self.bytes.split_to(len), cargo: self.cargo.clone() }
    }

    /// Appends what was split off behind; its cargo comes along. Copies when `tail` is no neighbour.
    pub fn join(&mut self, mut tail: Self) {
        self.cargo.append(&mut tail.cargo);
        self.bytes.unsplit(std::mem::take(&mut tail.bytes));
    }

    /// Lets the buffer carry `thing`: it is dropped when the last part of it is, so not before any I/O on it has
    /// ended.
    pub fn carry(&mut self, thing: impl Any + Send + Sync) {
        self.cargo.push(Arc::new(thing));
    }

    /// Carries all that `other` does: for a copy that is written in its place.
    pub fn carry_along(&mut self, other: &Self) {
        self.cargo.extend_from_slice(&other.cargo);
    }

    /// Drops everything carried by this part: its I/O has ended.
    pub fn unload(&mut self) {
        self.cargo.clear();
    }

    /// Whether the memory starts at a multiple of `alignment`.
    pub fn is_aligned(&self, alignment: Alignment) -> bool {
        alignment.fits(self.bytes.as_ptr() as u64)
    }
}

fn aligned(len: usize) -> BytesMut {
    // Powers of two, so that buffers of nearby sizes serve one another.
    let class = len.next_power_of_two().max(PAGE);
    let mut bytes = BytesMut::zeroed(class + PAGE);
    let pad = bytes.as_ptr().align_offset(PAGE);
    bytes.advance(pad);
    bytes.truncate(class);
    bytes
}

impl Drop for Lease {
    fn drop(&mut self) {
        let bytes = std::mem::take(&mut self.bytes);
        // Pieces and strays are freed; only whole pages go back.
        if bytes.capacity() >= PAGE && bytes.as_ptr().align_offset(PAGE) == 0 {
            // At thread exit the pool may be gone already.
            let _ = POOL.try_with(|pool| pool.borrow_mut().give(bytes));
        }
    }
}

impl Deref for Lease {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        &self.bytes
    }
}

impl DerefMut for Lease {
    fn deref_mut(&mut self) -> &mut [u8] {
        &mut self.bytes
    }
}

impl fmt::Debug for Lease {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Lease({} bytes, {} carried)", self.len(), self.cargo.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn splits_and_joins_in_place() {
        let mut lease = Lease::copy_of(&[1, 2, 3, 4, 5]);
        let at = lease.as_ptr();
        let mut head = lease.split_to(2);
        head[0] = 9;
        head.join(lease);
        assert_eq!((&head[..], head.as_ptr()), (&[9, 2, 3, 4, 5][..], at));
    }

    #[test]
    fn reuses_memory_and_keeps_it_aligned() {
        let first = Lease::new(10_000);
        let at = first.as_ptr();
        assert!(first.is_aligned(Alignment::PAGE));
        drop(first);
        let second = Lease::new(9_000);
        assert_eq!((second.as_ptr(), second.len()), (at, 9_000));
        let third = Lease::new(9_000);
        assert!(third.as_ptr() != at && third.is_aligned(Alignment::PAGE));
    }

    #[test]
    fn cargo_lives_as_long_as_the_lease() {
        let thing = Arc::new(());
        let mut lease = Lease::new(8);
        lease.carry(thing.clone());
        let mut copy = Lease::new(4);
        copy.carry_along(&lease);
        let mut head = lease.split_to(4);
        let middle = head.split_to(2);
        head.unload();
        for part in [lease, copy, head] {
            assert_eq!(Arc::strong_count(&thing), 2);
            drop(part);
        }
        assert_eq!(Arc::strong_count(&thing), 2, "the middle is still out");
        drop(middle);
        assert_eq!(Arc::strong_count(&thing), 1);
    }
}
