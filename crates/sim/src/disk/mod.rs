//! The simulated disk: named files, and a control handle for tests.
//!
//! Invariants: an operation that was started takes place (or fails) even when nobody waits for it any more,
//! and owns its lease until then; what a flush covered survives every [`SimDisk::crash`]; after the power
//! went nothing changes any more.

mod control;
mod crash;
mod file;
mod flight;
mod folders;
mod inode;
mod lock;
mod options;
mod sparse;
mod state;

use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use ::io::{File, OpenOptions};
use block::{ByteRange, Errno};

pub use control::{Counts, CrashPoint, Op, OpId, OpKind, Policy, Verdict};
pub use options::DiskOptions;

pub(crate) use file::SimFile;

use crate::core::Core;
use crate::locked;
use crate::rng::Rng;
use inode::{Image, Inode};
use state::State;

/// A disk with files, and the handle by which a test prepares, watches and breaks it. Clones are the same disk.
#[derive(Clone, Default)]
pub struct SimDisk(Arc<Mutex<State>>);

impl SimDisk {
    /// An empty disk.
    pub fn new() -> Self {
        Self::default()
    }

    /// Puts a file there whose `bytes` are durable, in place of what was there before.
    pub fn put(&self, path: impl AsRef<Path>, bytes: &[u8]) {
        let mut image = Image { len: bytes.len() as u64, ..Image::default() };
        image.bytes.write(0, bytes);
        locked(&self.0).put(path.as_ref(), Inode::durable(image));
    }

    /// Puts a file of `len` bytes there that is one hole.
    pub fn put_hole(&self, path: impl AsRef<Path>, len: u64) {
        let image = Image { len, ..Image::default() };
        locked(&self.0).put(path.as_ref(), Inode::durable(image));
    }

    /// Removes a file's name; who has it open keeps it. False when there is no such file.
    pub fn remove(&self, path: impl AsRef<Path>) -> bool {
        locked(&self.0).names.remove(path.as_ref()).is_some()
    }

    /// The files' names.
    pub fn names(&self) -> Vec<PathBuf> {
        locked(&self.0).names.keys().cloned().collect()
    }

    /// What readers of the file see now; `None` when there is no such file. Memory for all of it.
    pub fn bytes(&self, path: impl AsRef<Path>) -> Option<Vec<u8>> {
        self.all_of(path.as_ref(), |inode| &inode.live)
    }

    /// What the file would hold at least if the power went now: what was flushed.
    pub fn durable_bytes(&self, path: impl AsRef<Path>) -> Option<Vec<u8>> {
        self.all_of(path.as_ref(), |inode| &inode.durable)
    }

    fn all_of(&self, path: &Path, which: impl Fn(&Inode) -> &Image) -> Option<Vec<u8>> {
        let state = locked(&self.0);
        let image = which(state.inode_of(path)?);
        let mut bytes = vec![0; usize::try_from(image.len).ok()?];
        image.bytes.read(0, &mut bytes);
        Some(bytes)
    }

    /// What readers of part of a file see now; zeros beyond its end. `None` when there is no such file.
    pub fn peek(&self, path: impl AsRef<Path>, range: ByteRange) -> Option<Vec<u8>> {
        let state = locked(&self.0);
        let inode = state.inode_of(path.as_ref())?;
        let mut bytes = vec![0; usize::try_from(range.len()).ok()?];
        inode.live.bytes.read(range.start(), &mut bytes);
        Some(bytes)
    }

    /// Storage that the file takes, in bytes.
    pub fn allocated(&self, path: impl AsRef<Path>) -> Option<u64> {
        locked(&self.0).inode_of(path.as_ref()).map(|inode| inode.live.bytes.allocated())
    }

    /// Changes of the file that no flush has covered.
    pub fn unflushed(&self, path: impl AsRef<Path>) -> Option<usize> {
        locked(&self.0).inode_of(path.as_ref()).map(|inode| inode.pending().len())
    }

    /// Changes how it behaves from now on.
    pub fn adjust(&self, change: impl FnOnce(&mut DiskOptions)) {
        change(&mut locked(&self.0).options);
    }

