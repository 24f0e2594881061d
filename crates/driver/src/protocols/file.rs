//! `file`: a file of the machine, or a block device.
//!
//! Invariants:
//! * The file is locked as QEMU locks it, for what all our users do with it together; the locks stay over a
//!   reopen.
//! * Bytes are lent (sent without copying them) only where nobody can change them: we opened the file for reading
//!   only, and our locks keep every other process from writing or cutting it.
//! * The size in memory is never below what was written through this node.
//! * What was written through this node is flushed, and of bytes that were lost every flush tells, also over a reopen.
//! * Every error names the file.

mod lending;
mod locking;
mod options;

use std::fmt;
use std::io::ErrorKind as Std;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use ::io::file::{Offload, ZeroMode};
use ::io::{File, Lease, LocalFut, OpenOptions, World};
use block::{BlockError, ByteRange, ErrorKind, Extent, ExtentState, Result, push_extent};
use flow::{
    Body, Capabilities, Execute, Facts, Flags, ImageFacts, InFile, Limits, Next, Now, Op, Powers, Request,
    Resize, Storage, Taken, Window, ZeroCost,
};

use crate::context::{Kept, OpenContext, Opened};
use lending::Lending;
use locking::Locks;
pub use options::{Aio, Locking, Options, filename};

/// Longest piece that is read to bring it into the page cache.
const CACHE_PIECE: u64 = 1 << 20;

/// Opens a `file` node.
pub fn open(mut context: OpenContext) -> LocalFut<'static, Result<Opened>> {
    Box::pin(async move {
        let options: Options = context.parse()?;
        let file = open_file(&context, &options).await?;
        context.events.opened(format_args!("file '{}', {}", options.filename, file.info()));
        let name: Arc<str> = options.filename.as_str().into();
        let before = context.kept.take().and_then(|kept| kept.downcast::<Before>().ok());
        let before = match before.filter(|before| before.name == name) {
            Some(before) => (*before).clone(),
            None => Before {
                name: name.clone(),
                size: Arc::new(AtomicU64::new(file.size().map_err(|e| opening(&name, e))?)),
                holder: file.clone(),
                written: false,
                lost: Arc::default(),
            },
        };
        Ok(Opened::new(Body::Executes(Arc::new(FileNode {
            locks: Locks {
                holder: before.holder,
                locking: if context.force_share { Locking::Off } else { options.locking },
                keeps_still: context.keeps_still,
            },
            lending: Lending::default(),
            unmap: context.unmap,
            no_flush: context.no_flush,
            name,
            size: before.size,
            written: before.written || file.info().writable,
            lost: before.lost,
            file,
        }))))
    })
}

async fn open_file(context: &OpenContext, options: &Options) -> Result<Arc<dyn File>> {
    if options.aio == Aio::Native && !context.direct {
        let context = "aio=native was specified, but it requires cache.direct=on, which was not specified.";
        return Err(BlockError::new(ErrorKind::Invalid, context));
    }
    let how = OpenOptions {
        write: !context.read_only,
        create: false,
        direct: context.direct,
        transient: context.transient,
        // Who takes flushes for granted may want nothing of it on the disk.
        write_behind: !context.no_flush,
        engine: options.aio.engine(),
    };
    let world: &dyn World = &*context.world;
    world.open(Path::new(&options.filename), how).await.map_err(|e| opening(&options.filename, e))
}

#[cold]
fn opening(name: &str, error: std::io::Error) -> BlockError {
    BlockError::system(format!("Could not open '{name}'"), error)
}

/// What outlives a reopen.
#[derive(Clone)]
struct Before {
    name: Arc<str>,
    size: Arc<AtomicU64>,
    /// The open file whose locks count: the first one.
    holder: Arc<dyn File>,
    written: bool,
    lost: Arc<OnceLock<i32>>,
}

struct FileNode {
    file: Arc<dyn File>,
    name: Arc<str>,
    /// Grows with what is written.
    size: Arc<AtomicU64>,
    /// Something may have been written and not flushed, here or before a reopen.
    written: bool,
    /// The errno of a flush that failed where the kernel forgets what it could not write.
    lost: Arc<OnceLock<i32>>,
    locks: Locks,
    lending: Lending,
    unmap: bool,
    no_flush: bool,
}

