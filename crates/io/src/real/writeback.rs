//! Writeback: when the kernel writes dirty pages to the disk.
//!
//! What is appended to a file begins to go to its disk while more is coming, so that a flush finds little left to do
//! (`docs/decisions/008-writing-behind.md`). What is written anew is left to the system: it may change again.
//!
//! Invariants: nobody waits for it; it says nothing of what is durable, and a flush does all that it did without.
#![allow(unsafe_code, reason = "sync_file_range, which rustix does not have")]

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::sync::{Mutex, MutexGuard, PoisonError};

use block::ByteRange;

/// How kernels and sandboxes say that they will not.
const REFUSALS: [i32; 5] = [libc::ENOSYS, libc::EPERM, libc::EINVAL, libc::ESPIPE, libc::EOPNOTSUPP];

/// Bytes that are appended before the kernel is told.
const STEP: u64 = 8 << 20;

/// What is known of the end of a file that grows.
pub(super) struct Behind(Mutex<Front>);

struct Front {
    /// The kernel was told of what lies before this.
    told: u64,
    /// Nothing has been written behind this.
    end: u64,
    /// Bytes appended since it was told.
    fresh: u64,
    /// A thread is telling it.
    busy: bool,
}

impl Behind {
    /// Of a file of `size` bytes.
    pub(super) fn new(size: u64) -> Self {
        Self(Mutex::new(Front { told: size, end: size, fresh: 0, busy: false }))
    }

    /// That range was written; answers the one to [`Behind::tell`] of, if there is enough.
    pub(super) fn wrote(&self, range: ByteRange) -> Option<ByteRange> {
        let mut front = self.front();
        if range.end() <= front.end {
            return None;
        }
        (front.end, front.fresh) = (range.end(), front.fresh + range.len());
        if front.busy || front.fresh < STEP {
            return None;
        }
        let ripe = ByteRange::between(front.told, front.end);
        (front.told, front.fresh, front.busy) = (front.end, 0, true);
        Some(ripe)
    }

    /// Has the kernel begin to write that range. Blocks while the disk's queue is full.
    pub(super) fn tell(&self, file: BorrowedFd<'_>, range: ByteRange) {
        // Nothing was waited for: a flush tells of what is lost.
        let _ = sync_range(file, range, libc::SYNC_FILE_RANGE_WRITE);
        self.front().busy = false;
    }

    fn front(&self) -> MutexGuard<'_, Front> {
        // It is whole between any two statements that hold it.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Has the kernel write dirty pages of `range` (`sync_file_range(2)`). Answers whether it will. This makes nothing
/// durable.
///
/// Errors: who waits for the pages is told of bytes that were lost, and a flush of the same open file is not any more.
pub(super) fn sync_range(file: BorrowedFd<'_>, range: ByteRange, flags: libc::c_uint) -> io::Result<bool> {
    let (offset, len) = (range.start() as libc::off64_t, range.len() as libc::off64_t);
    // SAFETY: takes integers only, and a descriptor that is open.
    let answer = unsafe { libc::sync_file_range(file.as_raw_fd(), offset, len, flags) };
    match io::Error::last_os_error() {
        _ if answer == 0 => Ok(true),
        // It is not done here, and nothing was looked at.
        error if error.raw_os_error().is_some_and(|errno| REFUSALS.contains(&errno)) => Ok(false),
        error => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsFd;

    #[test]
    fn only_what_is_appended_counts_and_one_thread_tells_at_a_time() {
        let file = tempfile::tempfile_in("/var/tmp").expect("a file");
        let behind = Behind::new(4096);
        assert_eq!(behind.wrote(ByteRange::new(0, 4096)), None, "it was there");
        assert_eq!(behind.wrote(ByteRange::new(4096, STEP - 1)), None, "not enough");
        let ripe = behind.wrote(ByteRange::new(STEP + 8192, 4096));
        assert_eq!(ripe, Some(ByteRange::between(4096, STEP + 12288)), "with the hole");
        assert_eq!(behind.wrote(ByteRange::new(STEP + 12288, STEP)), None, "somebody tells it");
        behind.tell(file.as_fd(), ripe.expect("some"));
        assert_eq!(behind.wrote(ByteRange::new(8192, STEP)), None, "written anew");
        let more = behind.wrote(ByteRange::new(2 * STEP + 12288, 512));
        assert_eq!(more, Some(ByteRange::between(STEP + 12288, 2 * STEP + 12800)));
    }
}
