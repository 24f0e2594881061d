//! Leaving the page cache as it was found: what is read or written does not stay there, what others have there does.
//!
//! Where kernel and file system take `RWF_DONTCACHE` (Linux 6.14) the kernel does it: pages that a request brings in go
//! when it is done with them, pages that were there before stay. Elsewhere pages are looked for before a request
//! (`cachestat`, Linux 6.5), and those that were not there are given back after it: read ones at once, written ones
//! when they are on disk, in batches. The same becomes of two kinds of writes whatever the kernel can: those that share
//! a page with their neighbours (a page that has left would have to be read again for the next of them), and those to a
//! place that the file has already (a disk that is told nothing new ends them in an interrupt, where the kernel drops
//! no page). Where neither can be had pages stay.
//!
//! Invariants: no page that was there before is ever given back; what waits to go is bounded; bytes that were lost on
//! their way to the disk fail the write that waited for them and all flushes from then on, and those that are lost
//! behind a close are told to who opens the file next. Everything here blocks.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use block::{Alignment, ByteRange, RangeSet};
use rustix::fs::{Advice, CWD, Mode, OFlags, SeekFrom, fadvise, fcntl_getfl, fstat, openat, seek};
use rustix::io::{Errno, ReadWriteFlags};

use super::flushing::Lost;
use super::writeback::sync_range;
use super::{probe, transfer};
use crate::folders::FileId;

/// Written bytes after which those that were written before have to go.
const BATCH: u64 = 8 << 20;

/// A disk that takes longer keeps its pages; whoever writes there, too, would be waited for else.
const SETTLE_MAX: Duration = Duration::from_secs(30);
/// How often it is looked whether pages are on the disk.
const SETTLE_PAUSE_MIN: Duration = Duration::from_micros(500);
const SETTLE_PAUSE_MAX: Duration = Duration::from_millis(16);

/// How one file does it.
pub(super) struct Transient {
    /// The kernel does it when it is asked to.
    by_flag: bool,
    /// A file that is written to, opened once more: what is left to do when it is closed must not hold its locks.
    aside: Option<OwnedFd>,
    written: Mutex<Written>,
    left: Arc<Left>,
    lost: Arc<Lost>,
    id: FileId,
}

/// Pages of files that were closed, on their way out: whoever opens one of those again knows that they are ours.
#[derive(Default)]
pub(super) struct Left(Mutex<Vec<(FileId, RangeSet)>>);

/// Closed files that are known, at most.
const LEFT_MAX: usize = 16;

/// Pages that our writes have brought in.
#[derive(Default)]
struct Written {
    /// Written since the last batch began to go.
    fresh: RangeSet,
    /// On their way to the disk.
    going: RangeSet,
    /// Written with the flag, to places that nobody can have had in memory: what is written there again is ours still.
    flagged: RangeSet,
}

/// Runs of pages that are known to be ours, at most: they are looked through one by one.
const FLAGGED_MAX: usize = 1024;

impl Transient {
    /// How it is done for this file; `None`: not at all, or nothing would be gained. `may_flag`: the flag may be used.
    pub(super) fn of(file: BorrowedFd<'_>, may_flag: bool, left: &Arc<Left>) -> Option<Self> {
        let by_flag = may_flag && probe::takes_dontcache(file);
        let by_advice = !probe::in_memory(file) && probe::cached(file, ByteRange::new(0, 1)).is_some();
        if by_flag || by_advice {
            // What is read ahead and never asked for would stay. It is an advice, and may be refused.
            let _ = fadvise(file, 0, None, Advice::Random);
        }
        let writes = fcntl_getfl(file).is_ok_and(|flags| flags & OFlags::RWMODE != OFlags::RDONLY);
        let again =
            || openat(CWD, format!("/proc/self/fd/{}", file.as_raw_fd()), OFlags::CLOEXEC, Mode::empty());
        if !by_flag && !by_advice {
            return None;
        }
        let id = fstat(file).map(|about| FileId(about.st_dev, about.st_ino)).ok()?;
        let written = Mutex::new(Written { flagged: left.take(id), ..Written::default() });
        // Without one, some pages stay.
        Some(Self {
            by_flag,
            aside: writes.then(again).and_then(Result::ok),
            written,
            left: left.clone(),
            lost: Arc::default(),
            id,
        })
    }

    /// What did not come to the disk and was told to us instead of to a flush.
    pub(super) const fn lost(&self) -> &Arc<Lost> {
        &self.lost
    }

