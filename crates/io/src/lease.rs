//! Buffers of the path that waits: owned, pooled, splittable, passed and returned by value.
//!
//! Invariants: the bytes are always initialised; the start of a fresh lease is page-aligned; two leases never
//! share a byte; what a lease carries is dropped only when the last operation that used it, or any part that was
//! split off it, has ended. Buffers are kept for reuse only whole, so that what the pools hold is what they count.

use std::any::Any;
use std::cell::RefCell;
use std::fmt;
use std::ops::{Deref, DerefMut};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use block::Alignment;
use bytes::{Buf, BytesMut};

const PAGE: usize = 4096;

/// Bytes that each thread keeps for reuse, at most.
static POOL_MAX: AtomicUsize = AtomicUsize::new(8 << 20);

/// Bytes in the pools of all threads.
static POOLED: AtomicUsize = AtomicUsize::new(0);

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
        self.bytes -= footprint(&bytes);
        POOLED.fetch_sub(footprint(&bytes), Ordering::Relaxed);
        Some(bytes)
    }

    fn give(&mut self, bytes: BytesMut) {
        if self.bytes + footprint(&bytes) <= POOL_MAX.load(Ordering::Relaxed) {
            self.bytes += footprint(&bytes);
            POOLED.fetch_add(footprint(&bytes), Ordering::Relaxed);
            self.free.push(bytes);
        }
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        POOLED.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

/// Sets how many bytes each thread keeps for reuse at the most: 8 MiB if this is never called. What a pool holds
/// already it keeps until it is used.
pub fn set_pool_max(bytes: usize) {
    POOL_MAX.store(bytes, Ordering::Relaxed);
}

/// Bytes that the pools of all threads keep for reuse.
pub fn pooled() -> usize {
    POOLED.load(Ordering::Relaxed)
}

/// Bytes that the pool of this thread keeps for reuse.
pub fn pooled_here() -> usize {
    POOL.with_borrow(|pool| pool.bytes)
}

/// An owned buffer of a request that waits.
pub struct Lease {
    bytes: BytesMut,
    /// Capacity of the buffer when it was new; 0 of a part that is not its front.
    whole: usize,
    cargo: Vec<Arc<dyn Any + Send + Sync>>,
}

impl Lease {
    /// A buffer of `len` bytes with arbitrary (initialised) contents, page-aligned.
    pub fn new(len: usize) -> Self {
        let pooled = POOL.with_borrow_mut(|pool| pool.take(len));
        let mut bytes = pooled.unwrap_or_else(|| aligned(len));
        // Within the capacity; only bytes never handed out before need to be written here.
        bytes.resize(len, 0);
        Self { whole: bytes.capacity(), bytes, cargo: Vec::new() }
    }

    /// A buffer of no bytes, without memory: for requests that carry no data.
    pub fn empty() -> Self {
        Self { bytes: BytesMut::new(), whole: 0, cargo: Vec::new() }
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
        if len == self.bytes.len() {
            // All of it, with what lies unused behind: else neither would be whole.
            let whole = std::mem::take(&mut self.whole);
            return Self { bytes: std::mem::take(&mut self.bytes), whole, cargo: self.cargo.clone() };
        }
        let whole = std::mem::take(&mut self.whole);
        Self { bytes: self.bytes.split_to(len), whole, cargo: self.cargo.clone() }
    }

    /// Appends what was split off behind; its cargo comes along. Copies when `tail` is no neighbour.
    pub fn join(&mut self, mut tail: Self) {
        self.cargo.append(&mut tail.cargo);
        self.whole = self.whole.max(tail.whole);
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

/// Bytes of memory behind a whole buffer, those in front of its first page included.
fn footprint(bytes: &BytesMut) -> usize {
    let class = 1 << (bytes.capacity() - 1).ilog2();
    class + PAGE
}

impl Drop for Lease {
    fn drop(&mut self) {
        let bytes = std::mem::take(&mut self.bytes);
        // Pieces and strays are freed: a piece would keep all of its buffer from being freed or used.
        if self.whole > 0 && bytes.capacity() == self.whole && bytes.as_ptr().align_offset(PAGE) == 0 {
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
    fn pools_what_it_counts() {
        let before = pooled_here();
        let mut lease = Lease::new(100_000);
        let head = lease.split_to(4096);
        drop(lease);
        drop(head);
        assert_eq!(pooled_here(), before, "neither part is whole");
        let mut lease = Lease::new(100_000);
        let mut head = lease.split_to(0);
        head.join(lease);
        let middle = head.split_to(50_000);
        let mut again = Lease::empty();
        again.join(middle);
        again.join(head);
        drop(again);
        assert_eq!(pooled_here() - before, (128 << 10) + PAGE);
        assert!(pooled() >= pooled_here());
    }

    #[test]
    fn all_of_it_split_off_is_whole() {
        let before = pooled_here();
        let mut rest = Lease::new(100_000);
        let all = rest.split_to(100_000);
        assert_eq!((all.len(), rest.len()), (100_000, 0));
        drop(rest);
        drop(all);
        assert_eq!(pooled_here() - before, (128 << 10) + PAGE);
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