impl FileNode {
    #[cold]
    fn failed(&self, doing: impl fmt::Display, error: std::io::Error) -> BlockError {
        BlockError::system(format!("file '{}': cannot {doing}", self.name), error)
    }

    fn grow(&self, end: u64) {
        if end > self.size.load(Ordering::Acquire) {
            self.size.fetch_max(end, Ordering::AcqRel);
        }
    }

    /// Turns the answer of an inline operation into progress of `rq`.
    fn progress(&self, rq: &mut Request, doing: &str, answer: std::io::Result<usize>) -> Result<Now> {
        match answer {
            Ok(n) => rq.done += n as u32,
            Err(error) if error.kind() == Std::WouldBlock => {}
            Err(error) => return Err(self.failed(format_args!("{doing} {}", rq.rest()), error)),
        }
        Ok(if rq.rest().is_empty() { Now::Done } else { Now::Wait })
    }

    async fn read(&self, rq: &Request, mut lease: Lease) -> (Result<()>, Lease) {
        let mut head = lease.split_to(rq.done as usize);
        let (result, rest) = self.file.read(rq.rest().start(), lease).await;
        head.join(rest);
        (result.map_err(|e| self.failed(format_args!("read {}", rq.rest()), e)), head)
    }

    async fn write(&self, rq: &Request, mut lease: Lease) -> (Result<()>, Lease) {
        let mut head = lease.split_to(rq.done as usize);
        let (result, rest) = self.file.write(rq.rest().start(), lease).await;
        head.join(rest);
        if result.is_ok() {
            self.grow(rq.rest().end());
        }
        (result.map_err(|e| self.failed(format_args!("write {}", rq.rest()), e)), head)
    }

    async fn zero(&self, rq: &Request) -> Result<()> {
        let mode = ZeroMode {
            may_unmap: self.unmap && rq.flags.has(Flags::MAY_UNMAP),
            only_fast: rq.flags.has(Flags::FAST_ZERO),
        };
        let result = self.file.write_zeroes(rq.range, mode).await;
        result.map_err(|e| self.failed(format_args!("zero {}", rq.range), e))?;
        self.grow(rq.range.end());
        Ok(())
    }

    async fn discard(&self, rq: &Request) -> Result<()> {
        let inside = rq.range.intersection(ByteRange::between(0, self.size.load(Ordering::Acquire)));
        let result = self.file.discard(inside).await;
        result.map_err(|e| self.failed(format_args!("discard {inside}"), e))
    }

    async fn flush(&self) -> Result<()> {
        if self.takes_flush_for_granted() {
            return Ok(());
        }
        let flushed = match self.lost.get() {
            Some(errno) => Err(std::io::Error::from_raw_os_error(*errno)),
            None => self.file.flush().await,
        };
        flushed.map_err(|error| {
            if let (Some(errno), false) = (error.raw_os_error(), self.file.info().direct) {
                // Whoever was first has said why.
                let _ = self.lost.set(errno);
            }
            self.failed("flush", error)
        })
    }

    fn takes_flush_for_granted(&self) -> bool {
        self.no_flush || !self.written
    }

    /// Brings `range` into the page cache by reading it.
    async fn cache(&self, range: ByteRange) -> Result<()> {
        if self.file.info().direct || self.file.resident(range) {
            return Ok(());
        }
        let mut rest = range;
        while !rest.is_empty() {
            let piece = rest.head(CACHE_PIECE);
            let read = Request::new(Op::Read, piece);
            self.read(&read, Lease::new(piece.len() as usize)).await.0?;
            rest = rest.skip(piece.len());
        }
        Ok(())
    }

    async fn states(&self, range: ByteRange) -> Result<Vec<Extent>> {
        let inside = range.intersection(ByteRange::between(0, self.size.load(Ordering::Acquire)));
        if inside.is_empty() {
            return Ok(vec![Extent { range, state: ExtentState::Hole }]);
        }
        let now = self.lending.is_still().then(|| self.file.extents_now(inside)).flatten();
        let found = match now {
            Some(found) => found,
            None => self.file.extents(inside).await,
        };
        let mut extents = found.map_err(|e| self.failed(format_args!("map {inside}"), e))?;
        if extents.last().is_some_and(|last| last.range.end() == inside.end()) {
            let beyond = ByteRange::between(inside.end(), range.end());
            push_extent(&mut extents, Extent { range: beyond, state: ExtentState::Hole });
        }
        Ok(extents)
    }
}