    /// The file is closed: what of it is on its way out is known to who opens it next. Does not block.
    pub(super) fn close(&self) {
        let written = self.written();
        let mut ours = written.flagged.clone();
        written.fresh.iter().chain(written.going.iter()).for_each(|range| ours.insert(range));
        self.left.put(self.id, ours);
    }

    /// Flags for reads, where reads need no more than that.
    pub(super) fn read_flags(&self) -> Option<ReadWriteFlags> {
        self.by_flag.then_some(transfer::DONTCACHE)
    }

    /// As [`transfer::read_all`].
    pub(super) fn read_all(
        &self,
        file: BorrowedFd<'_>,
        offset: u64,
        buf: &mut [u8],
        alignment: Alignment,
    ) -> io::Result<()> {
        if let Some(flags) = self.read_flags() {
            return transfer::read_all(file, offset, buf, alignment, flags);
        }
        let range = ByteRange::new(offset, buf.len() as u64);
        Self::around_read(Some(self), file, range, || {
            transfer::read_all(file, offset, buf, alignment, transfer::PLAIN)
        })
    }

    /// Has `read` bring pages in, which then go, if `this` says so.
    pub(super) fn around_read<T>(
        this: Option<&Self>,
        file: BorrowedFd<'_>,
        range: ByteRange,
        read: impl FnOnce() -> T,
    ) -> T {
        let brought = this.map(|_| absent(file, Alignment::PAGE.around(range)));
        let outcome = read();
        brought.iter().flat_map(RangeSet::iter).for_each(|range| give_back(file, range));
        outcome
    }

    /// Has `write` bring pages in, which go when they are on disk, if `this` says so.
    pub(super) fn around_write(
        this: Option<&Self>,
        file: BorrowedFd<'_>,
        range: ByteRange,
        write: impl FnOnce() -> io::Result<()>,
    ) -> io::Result<()> {
        let Some(this) = this else { return write() };
        let whole = Alignment::PAGE.around(range);
        let brought = absent(file, whole);
        let outcome = write();
        let mut written = this.written();
        let ours: Vec<_> = written.flagged.iter().map(|ours| ours.intersection(whole)).collect();
        brought.iter().chain(ours).for_each(|range| written.fresh.insert(range));
        if written.fresh.bytes() < BATCH {
            return outcome;
        }
        let turned = written.turn(file);
        if let Err(error) = &turned {
            this.lost.note(error.raw_os_error().unwrap_or(libc::EIO));
        }
        outcome.and(turned)
    }

    /// As [`transfer::write_all`].
    pub(super) fn write_all(&self, file: BorrowedFd<'_>, offset: u64, bytes: &[u8]) -> io::Result<()> {
        let range = ByteRange::new(offset, bytes.len() as u64);
        let by_flag = self.by_flag && Alignment::PAGE.fits_range(range);
        if by_flag && is_hole(file, range) {
            self.written().flag(range);
            return transfer::write_all(file, offset, bytes, transfer::DONTCACHE);
        }
        let flags = if by_flag { transfer::DONTCACHE } else { transfer::PLAIN };
        Self::around_write(Some(self), file, range, || transfer::write_all(file, offset, bytes, flags))
    }

    /// Has all go that is still to go, when the file is closed.
    pub(super) fn leave(&self) {
        let (Some(file), mut written) = (&self.aside, self.written()) else { return };
        // All at once; this does not ask for errors, as waiting for it would.
        written.fresh.iter().for_each(|range| drop(sync_range(file.as_fd(), range, START)));
        let end = Instant::now() + SETTLE_MAX;
        for range in written.going.iter().chain(written.fresh.iter()) {
            settle(file.as_fd(), range, end);
            give_back(file.as_fd(), range);
        }
        (written.going, written.fresh) = (RangeSet::new(), RangeSet::new());
    }

