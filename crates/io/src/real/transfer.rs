//! Moving bytes between a file and memory by plain system calls.
//!
//! Invariant: what lies beyond the end of the file reads as zeros.

use std::io::{self, ErrorKind, IoSlice, IoSliceMut};
use std::os::fd::BorrowedFd;

use block::Alignment;
use rustix::io::{Errno, ReadWriteFlags, preadv2, pwritev2};

/// No flags.
pub(super) const PLAIN: ReadWriteFlags = ReadWriteFlags::empty();

/// `RWF_DONTCACHE` of `linux/fs.h`: pages that the request brings into the page cache leave it again.
pub(super) const DONTCACHE: ReadWriteFlags = ReadWriteFlags::from_bits_retain(0x80);

/// Reads from the front of `buf` as far as that needs no wait.
pub(super) fn read_now(file: BorrowedFd<'_>, offset: u64, buf: &mut [u8]) -> io::Result<usize> {
    let mut done = 0;
    while done < buf.len() {
        let at = offset + done as u64;
        match preadv2(file, &mut [IoSliceMut::new(&mut buf[done..])], at, ReadWriteFlags::NOWAIT) {
            Ok(0) => {
                buf[done..].fill(0);
                return Ok(buf.len());
            }
            Ok(n) => done += n,
            Err(Errno::INTR) => {}
            Err(Errno::AGAIN | Errno::OPNOTSUPP) => return some(done),
            Err(error) => return Err(error.into()),
        }
    }
    Ok(done)
}

/// Writes from the front of `bytes` as far as that needs no wait.
pub(super) fn write_now(file: BorrowedFd<'_>, offset: u64, bytes: &[u8]) -> io::Result<usize> {
    let mut done = 0;
    while done < bytes.len() {
        let at = offset + done as u64;
        match pwritev2(file, &[IoSlice::new(&bytes[done..])], at, ReadWriteFlags::NOWAIT) {
            Ok(0) | Err(Errno::AGAIN | Errno::OPNOTSUPP) => return some(done),
            Ok(n) => done += n,
            Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(done)
}

fn some(done: usize) -> io::Result<usize> {
    if done == 0 { Err(ErrorKind::WouldBlock.into()) } else { Ok(done) }
}

/// Fills `buf`. Blocks.
pub(super) fn read_all(
    file: BorrowedFd<'_>,
    offset: u64,
    buf: &mut [u8],
    alignment: Alignment,
    flags: ReadWriteFlags,
) -> io::Result<()> {
    let mut done = 0;
    while done < buf.len() {
        let at = offset + done as u64;
        match preadv2(file, &mut [IoSliceMut::new(&mut buf[done..])], at, flags) {
            Ok(n) => {
                done += n;
                if ends_file(n, done, alignment) {
                    buf[done..].fill(0);
                    return Ok(());
                }
            }
            Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

/// Whether a read of `n` bytes that brought the total to `done` has met the end of the file. A direct read
/// that stops off the alignment has, and asking on from there would be refused.
pub(super) fn ends_file(n: usize, done: usize, alignment: Alignment) -> bool {
    n == 0 || !alignment.fits(done as u64)
}

/// Writes all of `bytes`. Blocks.
pub(super) fn write_all(
    file: BorrowedFd<'_>,
    offset: u64,
    bytes: &[u8],
    flags: ReadWriteFlags,
) -> io::Result<()> {
    let mut done = 0;
    while done < bytes.len() {
        let at = offset + done as u64;
        match pwritev2(file, &[IoSlice::new(&bytes[done..])], at, flags) {
            Ok(0) => return Err(ErrorKind::WriteZero.into()),
            Ok(n) => done += n,
            Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}
