//! What the system can do for one open file, found out by trying.
#![allow(unsafe_code, reason = "system calls that rustix does not have, or not with these arguments")]

use std::io::IoSliceMut;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::ptr;

use block::{Alignment, ByteRange};
use rustix::fs::fstatfs;
use rustix::io::{Errno, ReadWriteFlags, preadv2};

use super::transfer::DONTCACHE;

/// Page size of the page cache's accounting.
const PAGE: u64 = 4096;
/// Beyond the end of any file: flags are looked at, but nothing is read into the page cache.
const BEYOND: u64 = u64::MAX >> 2;
/// `cachestat(2)`, kernel 6.5; the same number on every architecture.
const SYS_CACHESTAT: libc::c_long = 451;

/// How reads of a buffered file can be kept from waiting.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum InlineReads {
    /// Not at all.
    Never,
    /// The file system takes RWF_NOWAIT.
    Nowait,
    /// All of the file is in memory unless it was swapped out, and the system can tell that.
    IfResident,
}

/// Finds out which of them this file allows.
pub(super) fn inline_reads(file: BorrowedFd<'_>) -> InlineReads {
    let mut byte = [0];
    match preadv2(file, &mut [IoSliceMut::new(&mut byte)], BEYOND, ReadWriteFlags::NOWAIT) {
        Ok(_) | Err(Errno::AGAIN) => InlineReads::Nowait,
        _ if in_memory(file) && cached_pages(file, ByteRange::new(0, PAGE)).is_some() => {
            InlineReads::IfResident
        }
        _ => InlineReads::Never,
    }
}

/// Whether its pages are all there is of it.
pub(super) fn in_memory(file: BorrowedFd<'_>) -> bool {
    fstatfs(file).is_ok_and(|about| about.f_type == libc::TMPFS_MAGIC)
}

/// Whether writes may be asked not to wait.
///
/// Only a write can tell, and it must change nothing: it is given memory that cannot be read. File systems
/// that refuse such writes say so first; the others stumble over the memory.
pub(super) fn writes_inline(file: BorrowedFd<'_>) -> bool {
    let unreadable = libc::iovec { iov_base: ptr::without_provenance_mut(1), iov_len: 1 };
    // SAFETY: the kernel alone looks at that address and answers EFAULT: the lowest page is never mapped.
    let written = unsafe { libc::pwritev2(file.as_raw_fd(), &raw const unreadable, 1, 0, libc::RWF_NOWAIT) };
    written < 0
        && matches!(Errno::from_io_error(&std::io::Error::last_os_error()), Some(Errno::FAULT | Errno::AGAIN))
}

/// What direct I/O on this file must be aligned to.
pub(super) fn direct_alignment(file: BorrowedFd<'_>) -> Alignment {
    // SAFETY: a struct of integers, for which zeros are a value.
    let mut about: libc::statx = unsafe { std::mem::zeroed() };
    // SAFETY: the path is a terminated string and `about` is as large as the kernel's struct.
    let answer = unsafe {
        libc::statx(file.as_raw_fd(), c"".as_ptr(), libc::AT_EMPTY_PATH, libc::STATX_DIOALIGN, &raw mut about)
    };
    let known = answer == 0 && about.stx_mask & libc::STATX_DIOALIGN != 0;
    let bytes = about.stx_dio_offset_align.max(about.stx_dio_mem_align);
    // Where the system does not tell, a page satisfies every device.
    match Alignment::new(bytes.into()) {
        Some(told) if known => told.max(Alignment::SECTOR),
        _ => Alignment::PAGE,
    }
}

/// Whether the kernel gives pages back that requests with `RWF_DONTCACHE` have brought in.
pub(super) fn takes_dontcache(file: BorrowedFd<'_>) -> bool {
    preadv2(file, &mut [IoSliceMut::new(&mut [0])], BEYOND, DONTCACHE).is_ok()
}

/// How many bytes of `range` are in the page cache, in whole pages; `None` when that cannot be told.
pub(super) fn cached(file: BorrowedFd<'_>, range: ByteRange) -> Option<u64> {
    cached_pages(file, range).map(|pages| pages * PAGE)
}

/// Whether all of `range` is in the page cache (a page on its way in counts already).
pub(super) fn resident(file: BorrowedFd<'_>, range: ByteRange) -> bool {
    let pages = range.end().div_ceil(PAGE) - range.start() / PAGE;
    range.is_empty() || cached_pages(file, range).is_some_and(|cached| cached >= pages)
}

/// How many pages of `range` are in the page cache. `None` when the kernel does not know `cachestat`, or does
/// not tell us because the file is neither ours nor writable to us.
fn cached_pages(file: BorrowedFd<'_>, range: ByteRange) -> Option<u64> {
    cachestat(file, range).map(|counts| counts[0])
}

/// How many pages of `range` are not on the disk yet; `None` as of [`cached`].
pub(super) fn unwritten_pages(file: BorrowedFd<'_>, range: ByteRange) -> Option<u64> {
    cachestat(file, range).map(|[_, dirty, going, ..]| dirty + going)
}

/// Pages in memory, dirty, on their way to the disk, and two counts of those that were dropped.
fn cachestat(file: BorrowedFd<'_>, range: ByteRange) -> Option<[u64; 5]> {
    let asked = [range.start(), range.len()];
    let mut counts = [0u64; 5];
    // SAFETY: the kernel reads two and writes five 64-bit numbers, which is what the arrays hold.
    let answer =
        unsafe { libc::syscall(SYS_CACHESTAT, file.as_raw_fd(), asked.as_ptr(), counts.as_mut_ptr(), 0) };
    (answer == 0).then_some(counts)
}
