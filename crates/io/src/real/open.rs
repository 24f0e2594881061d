//! Opening files: what they are, and what they can do without waiting.

use std::fs::OpenOptions as SystemOptions;
use std::io::{self, ErrorKind, Seek, SeekFrom};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::path::Path;
use std::sync::Arc;

use block::Alignment;
use rustix::fs::OFlags;

use super::file::RealFile;
use super::probe::{self, InlineReads};
use super::transient::{Left, Transient};
use super::world::Shared;
use super::writeback::Behind;
use crate::file::Engine;
use crate::{FileInfo, OpenOptions};

/// What [`FileInfo::engine`] says of the pool.
const THREADS: &str = "threads";
/// What [`FileInfo::engine`] says of the ring.
pub(super) const IO_URING: &str = "io_uring";

/// A file that was opened but does not know its world yet.
pub(super) struct Opened {
    pub(super) fd: OwnedFd,
    pub(super) info: FileInfo,
    pub(super) kind: Kind,
    pub(super) inline: InlineReads,
    pub(super) transient: Option<Transient>,
    pub(super) behind: Option<Behind>,
}

/// What lies behind the descriptor.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Kind {
    Regular,
    BlockDevice,
}

/// Opens `path`; `rings` says whether they may be used, or why not, and `may_flag` whether `RWF_DONTCACHE` may be;
/// `left` knows the pages that are about to leave. Blocks.
pub(super) fn open(
    path: &Path,
    options: OpenOptions,
    rings: Result<(), String>,
    may_flag: bool,
    left: &Arc<Left>,
) -> io::Result<Opened> {
    let mut flags = OFlags::NONBLOCK;
    flags.set(OFlags::DIRECT, options.direct);
    let file = SystemOptions::new()
        .read(true)
        .write(options.write || options.create)
        .create(options.create)
        .truncate(false)
        .mode(0o644)
        // A pipe would keep us here until somebody opens its other end; so ask first what it is.
        .custom_flags(flags.bits() as i32)
        .open(path)?;
    let kind = kind(&file)?;
    let fd = OwnedFd::from(file);
    // Left on, the ring would answer that it would wait instead of waiting.
    rustix::fs::fcntl_setfl(&fd, rustix::fs::fcntl_getfl(&fd)? - OFlags::NONBLOCK)?;
    let inline = if options.direct { InlineReads::Never } else { probe::inline_reads(fd.as_fd()) };
    let leaves = options.transient && !options.direct && kind == Kind::Regular;
    let transient = if leaves { Transient::of(fd.as_fd(), may_flag, left) } else { None };
    let info = FileInfo {
        engine: engine(options, rings, inline)?,
        alignment: if options.direct { probe::direct_alignment(fd.as_fd()) } else { Alignment::BYTE },
        inline_reads: inline != InlineReads::Never,
        inline_writes: options.write
            && !options.direct
            && kind == Kind::Regular
            && probe::writes_inline(fd.as_fd()),
        writable: options.write,
        direct: options.direct,
        transient: transient.is_some(),
    };
    let behind = if options.write_behind { behind(fd.as_fd(), &info, kind) } else { None };
    Ok(Opened { fd, info, kind, inline, transient, behind })
}

/// Only what stays in the page cache has to be written from there.
fn behind(fd: BorrowedFd<'_>, info: &FileInfo, kind: Kind) -> Option<Behind> {
    let keeps = info.writable && !info.direct && !info.transient && kind == Kind::Regular;
    let size = keeps.then(|| rustix::fs::fstat(fd)).and_then(Result::ok)?.st_size;
    Some(Behind::new(u64::try_from(size).unwrap_or(0)))
}

/// Chooses what carries out requests that wait. Where buffered reads cannot be asked not to wait, the kernel
/// hands what the ring brings to threads of its own: then ours are faster.
fn engine(options: OpenOptions, rings: Result<(), String>, inline: InlineReads) -> io::Result<&'static str> {
    let ring_pays = options.direct || inline != InlineReads::Never;
    match (options.engine, rings) {
        (Engine::Auto, Ok(())) if ring_pays => Ok(IO_URING),
        (Engine::Uring, Ok(())) => Ok(IO_URING),
        (Engine::Auto | Engine::Pool, _) => Ok(THREADS),
        (Engine::Uring, Err(why)) => {
            let message = format!("io_uring cannot be used here ({why}): choose threads");
            Err(io::Error::new(ErrorKind::Unsupported, message))
        }
    }
}

fn kind(mut file: &std::fs::File) -> io::Result<Kind> {
    let about = file.metadata()?;
    let kind = about.file_type();
    // What the kernel makes up when it is read (/proc) looks like an empty file, but has no end to go to.
    if kind.is_file() && (about.len() > 0 || file.seek(SeekFrom::End(0)).is_ok()) {
        Ok(Kind::Regular)
    } else if kind.is_block_device() {
        Ok(Kind::BlockDevice)
    } else if kind.is_dir() {
        Err(ErrorKind::IsADirectory.into())
    } else {
        Err(io::Error::new(ErrorKind::InvalidInput, "neither a regular file nor a block device"))
    }
}

impl Opened {
    pub(super) fn into_file(self, shared: &Shared) -> RealFile {
        RealFile::new(self, shared.pool.clone())
    }
}