impl Execute for FileNode {
    fn size(&self) -> Option<u64> {
        Some(self.size.load(Ordering::Acquire))
    }

    fn limits(&self) -> Limits {
        Limits {
            alignment: self.file.info().alignment,
            zeroing: ZeroCost::Fast,
            can: Capabilities { discard: self.unmap, zeroes: true, fua: false },
            ..Limits::NONE
        }
    }

    fn try_now(&self, rq: &mut Request, window: Window<'_>, _next: Next<'_>) -> Result<Now> {
        let (at, from) = (rq.rest().start(), rq.done as usize);
        match (rq.op, window) {
            (Op::Read, Window::In(buf)) if self.file.info().inline_reads => {
                let answer = self.file.try_read(at, &mut buf[from..]);
                self.progress(rq, "read", answer)
            }
            (Op::Read, Window::Lend(pieces)) => Ok(self.lending.lend(&self.file, rq, pieces)),
            (Op::Write, Window::Out(bytes)) if self.file.info().inline_writes => {
                let answer = self.file.try_write(at, &bytes[from..]);
                if let Ok(n) = answer {
                    self.grow(at + n as u64);
                }
                self.progress(rq, "write", answer)
            }
            (Op::Flush, _) if self.takes_flush_for_granted() => Ok(Now::Done),
            _ => Ok(Now::Wait),
        }
    }

    fn execute<'a>(
        &'a self,
        rq: Request,
        lease: Lease,
        _next: Next<'a>,
    ) -> LocalFut<'a, (Result<()>, Lease)> {
        if rq.op.changes() && !self.file.info().writable {
            let context = format!("file '{}': opened for reading only", self.name);
            return Box::pin(async move { (Err(BlockError::new(ErrorKind::ReadOnly, context)), lease) });
        }
        Box::pin(async move {
            let result = match rq.op {
                Op::Read => return self.read(&rq, lease).await,
                Op::Write => return self.write(&rq, lease).await,
                Op::WriteZeroes => self.zero(&rq).await,
                Op::Discard => self.discard(&rq).await,
                Op::Flush => self.flush().await,
                Op::Cache => self.cache(rq.range).await,
            };
            (result, lease)
        })
    }

    fn extents<'a>(&'a self, range: ByteRange, _next: Next<'a>) -> LocalFut<'a, Result<Vec<Extent>>> {
        Box::pin(self.states(range))
    }

    fn keep(&self) -> Option<Kept> {
        Some(Arc::new(Before {
            name: self.name.clone(),
            size: self.size.clone(),
            holder: self.locks.holder.clone(),
            written: self.written,
            lost: self.lost.clone(),
        }))
    }

    fn powers(&self) -> Powers<'_> {
        let powers = Powers { resize: Some(self), permit: Some(self), ..Powers::default() };
        Powers { in_file: Some(self), facts: Some(self), ..powers }
    }
}

impl Facts for FileNode {
    fn facts(&self) -> ImageFacts {
        ImageFacts {
            allocated: self.file.allocated().ok(),
            storage: Some(Storage { cluster_size: None, is_dirty: false }),
            specific: Some(Vec::new()),
            ..ImageFacts::default()
        }
    }
}

impl InFile for FileNode {
    fn file(&self) -> &Arc<dyn File> {
        &self.file
    }

    fn take<'a>(
        &'a self,
        at: u64,
        source: &'a dyn File,
        range: ByteRange,
        how: Offload,
        lease: Lease,
    ) -> LocalFut<'a, (Result<Taken>, Lease)> {
        Box::pin(async move {
            if !self.file.info().writable {
                return (Ok(Taken::Never), lease);
            }
            let (taken, lease) = self.file.take(at, source, range, how, lease).await;
            let taken =
                Taken::of(taken, |error| self.failed(format_args!("copy to {}", range.at(at)), error));
            if matches!(taken, Ok(Taken::All)) {
                self.grow(range.at(at).end());
            }
            (taken, lease)
        })
    }
}

impl Resize for FileNode {
    fn resize<'a>(&'a self, size: u64, _next: Next<'a>) -> LocalFut<'a, Result<()>> {
        Box::pin(async move {
            let result = self.file.set_len(size).await;
            result.map_err(|e| self.failed(format_args!("make it {size} bytes long"), e))?;
            self.size.store(size, Ordering::Release);
            Ok(())
        })
    }
}
