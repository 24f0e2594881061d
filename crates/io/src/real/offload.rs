//! Copying between files in the kernel: sharing storage, or copying there.
//!
//! Invariant: an answer other than success, `Unsupported` (never for these files) and `InvalidInput` (not this range)
//! is a fault of the target's or the source's disk. Everything here blocks.
#![allow(unsafe_code, reason = "FICLONERANGE, which rustix does not have")]

use std::io::{self, ErrorKind};
use std::os::fd::{AsRawFd, BorrowedFd};

use block::ByteRange;
use rustix::fs::copy_file_range;
use rustix::io::{Errno, retry_on_intr};

use crate::file::Offload;

/// `FICLONERANGE` of `linux/fs.h`: `_IOW(0x94, 13, struct file_clone_range)`.
const FICLONERANGE: libc::c_ulong = 0x4020_940d;

/// `struct file_clone_range`.
#[repr(C)]
struct CloneRange {
    source: i64,
    from: u64,
    len: u64,
    to: u64,
}

/// Whether `how` may ever work from `source` to `target`.
pub(super) fn is_possible(target: BorrowedFd<'_>, source: BorrowedFd<'_>, how: Offload) -> bool {
    let asked = match how {
        // No file system shares single bytes: one that can share says that this is not a block, others that they
        // cannot.
        Offload::Share => clone(target, 1, source, ByteRange::new(1, 1)),
        Offload::Copy => {
            retry_on_intr(|| copy_file_range(source, Some(&mut 0), target, Some(&mut 0), 0)).map(drop)
        }
    };
    matches!(asked, Ok(()) | Err(Errno::INVAL))
}

/// Has `target` hold at `offset` what `source` holds in `range`.
pub(super) fn take(
    target: BorrowedFd<'_>,
    offset: u64,
    source: BorrowedFd<'_>,
    range: ByteRange,
    how: Offload,
) -> io::Result<()> {
    let done = match how {
        Offload::Share => clone(target, offset, source, range),
        Offload::Copy => copy(target, offset, source, range),
    };
    match done {
        Ok(()) => Ok(()),
        Err(Errno::INVAL) => Err(ErrorKind::InvalidInput.into()),
        Err(error) if is_unsupported(error) => Err(ErrorKind::Unsupported.into()),
        Err(error) => Err(error.into()),
    }
}

fn clone(
    target: BorrowedFd<'_>,
    offset: u64,
    source: BorrowedFd<'_>,
    range: ByteRange,
) -> rustix::io::Result<()> {
    // Of length 0 it would mean all up to the end.
    if range.is_empty() {
        return Ok(());
    }
    let asked =
        CloneRange { source: source.as_raw_fd().into(), from: range.start(), len: range.len(), to: offset };
    retry_on_intr(|| {
        // SAFETY: the request reads one such struct, and both descriptors are open.
        let answer = unsafe { libc::ioctl(target.as_raw_fd(), FICLONERANGE as _, &raw const asked) };
        if answer == 0 { Ok(()) } else { Err(super::space::last_errno()) }
    })
}

fn copy(
    target: BorrowedFd<'_>,
    offset: u64,
    source: BorrowedFd<'_>,
    range: ByteRange,
) -> rustix::io::Result<()> {
    let (mut from, mut to) = (range.start(), offset);
    while from < range.end() {
        // A request is cut short, not refused, where this is too much for the system.
        let len = usize::try_from(range.end() - from).unwrap_or(usize::MAX);
        let copied = retry_on_intr(|| copy_file_range(source, Some(&mut from), target, Some(&mut to), len))?;
        // The source ends here.
        if copied == 0 {
            return Err(Errno::INVAL);
        }
    }
    Ok(())
}

/// Whether these files, their systems or the kernel cannot do this at all.
fn is_unsupported(error: Errno) -> bool {
    [Errno::OPNOTSUPP, Errno::NOSYS, Errno::NOTTY, Errno::XDEV, Errno::PERM, Errno::TXTBSY].contains(&error)
}
