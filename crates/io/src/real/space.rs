//! Storage below a range: zeroing it, giving it back, asking where it is. Everything here blocks.
//!
//! Invariant: a file is extended by allocating its new last byte, never by setting its length, so that a
//! write which extends it further at the same time is not cut off.
#![allow(unsafe_code, reason = "ioctls of block devices")]

use std::io::{self, ErrorKind};
use std::os::fd::{AsRawFd, BorrowedFd};

use block::{ByteRange, Extent, ExtentState, push_extent};
use rustix::fs::{FallocateFlags, SeekFrom, fallocate, fstat, seek};
use rustix::io::{Errno, retry_on_intr};

use super::open::Kind;
use super::transfer;
use crate::Lease;
use crate::file::ZeroMode;

/// Zeros are written in pieces of this size where nothing faster works.
const ZEROS_BYTES: usize = 1 << 20;
/// Extents of one answer.
const EXTENTS_MAX: usize = 1024;

/// `BLKDISCARD` and `BLKZEROOUT` of `linux/fs.h`: `_IO(0x12, 119)` and `_IO(0x12, 127)`.
const BLKDISCARD: libc::c_ulong = 0x1277;
const BLKZEROOUT: libc::c_ulong = 0x127f;

const PUNCH: FallocateFlags = FallocateFlags::PUNCH_HOLE.union(FallocateFlags::KEEP_SIZE);

/// Makes `range` read as zeros by the fastest way that the file offers.
pub(super) fn write_zeroes(
    file: BorrowedFd<'_>,
    kind: Kind,
    range: ByteRange,
    mode: ZeroMode,
) -> io::Result<()> {
    if range.is_empty() {
        return Ok(());
    }
    let outcome = match kind {
        Kind::Regular => zero_regular(file, range, mode),
        Kind::BlockDevice => zero_device(file, range, mode),
    };
    match outcome {
        Err(error) if is_unsupported(error) && mode.only_fast => Err(ErrorKind::Unsupported.into()),
        Err(error) if is_unsupported(error) => write_zeros(file, range),
        outcome => Ok(outcome?),
    }
}

fn zero_regular(file: BorrowedFd<'_>, range: ByteRange, mode: ZeroMode) -> rustix::io::Result<()> {
    let punch = || allocate(file, PUNCH, range.start(), range.len());
    let zero = || allocate(file, FallocateFlags::ZERO_RANGE, range.start(), range.len());
    if mode.may_unmap {
        return punch().or_else(|_| zero()).and_then(|()| extend(file, range.end()));
    }
    match zero() {
        // Punched and allocated again, it reads as zeros and keeps its storage.
        Err(error) if is_unsupported(error) => {
            punch()?;
            allocate(file, FallocateFlags::empty(), range.start(), range.len())
        }
        outcome => outcome,
    }
}

/// Makes the file at least `end` bytes long.
fn extend(file: BorrowedFd<'_>, end: u64) -> rustix::io::Result<()> {
    if u64::try_from(fstat(file)?.st_size).unwrap_or(0) >= end {
        return Ok(());
    }
    allocate(file, FallocateFlags::empty(), end - 1, 1)
}

fn zero_device(file: BorrowedFd<'_>, range: ByteRange, mode: ZeroMode) -> rustix::io::Result<()> {
    if mode.may_unmap || mode.only_fast {
        // The kernel refuses this rather than write zeros; what comes next may write them.
        let outcome = allocate(file, PUNCH, range.start(), range.len());
        if mode.only_fast || outcome.is_ok() {
            return outcome;
        }
    }
    device_ioctl(file, BLKZEROOUT, range)
}

fn write_zeros(file: BorrowedFd<'_>, range: ByteRange) -> io::Result<()> {
    let zeros = Lease::zeroed(ZEROS_BYTES.min(usize::try_from(range.len()).unwrap_or(ZEROS_BYTES)));
    let mut rest = range;
    while !rest.is_empty() {
        let piece = rest.head(zeros.len() as u64);
        transfer::write_all(file, piece.start(), &zeros[..piece.len() as usize], transfer::PLAIN)?;
        rest = rest.skip(piece.len());
    }
    Ok(())
}

/// Gives the storage of `range` back where the file can.
pub(super) fn discard(file: BorrowedFd<'_>, kind: Kind, range: ByteRange) -> io::Result<()> {
    if range.is_empty() {
        return Ok(());
    }
    let outcome = match kind {
        Kind::Regular => allocate(file, PUNCH, range.start(), range.len()),
        Kind::BlockDevice => device_ioctl(file, BLKDISCARD, range),
    };
    match outcome {
        Err(error) if is_unsupported(error) => Ok(()),
        outcome => Ok(outcome?),
    }
}

fn allocate(file: BorrowedFd<'_>, mode: FallocateFlags, offset: u64, len: u64) -> rustix::io::Result<()> {
    retry_on_intr(|| fallocate(file, mode, offset, len))
}

fn device_ioctl(file: BorrowedFd<'_>, request: libc::c_ulong, range: ByteRange) -> rustix::io::Result<()> {
    let range = [range.start(), range.len()];
    // SAFETY: both requests read two 64-bit numbers, which is what the array holds.
    let answer = unsafe { libc::ioctl(file.as_raw_fd(), request as _, range.as_ptr()) };
    if answer == 0 { Ok(()) } else { Err(last_errno()) }
}

pub(super) fn last_errno() -> Errno {
    Errno::from_io_error(&io::Error::last_os_error()).unwrap_or(Errno::IO)
}

/// Whether the file (or its device) cannot do this at all; every file system has its own word for it.
fn is_unsupported(error: Errno) -> bool {
    [Errno::OPNOTSUPP, Errno::NOSYS, Errno::NOTTY, Errno::INVAL, Errno::NODEV].contains(&error)
}

/// Data and holes of `range`, in order and without gaps; ends early after [`EXTENTS_MAX`].
pub(super) fn extents(file: BorrowedFd<'_>, range: ByteRange) -> io::Result<Vec<Extent>> {
    let mut extents = Vec::new();
    let mut at = range.start();
    while at < range.end() && extents.len() < EXTENTS_MAX {
        let (end, state) = match seek(file, SeekFrom::Data(at)) {
            Ok(data) if data > at => (data, ExtentState::Hole),
            // Allocated up to the next hole, which the file's end is at the latest.
            Ok(_) => (seek(file, SeekFrom::Hole(at)).unwrap_or(range.end()), ExtentState::Data),
            // No data from here on: a hole, or beyond the end.
            Err(Errno::NXIO) => (range.end(), ExtentState::Hole),
            Err(error) if is_unsupported(error) => (range.end(), ExtentState::Data),
            Err(error) => return Err(error.into()),
        };
        // Somebody may have punched a hole between the two questions: then this byte was data a moment ago.
        let end = end.clamp(at + 1, range.end());
        push_extent(&mut extents, Extent { range: ByteRange::between(at, end), state });
        at = end;
    }
    Ok(extents)
}