    /// Lets `policy` decide about each operation before it starts, in place of an earlier one.
    pub fn set_policy(&self, policy: impl FnMut(&Op) -> Verdict + Send + 'static) {
        let old = locked(&self.0).policy.replace(Box::new(policy));
        drop(old);
    }

    /// From now on each operation takes its course.
    pub fn clear_policy(&self) {
        let old = locked(&self.0).policy.take();
        drop(old);
    }

    /// The operations that are held, in the order in which they started.
    pub fn held(&self) -> Vec<(OpId, Op)> {
        locked(&self.0).held()
    }

    /// Operations that were started and have not ended, held ones included.
    pub fn in_flight(&self) -> usize {
        locked(&self.0).flights.len()
    }

    /// Lets a held operation go on; false when it is not held.
    pub fn release(&self, id: OpId) -> bool {
        self.let_go(id, None)
    }

    /// Makes a held operation fail; false when it is not held.
    pub fn fail(&self, id: OpId, errno: Errno) -> bool {
        self.let_go(id, Some(errno))
    }

    /// Lets all held operations go on.
    pub fn release_all(&self) {
        for (id, _) in self.held() {
            self.release(id);
        }
    }

    /// What it has done since it was put into its world.
    pub fn counts(&self) -> Counts {
        locked(&self.0).counts
    }

    /// The disk as it is found after a power loss now: what was flushed is there; every other change is
    /// there, lost or torn at sector (512 B) boundaries, in any order; so are those on their way.
    #[must_use]
    pub fn crash(&self, rng: &mut Rng) -> Self {
        Self(Arc::new(Mutex::new(locked(&self.0).after_crash(rng))))
    }

    /// The disk as another process finds it after ours was killed now: every change that took place is
    /// there (though not durable); those on their way took place or not.
    #[must_use]
    pub fn kill(&self, rng: &mut Rng) -> Self {
        Self(Arc::new(Mutex::new(locked(&self.0).after_kill(rng))))
    }

    /// Makes it the disk of a world.
    pub(crate) fn mount(&self, core: Arc<Core>, options: DiskOptions, rng: Rng) {
        locked(&self.0).mount(core, options, rng);
    }

    pub(crate) fn crash_at(&self, point: Option<CrashPoint>) {
        locked(&self.0).crash_at = point;
    }

    /// Ends the operations in flight for good, since their world ends.
    pub(crate) fn abandon(&self) {
        let flights = locked(&self.0).abandon();
        drop(flights);
    }

    pub(crate) async fn open(&self, path: &Path, options: OpenOptions) -> io::Result<Arc<dyn File>> {
        let span = self.arrive(path).await?;
        // Made at once and told later: a caller who does not wait has made it all the same.
        let file = SimFile::open(self, path, options);
        ::io::sleep(span).await;
        Ok(Arc::new(file?))
    }

    pub(crate) async fn read_file(&self, path: &Path, limit: usize) -> io::Result<Vec<u8>> {
        let span = self.arrive(path).await?;
        ::io::sleep(span).await;
        let bytes = self.bytes(path).ok_or(io::ErrorKind::NotFound)?;
        if bytes.len() > limit {
            return Err(io::ErrorKind::FileTooLarge.into());
        }
        Ok(bytes)
    }

    /// How long an open takes; fails in its time if that shall fail.
    async fn arrive(&self, path: &Path) -> io::Result<Duration> {
        let op = Op { path: path.to_owned(), kind: OpKind::Open, range: ByteRange::default(), inline: false };
        let (latency, verdict) = self.judge_open(&op);
        match verdict {
            Verdict::Fail(errno) => {
                ::io::sleep(latency).await;
                Err(os_error(errno))
            }
            Verdict::Delay(span) => Ok(span),
            Verdict::Go | Verdict::Hold => Ok(latency),
        }
    }

    fn judge_open(&self, op: &Op) -> (Duration, Verdict) {
        let mut state = locked(&self.0);
        (state.latency(), state.judge(op))
    }
}

pub(crate) fn os_error(errno: Errno) -> io::Error {
    io::Error::from_raw_os_error(errno.0)
}
