//! Descriptors that were handed to this process when it was started.
//!
//! Invariant: a descriptor is taken at most once. Everything that we open ourselves is close-on-exec, and
//! what came through exec cannot be; so the flag tells them apart, and is set when one is taken.
#![allow(unsafe_code, reason = "turns a number into a descriptor")]

use std::io;
use std::os::fd::{BorrowedFd, FromRawFd, OwnedFd, RawFd};

use rustix::io::{FdFlags, fcntl_getfd, fcntl_setfd};

/// Takes ownership of descriptor `number`.
pub(super) fn take(number: RawFd) -> io::Result<OwnedFd> {
    let refuse = |why: &str| {
        io::Error::new(io::ErrorKind::InvalidInput, format!("descriptor {number}: {why}; pass another one"))
    };
    if number < 0 {
        return Err(refuse("no such descriptor"));
    }
    // SAFETY: borrowed for two calls of fcntl, which answer EBADF when the number names nothing.
    let borrowed = unsafe { BorrowedFd::borrow_raw(number) };
    let flags = fcntl_getfd(borrowed).map_err(|_| refuse("no such descriptor"))?;
    if flags.contains(FdFlags::CLOEXEC) {
        return Err(refuse("was not inherited, or is in use already"));
    }
    fcntl_setfd(borrowed, flags | FdFlags::CLOEXEC)?;
    // SAFETY: open, and nobody else in this process owns it: what Rust opens is close-on-exec, this was not.
    Ok(unsafe { OwnedFd::from_raw_fd(number) })
}
