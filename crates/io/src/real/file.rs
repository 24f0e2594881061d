//! An open file.
//!
//! Invariants: the descriptor lives as long as any operation on it, so a dropped future or file never lets a
//! number be reused under one; after bytes of a buffered file were lost, no flush of it succeeds
//! ([`super::flushing`]).

use std::any::Any;
use std::io::{self, ErrorKind};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, Mutex, PoisonError};

use block::{ByteRange, Extent, Permissions};
use rustix::fs::{SeekFrom, fstat, ftruncate, seek};
use rustix::io::{ReadWriteFlags, retry_on_intr};

use super::flushing::Flushes;
use super::lock::{self, Held};
use super::open::{IO_URING, Kind, Opened};
use super::pool::{Lane, Pool};
use super::probe::{self, InlineReads};
use super::ring::{self, Direction, Operation, Outcome};
use super::transfer::PLAIN;
use super::transient::Transient;
use super::writeback::Behind;
use super::{offload, space, transfer};
use crate::file::{Offload, ZeroMode};
use crate::{File, FileInfo, Lease, LocalFut};

pub(super) struct RealFile {
    fd: Arc<OwnedFd>,
    info: FileInfo,
    kind: Kind,
    inline: InlineReads,
    pool: Arc<Pool>,
    /// Buffered writes, which the kernel does one by one in a regular file.
    writes: Option<Arc<Lane>>,
    /// How it leaves the page cache as it was, if it does.
    transient: Option<Arc<Transient>>,
    /// What is appended goes to the disk before it is flushed, if it does.
    behind: Option<Arc<Behind>>,
    locks: Mutex<Held>,
    flushes: Arc<Flushes>,
}

impl RealFile {
    pub(super) fn new(opened: Opened, pool: Arc<Pool>) -> Self {
        let Opened { fd, info, kind, inline, transient, behind } = opened;
        let writes = (kind == Kind::Regular && !info.direct).then(Arc::default);
        let (fd, transient, behind) = (Arc::new(fd), transient.map(Arc::new), behind.map(Arc::new));
        let lost = transient.as_ref().map_or_else(Arc::default, |transient| transient.lost().clone());
        let (locks, flushes) = (Mutex::default(), Arc::new(Flushes::new(!info.direct, lost)));
        Self { fd, info, kind, inline, pool, writes, transient, behind, locks, flushes }
    }

    /// Flags of reads, and of all requests on the ring; `None` where they need more than that.
    fn own_flags(&self) -> Option<ReadWriteFlags> {
        match &self.transient {
            None => Some(PLAIN),
            Some(transient) => transient.read_flags(),
        }
    }

    async fn transfer(&self, direction: Direction, offset: u64, mut lease: Lease) -> (io::Result<()>, Lease) {
        // Buffered writes are faster on the pool: the kernel would hand them to threads of its own.
        let by_ring = self.info.engine == IO_URING && (direction == Direction::Read || self.info.direct);
        let flags = self.own_flags().filter(|_| by_ring);
        if let Some((ring, flags)) = flags.and_then(|flags| Some((ring::current()?, flags))) {
            let (fd, alignment) = (self.fd.clone(), self.info.alignment);
            match ring.transfer(Operation { direction, fd, offset, alignment, flags, lease, done: 0 }).await {
                (Outcome::Done(outcome), lease) => return (outcome, lease),
                (Outcome::Refused, refused) => lease = refused,
            }
        }
        let (fd, alignment, transient) = (self.fd.clone(), self.info.alignment, self.transient.clone());
        match (direction, &self.writes) {
            (Direction::Read, _) => {
                let job = move || {
                    let outcome = match transient {
                        Some(it) => it.read_all(fd.as_fd(), offset, &mut lease, alignment),
                        None => transfer::read_all(fd.as_fd(), offset, &mut lease, alignment, PLAIN),
                    };
                    (outcome, lease)
                };
                self.pool.run(job).await
            }
            (Direction::Write, lane) => {
                let job = move || {
                    let outcome = match transient {
                        Some(it) => it.write_all(fd.as_fd(), offset, &lease),
                        None => transfer::write_all(fd.as_fd(), offset, &lease, PLAIN),
                    };
                    (outcome, lease)
                };
                match lane {
                    Some(lane) => self.pool.run_in(lane, job).await,
                    None => self.pool.run(job).await,
                }
            }
        }
    }

