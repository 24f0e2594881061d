//! An open file of the simulated disk.

use std::any::Any;
use std::future::pending;
use std::io;
use std::os::fd::BorrowedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use ::io::file::{Engine, Offload, ZeroMode};
use ::io::{File, FileInfo, Lease, LocalFut, OpenOptions};
use block::{Alignment, ByteRange, Errno, Extent, Permissions};

use super::control::{Op, OpKind, Verdict};
use super::flight::{Action, Done};
use super::inode::Inode;
use super::{SimDisk, os_error};
use crate::locked;

/// Largest end of a request, as of a file on Linux.
const END_MAX: u64 = i64::MAX as u64;
/// A descriptor that does not do what was asked (EBADF).
const BAD_DESCRIPTOR: Errno = Errno(9);

/// What an open file and its operations in flight share: its locks last as long as the last of them.
pub(crate) struct Open {
    disk: SimDisk,
    serial: u64,
    pub(crate) inode: usize,
    pub(crate) path: PathBuf,
    info: FileInfo,
}

impl Drop for Open {
    fn drop(&mut self) {
        locked(&self.disk.0).inodes[self.inode].locks.remove(&self.serial);
    }
}

impl Open {
    /// Why the file cannot do `op` at all.
    pub(crate) fn refuses(&self, op: &Op, lease: Option<&Lease>) -> Option<Errno> {
        let alignment = self.info.alignment;
        let carries = matches!(op.kind, OpKind::Read | OpKind::Write);
        let crooked = carries && !alignment.fits_range(op.range);
        if crooked || lease.is_some_and(|lease| !lease.is_aligned(alignment)) || op.range.end() > END_MAX {
            return Some(Errno::INVAL);
        }
        (op.kind.changes() && !self.info.writable).then_some(BAD_DESCRIPTOR)
    }
}

/// An open file.
#[derive(Clone)]
pub(crate) struct SimFile(Arc<Open>);

impl SimFile {
    pub(crate) fn open(disk: &SimDisk, path: &Path, options: OpenOptions) -> io::Result<Self> {
        if options.engine == Engine::Uring {
            return Err(io::Error::new(
                io::ErrorKind::Unsupported,
                "there is no io_uring in a simulated world",
            ));
        }
        let mut state = locked(&disk.0);
        let inode = match state.names.get(path) {
            Some(inode) => *inode,
            None if options.create && options.write => state.put(path, Inode::default()),
            None => return Err(io::ErrorKind::NotFound.into()),
        };
        let inline = state.options.inline > 0.0 && !options.direct;
        let alignment = if options.direct { state.options.direct_alignment } else { Alignment::BYTE };
        let info = FileInfo {
            engine: "threads",
            alignment,
            inline_reads: inline,
            inline_writes: inline && options.write,
            writable: options.write,
            direct: options.direct,
            transient: false,
        };
        let serial = state.next_serial();
        drop(state);
        Ok(Self(Arc::new(Open { disk: disk.clone(), serial, inode, path: path.to_owned(), info })))
    }

    /// The file behind `file`, if it is one of this kind.
    pub(crate) fn of(file: &dyn File) -> Option<&Self> {
        (file as &dyn Any).downcast_ref()
    }

    /// What readers see now, zeros beyond the end; takes no time.
    pub(crate) fn peek(&self, offset: u64, buf: &mut [u8]) {
        locked(&self.0.disk.0).inodes[self.0.inode].live.bytes.read(offset, buf);
    }

    async fn carry_out(&self, action: Action, range: ByteRange, lease: Option<Lease>) -> Done {
        match self.0.disk.start(&self.0, action, range, lease).await {
            Ok(done) => done,
            // The world has ended: nothing will ever answer.
            Err(_) => pending().await,
        }
    }

    async fn carry_lease(&self, action: Action, offset: u64, lease: Lease) -> (io::Result<()>, Lease) {
        let Some(range) = ByteRange::checked(offset, lease.len() as u64) else {
            return (Err(os_error(Errno::INVAL)), lease);
        };
        let done = self.carry_out(action, range, Some(lease)).await;
        (done.result, done.lease.expect("an operation answers the lease that it got"))
    }

    /// How many of the `len` bytes at `offset` an inline operation does now.
    fn inline(&self, kind: OpKind, offset: u64, len: usize) -> io::Result<usize> {
        let range = ByteRange::checked(offset, len as u64).ok_or_else(|| os_error(Errno::INVAL))?;
        let op = Op { path: self.0.path.clone(), kind, range, inline: true };
        if let Some(errno) = self.0.refuses(&op, None) {
            return Err(os_error(errno));
        }
        let mut state = locked(&self.0.disk.0);
        if state.dead {
            return Err(os_error(Errno::IO));
        }
        let inline = state.options.inline;
        if self.0.info.direct || !state.rng.chance(inline) {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        match state.judge(&op) {
            Verdict::Go => {}
            Verdict::Fail(errno) => return Err(os_error(errno)),
            Verdict::Delay(_) | Verdict::Hold => return Err(io::ErrorKind::WouldBlock.into()),
        }
        let short = state.options.short;
        Ok(if state.rng.chance(short) { state.rng.index(len) + 1 } else { len }.min(len))
    }
}

impl File for SimFile {
    fn info(&self) -> &FileInfo {
        &self.0.info
    }