    fn written(&self) -> MutexGuard<'_, Written> {
        // The sets are whole between any two statements that hold them.
        self.written.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Left {
    fn take(&self, id: FileId) -> RangeSet {
        let mut files = self.files();
        let at = files.iter().position(|(known, _)| *known == id);
        at.map(|at| files.swap_remove(at).1).unwrap_or_default()
    }

    fn put(&self, id: FileId, pages: RangeSet) {
        let mut files = self.files();
        if files.len() == LEFT_MAX {
            files.remove(0);
        }
        files.push((id, pages));
    }

    fn files(&self) -> MutexGuard<'_, Vec<(FileId, RangeSet)>> {
        // The list is whole between any two statements that hold it.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Written {
    /// Notes what is written with the flag.
    fn flag(&mut self, range: ByteRange) {
        self.flagged.insert(range);
        // Those that are forgotten count as somebody else's.
        if self.flagged.iter().count() > FLAGGED_MAX {
            self.flagged = RangeSet::new();
        }
    }

    /// Gives back what is on its way, and sets off what is fresh. Fails where some of it was lost.
    fn turn(&mut self, file: BorrowedFd<'_>) -> io::Result<()> {
        let mut outcome = Ok(());
        for range in self.going.iter() {
            let waiting = libc::SYNC_FILE_RANGE_WAIT_BEFORE | START | libc::SYNC_FILE_RANGE_WAIT_AFTER;
            outcome = outcome.and(sync_range(file, range, waiting).map(drop));
            give_back(file, range);
        }
        for range in self.fresh.iter() {
            outcome = outcome.and(sync_range(file, range, START).map(drop));
        }
        self.going = std::mem::take(&mut self.fresh);
        outcome
    }
}

const START: libc::c_uint = libc::SYNC_FILE_RANGE_WRITE;

/// Waits until `range` is on the disk, at most until `end`. Where the kernel cannot be told to write it, it does so in
/// its own time, and nobody waits. Whether some of it was lost is not asked: the kernel tells that once, and the file
/// is closed here, so that it is for who opens it next.
fn settle(file: BorrowedFd<'_>, range: ByteRange, end: Instant) {
    let mut pause = SETTLE_PAUSE_MIN;
    while probe::unwritten_pages(file, range).is_some_and(|pages| pages > 0) && Instant::now() < end {
        // What was not begun for some reason.
        if !sync_range(file, range, START).unwrap_or(false) {
            return;
        }
        std::thread::sleep(pause);
        pause = SETTLE_PAUSE_MAX.min(pause * 2);
    }
}

/// Lets clean pages of `range` go. Those that cannot stay, which does no harm.
fn give_back(file: BorrowedFd<'_>, range: ByteRange) {
    let _ = fadvise(file, range.start(), std::num::NonZeroU64::new(range.len()), Advice::DontNeed);
}

/// Whether the file has no place for `range` yet.
fn is_hole(file: BorrowedFd<'_>, range: ByteRange) -> bool {
    match seek(file, SeekFrom::Data(range.start())) {
        Ok(data) => data >= range.end(),
        // Nothing up to the end.
        Err(error) => error == Errno::NXIO,
    }
}

/// Which pages of `range` are not in the page cache. Where that cannot be told, none.
fn absent(file: BorrowedFd<'_>, range: ByteRange) -> RangeSet {
    let (mut absent, mut unknown) = (RangeSet::new(), vec![range]);
    while let Some(range) = unknown.pop() {
        match probe::cached(file, range) {
            _ if range.is_empty() => {}
            None => return RangeSet::new(),
            Some(0) => absent.insert(range),
            Some(cached) if cached >= range.len() => {}
            Some(_) => {
                let half = Alignment::PAGE.up(range.len() / 2);
                unknown.extend([range.head(half), range.skip(half)]);
            }
        }
    }
    absent
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::real::RealWorld;
    use crate::{Lease, OpenOptions, World};

    const MIB: usize = 1 << 20;

    /// A file of pages that are not in the page cache but for the second one.
    fn file() -> Option<std::fs::File> {
        let file = tempfile::tempfile_in("/var/tmp").unwrap();
        let known = probe::cached(file.as_fd(), ByteRange::new(0, 1)).is_some();
        transfer::write_all(file.as_fd(), 0, &vec![7; MIB], transfer::PLAIN).unwrap();
        file.sync_all().unwrap();
        fadvise(&file, 0, None, Advice::Random).unwrap();
        give_back(file.as_fd(), ByteRange::new(0, MIB as u64));
        let mut page = [0; 4096];
        rustix::io::pread(&file, &mut page, 4096).unwrap();
        if !known {
            println!("skipped: transient: no cachestat");
        }
        known.then_some(file)
    }

    fn is_as_it_was(file: BorrowedFd<'_>) -> bool {
        let all = absent(file, ByteRange::new(0, MIB as u64));
        all.bytes() == MIB as u64 - 4096 && !all.covers(ByteRange::new(4096, 1))
    }

    #[test]
    fn reads_and_writes_leave_no_page_and_take_none() {
        let Some(disk) = file() else { return };
        for by_flag in [false, true] {
            let Some(transient) = Transient::of(disk.as_fd(), by_flag, &Arc::default()) else {
                panic!("cachestat works")
            };
            let mut bytes = vec![0; MIB];
            transient.read_all(disk.as_fd(), 0, &mut bytes, Alignment::BYTE).unwrap();
            assert!(bytes.iter().all(|byte| *byte == 7) && is_as_it_was(disk.as_fd()), "read, {by_flag}");
            for (at, len) in [(0, MIB), (5000, 20_000), (25_000, 100), (25_100, 8192)] {
                transient.write_all(disk.as_fd(), at, &bytes[..len]).unwrap();
            }
            transient.leave();
            disk.sync_all().unwrap();
            assert!(
                is_as_it_was(disk.as_fd()),
                "written, {by_flag} {:?}",
                absent(disk.as_fd(), ByteRange::new(0, MIB as u64))
            );
        }
    }

    #[test]
    fn long_runs_of_writes_go_in_batches() {
        let Some(disk) = file() else { return };
        let transient = Transient::of(disk.as_fd(), false, &Arc::default()).unwrap();
        let bytes = vec![7; MIB];
        for number in 1..=40 {
            transient.write_all(disk.as_fd(), (number * MIB) as u64, &bytes).unwrap();
            let stay = probe::cached(disk.as_fd(), ByteRange::new(MIB as u64, (40 * MIB) as u64));
            assert!(stay.unwrap() <= 2 * BATCH + MIB as u64);
        }
        transient.leave();
        assert_eq!(
            absent(disk.as_fd(), ByteRange::new(MIB as u64, (40 * MIB) as u64)).bytes(),
            (40 * MIB) as u64
        );
    }

    #[test]
    fn pages_that_are_written_again_go_all_the_same() {
        let Some(disk) = file() else { return };
        let (left, bytes, at) = (Arc::default(), vec![7; MIB], MIB as u64);
        for by_flag in [false, true] {
            let all = ByteRange::new(at, at);
            disk.set_len(at).unwrap();
            // Written, closed, opened again before it is on disk, and written again.
            for _ in 0..3 {
                let transient = Transient::of(disk.as_fd(), by_flag, &left).unwrap();
                transient.write_all(disk.as_fd(), at, &bytes).unwrap();
                transient.write_all(disk.as_fd(), at + 4096, &bytes[..8192]).unwrap();
                transient.close();
            }
            let transient = Transient::of(disk.as_fd(), by_flag, &left).unwrap();
            transient.write_all(disk.as_fd(), at, &bytes).unwrap();
            transient.leave();
            disk.sync_all().unwrap();
            assert_eq!(absent(disk.as_fd(), all).bytes(), all.len(), "{by_flag}");
        }
    }

    #[test]
    fn what_somebody_read_ahead_brings_no_more_in() {
        let folder = tempfile::tempdir_in("/var/tmp").unwrap();
        let (path, all) = (folder.path().join("file"), ByteRange::new(0, 16 * MIB as u64));
        std::fs::write(&path, vec![7; 16 * MIB]).unwrap();
        let mut other = std::fs::File::open(&path).unwrap();
        if !probe::takes_dontcache(other.as_fd()) {
            return println!("skipped: transient: no RWF_DONTCACHE");
        }
        other.sync_all().unwrap();
        give_back(other.as_fd(), all);
        io::Read::read_exact(&mut other, &mut vec![0; MIB]).unwrap();
        let before = probe::cached(other.as_fd(), all).unwrap();
        assert!(before < all.len(), "the kernel has read all of it");
        let world = RealWorld::new();
        world.clone().block_on(async move {
            let file =
                world.open(&path, OpenOptions { transient: true, ..OpenOptions::default() }).await.unwrap();
            let mut bytes = vec![0; MIB];
            for at in (0..all.len()).step_by(MIB) {
                if file.try_read(at, &mut bytes).is_err() {
                    file.read(at, Lease::zeroed(MIB)).await.0.unwrap();
                }
            }
        });
        assert_eq!(probe::cached(other.as_fd(), all), Some(before));
    }

    #[test]
    fn files_in_memory_are_left_alone() {
        let file = tempfile::tempfile_in("/dev/shm").unwrap();
        assert!(Transient::of(file.as_fd(), true, &Arc::default()).is_none());
    }
}