    /// That range was written.
    fn wrote(&self, range: ByteRange) {
        let Some(behind) = &self.behind else { return };
        if let Some(ripe) = behind.wrote(range) {
            let (fd, behind) = (self.fd.clone(), behind.clone());
            // Nobody waits for it.
            drop(self.pool.run(move || behind.tell(fd.as_fd(), ripe)));
        }
    }

    /// The regular file behind `file`, if it is one of this world.
    fn regular(file: &dyn File) -> Option<&Self> {
        (file as &dyn Any).downcast_ref::<Self>().filter(|file| file.kind == Kind::Regular)
    }

    /// Runs `job` on the pool with the descriptor.
    fn in_pool<T: Send + 'static>(
        &self,
        job: impl FnOnce(BorrowedFd<'_>) -> T + Send + 'static,
    ) -> LocalFut<'_, T> {
        let fd = self.fd.clone();
        Box::pin(async move { self.pool.run(move || job(fd.as_fd())).await })
    }
}

impl File for RealFile {
    fn info(&self) -> &FileInfo {
        &self.info
    }

    fn size(&self) -> io::Result<u64> {
        match self.kind {
            Kind::Regular => Ok(u64::try_from(fstat(&self.fd)?.st_size).unwrap_or(0)),
            Kind::BlockDevice => Ok(seek(&self.fd, SeekFrom::End(0))?),
        }
    }

    fn allocated(&self) -> io::Result<u64> {
        // Of 512 bytes each, whatever the file system's own blocks are.
        Ok(u64::try_from(fstat(&self.fd)?.st_blocks).unwrap_or(0) * 512)
    }

    fn try_read(&self, offset: u64, buf: &mut [u8]) -> io::Result<usize> {
        let fd = self.fd.as_fd();
        match self.inline {
            // What is not there the kernel would begin to read ahead, and that would stay.
            InlineReads::Nowait if self.transient.is_none() => transfer::read_now(fd, offset, buf),
            InlineReads::Nowait | InlineReads::IfResident if is_resident(fd, offset, buf.len()) => {
                // Where somebody read ahead the kernel goes on doing so, whatever it was advised.
                let flags = self.own_flags().unwrap_or(PLAIN);
                transfer::read_all(fd, offset, buf, self.info.alignment, flags).map(|()| buf.len())
            }
            _ => Err(ErrorKind::WouldBlock.into()),
        }
    }

    fn try_write(&self, offset: u64, bytes: &[u8]) -> io::Result<usize> {
        if !self.info.inline_writes {
            return Err(ErrorKind::WouldBlock.into());
        }
        let written = transfer::write_now(self.fd.as_fd(), offset, bytes)?;
        self.wrote(ByteRange::new(offset, written as u64));
        Ok(written)
    }

    fn resident(&self, range: ByteRange) -> bool {
        !self.info.direct && probe::resident(self.fd.as_fd(), range)
    }

