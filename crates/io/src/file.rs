//! Files: what a protocol driver stands on.

use std::any::Any;
use std::fmt;
use std::io;
use std::os::fd::BorrowedFd;

use block::{Alignment, ByteRange, Extent, Permissions};

use crate::{Lease, LocalFut};

/// How to open a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct OpenOptions {
    /// Open for writing too.
    pub write: bool,
    /// Create it when it is not there (empty).
    pub create: bool,
    /// Bypass the page cache (`O_DIRECT`).
    pub direct: bool,
    /// Leave the page cache as it is found, where the system can: what is read or written does not stay there, what
    /// others have there does.
    pub transient: bool,
    /// What is appended through the page cache begins to go to the disk at once, where the system can be told.
    pub write_behind: bool,
    /// How requests that would wait are carried out.
    pub engine: Engine,
}

impl OpenOptions {
    /// Read and written, made where it is not there.
    pub const CREATE: Self = Self {
        write: true,
        create: true,
        direct: false,
        transient: false,
        write_behind: false,
        engine: Engine::Auto,
    };
}

/// How requests that cannot be answered at once are carried out (QEMU's `aio`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Engine {
    /// io_uring where the kernel and the container allow it, else the pool; decided by probing.
    #[default]
    Auto,
    /// A small pool of threads with pread and pwrite.
    Pool,
    /// io_uring or an error.
    Uring,
}

/// What is known about an open file; does not change while it is open.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileInfo {
    /// Engine in use for requests that wait: "io_uring" or "threads".
    pub engine: &'static str,
    /// Alignment that offsets, lengths and memory of requests must have.
    pub alignment: Alignment,
    /// Whether [`File::try_read`] can ever answer (the file system does RWF_NOWAIT reads).
    pub inline_reads: bool,
    /// Whether [`File::try_write`] can ever answer.
    pub inline_writes: bool,
    /// Whether it was opened for writing.
    pub writable: bool,
    /// Whether it bypasses the page cache.
    pub direct: bool,
    /// Whether it leaves the page cache as it is found.
    pub transient: bool,
}

/// As in "io_uring, cached bytes are read without it, read-only".
impl fmt::Display for FileInfo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.engine)?;
        for (is, text) in [
            (self.inline_reads, ", cached bytes are read without it"),
            (self.inline_writes, ", cached bytes are written without it"),
            (self.direct, ", the page cache is bypassed"),
            (self.transient, ", nothing stays in the page cache"),
            (!self.writable, ", read-only"),
        ] {
            f.write_str(if is { text } else { "" })?;
        }
        Ok(())
    }
}

/// How zeroes may be written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct ZeroMode {
    /// The range may end up without storage.
    pub may_unmap: bool,
    /// Fail with `Unsupported` rather than write zeroes byte by byte.
    pub only_fast: bool,
}

/// How bytes get from one file to another without passing through us.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Offload {
    /// Both share the storage until one of them is written to: nothing is copied.
    Share,
    /// The kernel copies, or shares where it likes to.
    Copy,
}

/// An open file. Bytes beyond its end read as zeros (so a short last sector is whole).
pub trait File: Send + Sync + Any {
    /// What is known about it.
    fn info(&self) -> &FileInfo;

    /// Size in bytes, asked of the system each time.
    fn size(&self) -> io::Result<u64>;

    /// Bytes of storage that it takes, as far as that can be told; else its size.
    fn allocated(&self) -> io::Result<u64> {
        self.size()
    }

    /// Reads into `buf` from `offset` as far as that needs no wait. Answers the number of bytes read from
    /// the front of `buf`, short when the rest would wait; `WouldBlock` when not one byte came at once.
    fn try_read(&self, offset: u64, buf: &mut [u8]) -> io::Result<usize>;

    /// Writes `bytes` at `offset` as far as that needs no wait; answers as [`File::try_read`].
    fn try_write(&self, offset: u64, bytes: &[u8]) -> io::Result<usize>;

    /// Whether all of `range` is in memory, so that sending it needs no disk. False when unknown.
    fn resident(&self, range: ByteRange) -> bool;

    /// Fills the lease from `offset`.
    fn read<'a>(&'a self, offset: u64, lease: Lease) -> LocalFut<'a, (io::Result<()>, Lease)>;

    /// Writes the whole lease at `offset`, extending the file when needed.
    fn write<'a>(&'a self, offset: u64, lease: Lease) -> LocalFut<'a, (io::Result<()>, Lease)>;

    /// Whether [`File::take`] from `source` may ever succeed. Changes neither of them.
    fn may_take<'a>(&'a self, _source: &'a dyn File, _how: Offload) -> LocalFut<'a, bool> {
        Box::pin(std::future::ready(false))
    }

    /// Has this file hold at `offset` what `source` holds in `range`, extending it when needed. The lease is empty:
    /// what it carries is dropped when the operation has ended, whether or not anybody waits for it.
    ///
    /// Errors, after which the bytes here are the old or the new ones: `Unsupported` where this cannot be done between
    /// these two, `InvalidInput` where it cannot for this range (its ends are not where storage can be shared).
    fn take<'a>(
        &'a self,
        _offset: u64,
        _source: &'a dyn File,
        _range: ByteRange,
        _how: Offload,
        lease: Lease,
    ) -> LocalFut<'a, (io::Result<()>, Lease)> {
        Box::pin(std::future::ready((Err(io::ErrorKind::Unsupported.into()), lease)))
    }

    /// Makes `range` read as zeros.
    fn write_zeroes<'a>(&'a self, range: ByteRange, mode: ZeroMode) -> LocalFut<'a, io::Result<()>>;

    /// Gives the storage of `range` back; reads of it answer anything until rewritten. Success also where
    /// the file system cannot.
    fn discard<'a>(&'a self, range: ByteRange) -> LocalFut<'a, io::Result<()>>;

    /// Makes everything written before durable.
    fn flush(&self) -> LocalFut<'_, io::Result<()>>;

    /// Which parts of `range` are data and which are holes, in order and without gaps. The answer may end
    /// before the range does, never before its first byte. Not kept in memory beyond some thousands.
    fn extents<'a>(&'a self, range: ByteRange) -> LocalFut<'a, io::Result<Vec<Extent>>>;

    /// As [`File::extents`], where the system answers in less time than it takes to hand the question to a thread. Only
    /// while nobody changes the file: else whoever does is waited for. `None`: it has to be asked the other way.
    fn extents_now(&self, _range: ByteRange) -> Option<io::Result<Vec<Extent>>> {
        None
    }

    /// Changes the length.
    fn set_len<'a>(&'a self, len: u64) -> LocalFut<'a, io::Result<()>>;

    /// Takes QEMU's locks: `uses` is what we do with the file, `shares` what others may do meanwhile.
    /// Replaces what this open file held before; on conflict nothing changes and the error is
    /// [`LockConflict`] (as `io::Error` of kind `ResourceBusy`).
    fn lock(&self, uses: Permissions, shares: Permissions) -> io::Result<()>;

    /// The descriptor, for sending without copying; `None` where there is none.
    fn fd(&self) -> Option<BorrowedFd<'_>>;
}

/// Another process holds the file in a way that excludes us.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LockConflict {
    /// The permission that could not be had.
    pub permission: Permissions,
    /// True: another one uses it and we would not share it. False: we want it and another one does not share it.
    pub in_use: bool,
}

impl std::fmt::Display for LockConflict {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let sharing = if self.in_use { "shared " } else { "" };
        write!(f, "Failed to get {sharing}\"{}\" lock: is another process using the file?", self.permission)
    }
}

impl std::error::Error for LockConflict {}
