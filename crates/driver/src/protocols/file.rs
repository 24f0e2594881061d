//! `file`: a file or block device of the host.
//!
//! Reads and writes that need no wait are answered inline where the file system can (RWF_NOWAIT); everything else
//! goes to the world's engine. Bytes are lent (sent without copying) only from a file that is open read-only while
//! our lock keeps every writer out, and only while they are in memory.
//!
//! Invariants: an error names the file; the size in memory is never below what was written through this node.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use block::{BlockError, ByteRange, ErrorKind, Extent, ExtentState, Permissions, Result};
use flow::sabotage::{self, Rule};
use flow::{
    Body, Capabilities, Execute, Flags, Limits, Next, Now, Op, Permit, Piece, PieceSource, Powers, Request,
    Resize, Window, ZeroCost,
};
use io::file::{Engine, LockConflict, ZeroMode};
use io::{File, Lease, LocalFut, OpenOptions};
use serde::Deserialize;

use crate::context::{OpenContext, Opened};

/// Holes of a file that cannot change are remembered up to this many.
const HOLES_MAX: usize = 65_536;

/// Options of a file node.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Options {
    /// Path of the file.
    filename: PathBuf,
    /// Whether to take QEMU's locks: `auto` (default), `on` or `off`.
    #[serde(default)]
    locking: Locking,
    /// How requests that have to wait are carried out.
    #[serde(default)]
    aio: Aio,
    /// Taken for compatibility; the page cache is never dropped.
    #[serde(rename = "drop-cache")]
    _drop_cache: Option<bool>,
    /// Taken for compatibility; batches are as large as they come.
    #[serde(rename = "aio-max-batch")]
    _aio_max_batch: Option<u64>,
}

/// Whether to take locks.
#[derive(Debug, Default, Deserialize, PartialEq, Eq, Clone, Copy)]
#[serde(rename_all = "lowercase")]
enum Locking {
    #[default]
    Auto,
    On,
    Off,
}

/// QEMU's names for engines.
#[derive(Debug, Default, Deserialize, Clone, Copy)]
#[serde(rename_all = "snake_case")]
enum Aio {
    #[default]
    Auto,
    Threads,
    Native,
    IoUring,
}

/// Opens a `file` node.
pub fn open(mut context: OpenContext) -> LocalFut<'static, Result<Opened>> {
    Box::pin(async move {
        let options: Options = context.parse()?;
        let node = FileNode::open(&context, options).await?;
        Ok(Opened::new(Body::Executes(Arc::new(node))))
    })
}

struct FileNode {
    file: Arc<dyn File>,
    name: String,
    size: AtomicU64,
    limits: Limits,
    locking: bool,
    no_flush: bool,
    unmap: bool,
    /// Nobody can change the file: it is read-only to us, and our lock excludes writers.
    frozen: AtomicBool,
    /// The holes of a file that was opened read-only, in order; `None` when it has too many, or may change.
    holes: Option<Box<[ByteRange]>>,
}

impl FileNode {
    async fn open(context: &OpenContext, options: Options) -> Result<Self> {
        let name = options.filename.display().to_string();
        let failed = |error| BlockError::system(format!("Could not open '{name}'"), error);
        let engine = match options.aio {
            Aio::Auto | Aio::Native => Engine::Auto,
            Aio::Threads => Engine::Pool,
            Aio::IoUring => Engine::Uring,
        };
        let open = OpenOptions { write: !context.read_only, create: false, direct: context.direct, engine };
        let file = context.world.open(&options.filename, open).await.map_err(failed)?;
        let size = file.size().map_err(failed)?;
        let holes = if context.read_only { holes(&*file, size).await } else { None };
        let limits = Limits {
            alignment: file.info().alignment,
            zeroing: ZeroCost::Fast,
            can: Capabilities { discard: context.unmap, zeroes: true, fua: false },
            ..Limits::NONE
        };
        Ok(Self {
            file,
            name,
            size: AtomicU64::new(size),
            limits,
            locking: options.locking != Locking::Off,
            no_flush: context.no_flush,
            unmap: context.unmap,
            frozen: AtomicBool::new(false),
            holes,
        })
    }