    fn read<'a>(&'a self, offset: u64, lease: Lease) -> LocalFut<'a, (io::Result<()>, Lease)> {
        Box::pin(self.transfer(Direction::Read, offset, lease))
    }

    fn write<'a>(&'a self, offset: u64, lease: Lease) -> LocalFut<'a, (io::Result<()>, Lease)> {
        Box::pin(async move {
            let range = ByteRange::new(offset, lease.len() as u64);
            let (outcome, lease) = self.transfer(Direction::Write, offset, lease).await;
            if outcome.is_ok() {
                self.wrote(range);
            }
            (outcome, lease)
        })
    }

    fn may_take<'a>(&'a self, source: &'a dyn File, how: Offload) -> LocalFut<'a, bool> {
        match Self::regular(source).filter(|_| self.kind == Kind::Regular) {
            Some(source) => {
                let source = source.fd.clone();
                self.in_pool(move |fd| offload::is_possible(fd, source.as_fd(), how))
            }
            None => Box::pin(std::future::ready(false)),
        }
    }

    fn take<'a>(
        &'a self,
        offset: u64,
        source: &'a dyn File,
        range: ByteRange,
        how: Offload,
        lease: Lease,
    ) -> LocalFut<'a, (io::Result<()>, Lease)> {
        let Some(source) = Self::regular(source).filter(|_| self.kind == Kind::Regular) else {
            return Box::pin(std::future::ready((Err(ErrorKind::Unsupported.into()), lease)));
        };
        let (fd, transient) = (self.fd.clone(), self.transient.clone());
        let (from, from_transient) = (source.fd.clone(), source.transient.clone());
        let job = move || {
            let (target, source) = (fd.as_fd(), from.as_fd());
            let taken = || offload::take(target, offset, source, range, how);
            let outcome = match how {
                // Nothing comes into the page cache.
                Offload::Share => taken(),
                Offload::Copy => Transient::around_read(from_transient.as_deref(), source, range, || {
                    Transient::around_write(transient.as_deref(), target, range.at(offset), taken)
                }),
            };
            (outcome, lease)
        };
        // One after the other with writes, which the kernel has wait for each other.
        match self.writes.clone() {
            Some(lane) => Box::pin(async move { self.pool.run_in(&lane, job).await }),
            None => Box::pin(self.pool.run(job)),
        }
    }

    fn write_zeroes<'a>(&'a self, range: ByteRange, mode: ZeroMode) -> LocalFut<'a, io::Result<()>> {
        let kind = self.kind;
        self.in_pool(move |fd| space::write_zeroes(fd, kind, range, mode))
    }

    fn discard<'a>(&'a self, range: ByteRange) -> LocalFut<'a, io::Result<()>> {
        let kind = self.kind;
        self.in_pool(move |fd| space::discard(fd, kind, range))
    }

    fn flush(&self) -> LocalFut<'_, io::Result<()>> {
        Box::pin(self.flushes.run(&self.pool, self.fd.clone()))
    }

    fn extents<'a>(&'a self, range: ByteRange) -> LocalFut<'a, io::Result<Vec<Extent>>> {
        self.in_pool(move |fd| space::extents(fd, range))
    }

    fn extents_now(&self, range: ByteRange) -> Option<io::Result<Vec<Extent>>> {
        // Where reads never wait unasked the file system is a local one.
        let is_local = matches!(self.inline, InlineReads::Nowait) && self.kind == Kind::Regular;
        is_local.then(|| space::extents(self.fd.as_fd(), range))
    }

    fn set_len<'a>(&'a self, len: u64) -> LocalFut<'a, io::Result<()>> {
        // A device has its length, and ftruncate is not for it.
        if self.kind == Kind::BlockDevice && self.size().is_ok_and(|size| size == len) {
            return Box::pin(std::future::ready(Ok(())));
        }
        self.in_pool(move |fd| Ok(retry_on_intr(|| ftruncate(fd, len))?))
    }

    fn lock(&self, uses: Permissions, shares: Permissions) -> io::Result<()> {
        let mut held = self.locks.lock().unwrap_or_else(PoisonError::into_inner);
        lock::replace(self.fd.as_fd(), &mut held, uses, shares)
    }

    fn fd(&self) -> Option<BorrowedFd<'_>> {
        Some(self.fd.as_fd())
    }
}

impl Drop for RealFile {
    fn drop(&mut self) {
        if let Some(transient) = self.transient.take() {
            transient.close();
            // Jobs that were handed over are done though nobody waits for them.
            drop(self.pool.run(move || transient.leave()));
        }
    }
}

fn is_resident(file: BorrowedFd<'_>, offset: u64, len: usize) -> bool {
    ByteRange::checked(offset, len as u64).is_some_and(|range| probe::resident(file, range))
}