    fn size(&self) -> io::Result<u64> {
        Ok(locked(&self.0.disk.0).inodes[self.0.inode].live.len)
    }

    fn try_read(&self, offset: u64, buf: &mut [u8]) -> io::Result<usize> {
        let len = self.inline(OpKind::Read, offset, buf.len())?;
        let mut state = locked(&self.0.disk.0);
        state.inodes[self.0.inode].live.bytes.read(offset, &mut buf[..len]);
        state.counts.read_bytes += len as u64;
        state.note("try-read", offset, len as u64);
        Ok(len)
    }

    fn try_write(&self, offset: u64, bytes: &[u8]) -> io::Result<usize> {
        let len = self.inline(OpKind::Write, offset, bytes.len())?;
        locked(&self.0.disk.0).write_now(self.0.inode, offset, &bytes[..len])?;
        Ok(len)
    }

    fn resident(&self, _range: ByteRange) -> bool {
        let mut state = locked(&self.0.disk.0);
        let odds = state.options.resident;
        state.rng.chance(odds) && !self.0.info.direct
    }

    fn read<'a>(&'a self, offset: u64, lease: Lease) -> LocalFut<'a, (io::Result<()>, Lease)> {
        Box::pin(self.carry_lease(Action::Read, offset, lease))
    }

    fn write<'a>(&'a self, offset: u64, lease: Lease) -> LocalFut<'a, (io::Result<()>, Lease)> {
        Box::pin(self.carry_lease(Action::Write, offset, lease))
    }

    fn may_take<'a>(&'a self, source: &'a dyn File, _how: Offload) -> LocalFut<'a, bool> {
        let can = locked(&self.0.disk.0).options.shares_blocks.is_some() && Self::of(source).is_some();
        Box::pin(std::future::ready(can))
    }

    fn take<'a>(
        &'a self,
        offset: u64,
        source: &'a dyn File,
        range: ByteRange,
        _how: Offload,
        lease: Lease,
    ) -> LocalFut<'a, (io::Result<()>, Lease)> {
        let block = locked(&self.0.disk.0).options.shares_blocks;
        let (Some(block), Some(source)) = (block, Self::of(source)) else {
            return Box::pin(std::future::ready((Err(io::ErrorKind::Unsupported.into()), lease)));
        };
        if !block.fits(offset) || !block.fits_range(range) {
            return Box::pin(std::future::ready((Err(io::ErrorKind::InvalidInput.into()), lease)));
        }
        let mut bytes = Lease::new(range.len() as usize);
        source.peek(range.start(), &mut bytes);
        bytes.carry_along(&lease);
        Box::pin(async move {
            let (result, bytes) = self.carry_lease(Action::Write, offset, bytes).await;
            drop(bytes);
            locked(&self.0.disk.0).counts.taken_bytes += range.len();
            (result, lease)
        })
    }

    fn write_zeroes<'a>(&'a self, range: ByteRange, mode: ZeroMode) -> LocalFut<'a, io::Result<()>> {
        Box::pin(async move { self.carry_out(Action::Zero(mode), range, None).await.result })
    }

    fn discard<'a>(&'a self, range: ByteRange) -> LocalFut<'a, io::Result<()>> {
        Box::pin(async move { self.carry_out(Action::Discard, range, None).await.result })
    }

    fn flush(&self) -> LocalFut<'_, io::Result<()>> {
        Box::pin(async move { self.carry_out(Action::Flush, ByteRange::default(), None).await.result })
    }

    fn extents<'a>(&'a self, range: ByteRange) -> LocalFut<'a, io::Result<Vec<Extent>>> {
        Box::pin(async move {
            let done = self.carry_out(Action::Extents, range, None).await;
            done.result.map(|()| done.extents)
        })
    }

    fn set_len<'a>(&'a self, len: u64) -> LocalFut<'a, io::Result<()>> {
        let range = ByteRange::new(len, 0);
        Box::pin(async move { self.carry_out(Action::SetLen, range, None).await.result })
    }

    fn lock(&self, uses: Permissions, shares: Permissions) -> io::Result<()> {
        let mut state = locked(&self.0.disk.0);
        let locked = state.inodes[self.0.inode].lock(self.0.serial, uses, shares);
        locked.map_err(|conflict| io::Error::new(io::ErrorKind::ResourceBusy, conflict))
    }

    fn fd(&self) -> Option<BorrowedFd<'_>> {
        None
    }
}