    #[cold]
    fn failed(&self, what: &str, error: std::io::Error) -> BlockError {
        BlockError::system(format!("file '{}': {what} failed", self.name), error)
    }

    fn grow(&self, end: u64) {
        self.size.fetch_max(end, Ordering::AcqRel);
    }

    /// Notes what was done at once of a request; not one byte is no error.
    fn advance(&self, rq: &mut Request, done: std::io::Result<usize>, what: &str) -> Result<Now> {
        match done {
            Ok(done) => rq.done += done as u32,
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(self.failed(what, error)),
        }
        Ok(if rq.rest().is_empty() { Now::Done } else { Now::Wait })
    }

    fn lend(&self, rq: &Request, pieces: &mut flow::Pieces) -> Now {
        let allowed = self.frozen.load(Ordering::Acquire) || sabotage::broken(Rule::Lending);
        if !allowed {
            return Now::Wait;
        }
        let mut rest = rq.rest();
        while !rest.is_empty() {
            let (hole, len) = self.hole_at(rest);
            let part = rest.head(len);
            let source = match hole {
                true => PieceSource::Zeroes,
                // What is not in memory would make the sender wait for the disk.
                false if !self.file.resident(part) => return Now::Wait,
                false => PieceSource::File { file: self.file.clone(), offset: part.start() },
            };
            if !pieces.push(Piece { source, len: part.len() as usize }) {
                return Now::Wait;
            }
            rest = rest.skip(len);
        }
        Now::Lent
    }

    /// Whether `range` begins in a known hole, and how many of its bytes share that answer.
    fn hole_at(&self, range: ByteRange) -> (bool, u64) {
        let Some(holes) = &self.holes else { return (false, range.len()) };
        let next = holes.partition_point(|hole| hole.end() <= range.start());
        match holes.get(next) {
            Some(hole) if hole.start() <= range.start() => (true, hole.intersection(range).len()),
            Some(hole) => (false, range.len().min(hole.start() - range.start())),
            None => (false, range.len()),
        }
    }

    async fn carry_out(&self, rq: Request, lease: Lease) -> (Result<()>, Lease) {
        match rq.op {
            Op::Read => self.read(rq, lease).await,
            Op::Write => self.write(rq, lease).await,
            Op::WriteZeroes => (self.write_zeroes(rq).await, lease),
            Op::Discard if self.unmap => {
                let done = self.file.discard(rq.range).await;
                (done.map_err(|e| self.failed("discard", e)), lease)
            }
            Op::Flush if !self.no_flush => {
                let done = self.file.flush().await;
                (done.map_err(|e| self.failed("flush", e)), lease)
            }
            Op::Discard | Op::Flush | Op::Cache => (Ok(()), lease),
        }
    }

    async fn read(&self, rq: Request, mut lease: Lease) -> (Result<()>, Lease) {
        let mut head = lease.split_to(rq.done as usize);
        let (done, rest) = self.file.read(rq.rest().start(), lease).await;
        head.join(rest);
        (done.map_err(|e| self.failed("read", e)), head)
    }

    async fn write(&self, rq: Request, mut lease: Lease) -> (Result<()>, Lease) {
        let mut head = lease.split_to(rq.done as usize);
        let (done, rest) = self.file.write(rq.rest().start(), lease).await;
        head.join(rest);
        if done.is_ok() {
            self.grow(rq.range.end());
        }
        (done.map_err(|e| self.failed("write", e)), head)
    }

