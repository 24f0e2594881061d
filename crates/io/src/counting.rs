//! An allocator that counts, for tests that say what may be allocated and what must be given back.
//!
//! `#[global_allocator] static ALLOCATOR: Counting = Counting;` in a test binary turns it on; else nothing is counted.

#![allow(unsafe_code, reason = "an allocator")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::sync::atomic::{AtomicI64, AtomicU64, AtomicUsize, Ordering};

/// The system's allocator, counting.
#[derive(Debug, Default, Clone, Copy)]
pub struct Counting;

/// Blocks below this size are small. Buffers of requests never are, and come and go with the load; what is kept per
/// node, view, task or connection is made of small ones.
const SMALL: usize = 4096;

static LIVE: AtomicI64 = AtomicI64::new(0);
static SMALL_LIVE: AtomicI64 = AtomicI64::new(0);
static LARGEST: AtomicUsize = AtomicUsize::new(0);
static ASKED: AtomicU64 = AtomicU64::new(0);

thread_local! {
    // Without destructors, so that they can be reached from the first allocation to the last.
    static LIVE_HERE: Cell<i64> = const { Cell::new(0) };
    static PEAK_HERE: Cell<i64> = const { Cell::new(0) };
    static ASKED_HERE: Cell<u64> = const { Cell::new(0) };
}

/// Bytes that the process has allocated and not freed.
pub fn live() -> i64 {
    LIVE.load(Ordering::Relaxed)
}

/// The same of this thread: what it has allocated less what it has freed, whoever allocated it.
pub fn live_here() -> i64 {
    LIVE_HERE.get()
}

/// The most that [`live_here`] has been while `work` was done, above what it was before.
pub fn peak_here<T>(work: impl FnOnce() -> T) -> (T, i64) {
    let before = LIVE_HERE.get();
    PEAK_HERE.set(before);
    let done = work();
    (done, PEAK_HERE.get() - before)
}

/// Bytes in blocks of less than 4096 bytes that the process has allocated and not freed.
pub fn small() -> i64 {
    SMALL_LIVE.load(Ordering::Relaxed)
}

/// How often the process has asked for memory.
pub fn asked() -> u64 {
    ASKED.load(Ordering::Relaxed)
}

/// Bytes of the largest block that the process has ever asked for.
pub fn largest() -> usize {
    LARGEST.load(Ordering::Relaxed)
}

/// How often this thread has asked for memory.
pub fn asked_here() -> u64 {
    ASKED_HERE.get()
}

fn take(size: usize) {
    ASKED_HERE.set(ASKED_HERE.get() + 1);
    if size > LARGEST.load(Ordering::Relaxed) {
        LARGEST.fetch_max(size, Ordering::Relaxed);
    }
    ASKED.fetch_add(1, Ordering::Relaxed);
    note(size, size as i64);
}

fn give(size: usize) {
    note(size, -(size as i64));
}

fn note(size: usize, bytes: i64) {
    let live = LIVE_HERE.get() + bytes;
    LIVE_HERE.set(live);
    if live > PEAK_HERE.get() {
        PEAK_HERE.set(live);
    }
    LIVE.fetch_add(bytes, Ordering::Relaxed);
    if size < SMALL {
        SMALL_LIVE.fetch_add(bytes, Ordering::Relaxed);
    }
}

// SAFETY: everything is left to the system's allocator; the counts are cells and a number, without destructors.
unsafe impl GlobalAlloc for Counting {
    // SAFETY: as the trait demands of the caller, and passed on as it is.
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        take(layout.size());
        // SAFETY: the caller's promise.
        unsafe { System.alloc(layout) }
    }

    // SAFETY: as the trait demands of the caller, and passed on as it is.
    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        take(layout.size());
        // SAFETY: the caller's promise.
        unsafe { System.alloc_zeroed(layout) }
    }

    // SAFETY: as the trait demands of the caller, and passed on as it is.
    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        give(layout.size());
        // SAFETY: the caller's promise.
        unsafe { System.dealloc(at, layout) }
    }

    // SAFETY: as the trait demands of the caller, and passed on as it is.
    unsafe fn realloc(&self, at: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        give(layout.size());
        take(size);
        // SAFETY: the caller's promise.
        unsafe { System.realloc(at, layout, size) }
    }
}