    async fn write_zeroes(&self, rq: Request) -> Result<()> {
        let may_unmap = self.unmap && rq.flags.has(Flags::MAY_UNMAP);
        let mode = ZeroMode { may_unmap, only_fast: rq.flags.has(Flags::FAST_ZERO) };
        self.file.write_zeroes(rq.range, mode).await.map_err(|e| self.failed("write-zeroes", e))?;
        self.grow(rq.range.end());
        Ok(())
    }
}

/// The holes of a file, unless there are too many or they cannot be told.
async fn holes(file: &dyn File, size: u64) -> Option<Box<[ByteRange]>> {
    let mut holes = Vec::new();
    let mut rest = ByteRange::between(0, size);
    while !rest.is_empty() {
        let extents = file.extents(rest).await.ok()?;
        let end = extents.last()?.range.end();
        holes.extend(extents.iter().filter(|e| e.state == ExtentState::Hole).map(|e| e.range));
        if holes.len() > HOLES_MAX {
            return None;
        }
        rest = ByteRange::between(end, size);
    }
    Some(holes.into())
}

impl Execute for FileNode {
    fn size(&self) -> Option<u64> {
        Some(self.size.load(Ordering::Acquire))
    }

    fn limits(&self) -> Limits {
        self.limits
    }

    fn try_now(&self, rq: &mut Request, window: Window<'_>, _: Next<'_>) -> Result<Now> {
        let rest = rq.rest();
        match window {
            Window::In(buf) if rq.op == Op::Read && self.file.info().inline_reads => {
                let done = self.file.try_read(rest.start(), &mut buf[rq.done as usize..]);
                self.advance(rq, done, "read")
            }
            Window::Out(bytes) if rq.op == Op::Write && self.file.info().inline_writes => {
                let done = self.file.try_write(rest.start(), &bytes[rq.done as usize..]);
                let answer = self.advance(rq, done, "write");
                self.grow(rq.range.start() + u64::from(rq.done));
                answer
            }
            Window::Lend(pieces) if rq.op == Op::Read => Ok(self.lend(rq, pieces)),
            _ => Ok(Now::Wait),
        }
    }

    fn execute<'a>(&'a self, rq: Request, lease: Lease, _: Next<'a>) -> LocalFut<'a, (Result<()>, Lease)> {
        Box::pin(self.carry_out(rq, lease))
    }

    fn extents<'a>(&'a self, range: ByteRange, _: Next<'a>) -> LocalFut<'a, Result<Vec<Extent>>> {
        Box::pin(async move { self.file.extents(range).await.map_err(|e| self.failed("finding extents", e)) })
    }

    fn powers(&self) -> Powers<'_> {
        Powers { resize: Some(self), permit: Some(self), ..Powers::default() }
    }
}

impl Permit for FileNode {
    fn permit(&self, uses: Permissions, shares: Permissions) -> Result<()> {
        if self.locking {
            self.file.lock(uses, shares).map_err(|error| self.locked(error))?;
        }
        let writers = Permissions::WRITE | Permissions::WRITE_UNCHANGED | Permissions::RESIZE;
        let ours = (uses & writers).is_empty() && !self.file.info().writable;
        let theirs = (shares & (Permissions::WRITE | Permissions::RESIZE)).is_empty();
        self.frozen.store(ours && theirs && self.locking, Ordering::Release);
        Ok(())
    }
}

impl FileNode {
    fn locked(&self, error: std::io::Error) -> BlockError {
        let conflict = error.get_ref().is_some_and(|source| source.is::<LockConflict>());
        match conflict {
            true => BlockError::caused(ErrorKind::Busy, format!("file '{}'", self.name), error),
            false => self.failed("locking", error),
        }
    }
}

impl Resize for FileNode {
    fn resize<'a>(&'a self, size: u64, _: Next<'a>) -> LocalFut<'a, Result<()>> {
        Box::pin(async move {
            self.file.set_len(size).await.map_err(|e| self.failed("resize", e))?;
            self.size.store(size, Ordering::Release);
            Ok(())
        })
    }
}
