//! Optional powers of nodes: separate traits, asked for by name.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use block::{BlockError, ByteRange, DirtyBitmap, ErrorKind, NewSnapshot, Permissions, Result};
use io::file::Offload;
use io::{File, Lease, LocalFut, Moment};

use crate::facts::Facts;
use crate::next::Next;

/// What a node can do beyond moving bytes.
#[derive(Clone, Copy, Default)]
pub struct Powers<'a> {
    /// It can change its size.
    pub resize: Option<&'a dyn Resize>,
    /// It can drop all that it holds.
    pub empty: Option<&'a dyn Empty>,
    /// It can check itself.
    pub check: Option<&'a dyn Check>,
    /// It can become an image of another kind.
    pub amend: Option<&'a dyn Amend>,
    /// It has internal snapshots.
    pub snapshots: Option<&'a dyn Snapshots>,
    /// It has dirty bitmaps.
    pub bitmaps: Option<&'a dyn Bitmaps>,
    /// It bounds what it holds.
    pub quota: Option<&'a dyn Quota>,
    /// It keeps other processes from what our users exclude.
    pub permit: Option<&'a dyn Permit>,
    /// It counts what it does.
    pub stats: Option<&'a dyn Stats>,
    /// It knows which version of which image it has.
    pub identity: Option<&'a dyn Identity>,
    /// It knows which backing image it names.
    pub naming: Option<&'a dyn Naming>,
    /// It knows what kind of image it is.
    pub facts: Option<&'a dyn Facts>,
    /// It stores the name of its backing image.
    pub backing: Option<&'a dyn Backing>,
    /// It stores bytes compressed.
    pub compress: Option<&'a dyn Compress>,
    /// It knows whether guests wait for what it fetches.
    pub pressure: Option<&'a dyn Pressure>,
    /// Its bytes lie in a file, each at its own offset, and nobody has to see them pass.
    pub in_file: Option<&'a dyn InFile>,
}

/// Lying in a file: copies between such nodes can be left to the kernel.
pub trait InFile: Sync {
    /// The file.
    fn file(&self) -> &Arc<dyn File>;

    /// Has the file hold at `at` what `source` holds in `range`. The lease is empty; what it carries is dropped when
    /// this has ended, whoever still waits. Where it cannot be done, nothing has changed but, at worst, bytes that were
    /// to be overwritten.
    fn take<'a>(
        &'a self,
        at: u64,
        source: &'a dyn File,
        range: ByteRange,
        how: Offload,
        lease: Lease,
    ) -> LocalFut<'a, (Result<Taken>, Lease)>;
}

/// Whether a file took bytes from another.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Taken {
    /// It did.
    All,
    /// Not these: they have to be carried.
    NotThese,
    /// It never will from that file.
    Never,
}

impl Taken {
    /// What an answer of [`File::take`] says; `failed` names the file where it is a fault.
    pub fn of(
        answer: std::io::Result<()>,
        failed: impl FnOnce(std::io::Error) -> BlockError,
    ) -> Result<Self> {
        match answer {
            Ok(()) => Ok(Self::All),
            Err(error) if error.kind() == std::io::ErrorKind::Unsupported => Ok(Self::Never),
            Err(error) if error.kind() == std::io::ErrorKind::InvalidInput => Ok(Self::NotThese),
            Err(error) => Err(failed(error)),
        }
    }
}

/// Telling those who fetch in the background to make room.
pub trait Pressure: Sync {
    /// Whether somebody waits on demand for what comes from below, or is likely to very soon.
    fn pressed(&self, now: Moment) -> bool;
}

/// Knowing again what it was opened on.
pub trait Identity: Sync {
    /// What must be the same the next time, as the driver's option `identity` takes it.
    fn identity(&self) -> String;
    /// What whoever has the image states of its version (`millpond-id:...`); `None` where only the size is known.
    fn version(&self) -> Option<String>;
}

/// A backing image, as an image names it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct BackingName {
    /// Its name: a path, a name with a protocol, or a `json:` name.
    pub name: String,
    /// Driver name of its format.
    pub format: String,
}

/// Knowing which image lies below, as it is stored.
pub trait Naming: Sync {
    /// The path of the backing image that it names, from where the image itself lies; a name that is no path as it
    /// stands. `None` where it names none.
    fn backing(&self) -> Option<PathBuf>;
}

/// Storing which image lies below, durably.
pub trait Backing: Sync {
    /// From now on the image names that backing image, or none: durable when it is answered. What was acknowledged
    /// before is made durable first. The children of the node stay what they are.
    fn set_backing<'a>(&'a self, backing: Option<BackingName>, next: Next<'a>) -> LocalFut<'a, Result<()>>;
}

/// Figures of a driver's own, for people and tests.
pub trait Stats: Sync {
    /// Each figure by name (`discarded-bytes`, `label 'header': seen`), since the node was opened.
    fn stats(&self) -> Vec<(String, u64)>;
}

/// Being told what all users of a node together do with it. Giving up what was taken never fails. A body that
/// replaces another is told afresh, while the old one still is in use: it takes the other's locks over.
pub trait Permit: Sync {
    /// From now on our users do `uses` and let others do `shares`. On an error (another process is in the way)
    /// nothing has changed.
    fn permit(&self, uses: Permissions, shares: Permissions) -> Result<()>;
}

/// Changing the size.
pub trait Resize: Sync {
    /// Makes the node `size` bytes long; new bytes read as zeros.
    fn resize<'a>(&'a self, size: u64, next: Next<'a>) -> LocalFut<'a, Result<()>>;

    /// Makes room for `range`, which was never written to and reads as zeros, and goes on doing so. `Unsupported` where
    /// that is not the driver's business.
    fn preallocate<'a>(
        &'a self,
        _range: ByteRange,
        how: Preallocation,
        _next: Next<'a>,
    ) -> LocalFut<'a, Result<()>> {
        let context = format!("Unsupported preallocation mode: {}", how.name());
        Box::pin(async move { Err(BlockError::new(ErrorKind::Unsupported, context)) })
    }
}

/// Whether and how room is made for what is not written yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Preallocation {
    /// When it is written.
    #[default]
    Off,
    /// Every unit of allocation has its place.
    Metadata,
    /// Its storage is reserved as well.
    Falloc,
    /// Zeros are written there.
    Full,
}

impl Preallocation {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Off, Self::Metadata, Self::Falloc, Self::Full];

    /// As QEMU calls it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Off => "off",
            Self::Metadata => "metadata",
            Self::Falloc => "falloc",
            Self::Full => "full",
        }
    }
}

/// Dropping content.
pub trait Empty: Sync {
    /// From now on nothing is held here, and what lies below shows: durable when it is answered. A crash before that
    /// leaves some of it: whoever asks has seen to it that this reads the same.
    fn make_empty<'a>(&'a self, next: Next<'a>) -> LocalFut<'a, Result<()>>;
}

/// What a check mends of what it finds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Repair {
    /// Nothing: no write.
    #[default]
    Nothing,
    /// What is taken and reachable from nowhere.
    Leaks,
    /// Everything that can be mended.
    All,
}

/// What a check has found, in units of allocation (clusters) where nothing else is said.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct CheckReport {
    /// What is wrong, and was left so.
    pub corruptions: u64,
    /// Units that are taken and reachable from nowhere, and were left so: harmless.
    pub leaks: u64,
    /// What could not be checked.
    pub errors: u64,
    /// What was wrong and is mended.
    pub corruptions_fixed: u64,
    /// Leaks that are gone.
    pub leaks_fixed: u64,
    /// Units of the virtual disk; 0 where that is not counted.
    pub total: u64,
    /// Those in use.
    pub allocated: u64,
    /// Allocated units that do not lie behind the one before.
    pub fragmented: u64,
    /// Compressed units.
    pub compressed: u64,
    /// Where the last unit in use ends in the image file, in bytes; 0 where that is not known.
    pub image_end: u64,
}

/// Takes what a check has to say, a line at a time.
pub type Tell<'a> = &'a mut dyn FnMut(&str);

/// Checking a node's own tables.
pub trait Check: Sync {
    /// Checks all tables, and mends what `repair` says; `tell` hears of each thing that is wrong. A node in use is
    /// checked as it is on disk, and not mended: what is just being written may count as a leak.
    ///
    /// Errors: tables that cannot be read, or are too broken to be checked; `Busy` where it cannot be mended as it was
    /// opened.
    fn check<'a>(
        &'a self,
        repair: Repair,
        tell: Tell<'a>,
        next: Next<'a>,
    ) -> LocalFut<'a, Result<CheckReport>>;
}

/// A change of what kind of image an image is, in the words of its format.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Amendment {
    /// Version of the format (of qcow2: 2 or 3).
    Version(u32),
    /// Bits of each refcount.
    RefcountBits(u32),
    /// Whether refcounts may be written late.
    LazyRefcounts(bool),
    /// Name of the external data file, or none.
    DataFile(Option<String>),
    /// The external data file need not read as the disk by itself any more.
    NotRaw,
    /// Most bytes that the file shall take for what could be fetched again; `None`: no bound.
    Quota(Option<u64>),
    /// What the file below it is now: its length in bytes, and when it was last changed (since 1970).
    NoteBacking(u64, Duration),
}

/// Becoming an image of another kind, while nobody reads or writes it.
pub trait Amend: Sync {
    /// Carries one change out, durably and in whole: a crash leaves an image of the old kind or one of the new kind,
    /// with leaks at worst. Nothing that a guest reads changes.
    ///
    /// Errors, before anything has changed: `Unsupported` where the image has what the new kind has not; `Corrupt`
    /// where its tables have to be mended first.
    fn amend<'a>(&'a self, change: &'a Amendment, next: Next<'a>) -> LocalFut<'a, Result<()>>;
}

/// An internal snapshot.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SnapshotInfo {
    /// Its id, by which it is told from all others of the image.
    pub id: String,
    /// Its name, which others may have, too.
    pub name: String,
    /// Bytes of the guest's own state that are stored with it.
    pub vm_state_size: u64,
    /// When it was taken: seconds since 1970.
    pub date_s: u32,
    /// And nanoseconds.
    pub date_ns: u32,
    /// How long the guest had run, in nanoseconds.
    pub vm_clock_ns: u64,
    /// Instructions that the guest had executed, where that was counted.
    pub icount: Option<u64>,
    /// Size of the disk when it was taken, in bytes.
    pub disk_size: u64,
}

/// Internal snapshots: states of the node that it keeps beside the present one.
///
/// Changes are durable when they are answered, and whole or not there after a crash; one that has failed has changed
/// nothing, or says that nobody knows. Requests may be under way: those that change the node wait, or are waited for.
///
/// Errors of changes: `ReadOnly`; `NotFound` where there is no such snapshot; `Unsupported` where the image can have
/// none; `Invalid` where a cluster cannot be shared once more.
pub trait Snapshots: Sync {
    /// The snapshots, oldest first, as they are stored.
    fn list<'a>(&'a self, next: Next<'a>) -> LocalFut<'a, Result<Vec<SnapshotInfo>>>;

    /// Keeps the present state, flushed or not. The guest's own state is not stored with it.
    fn create<'a>(&'a self, new: NewSnapshot, next: Next<'a>) -> LocalFut<'a, Result<()>>;

    /// Goes back to the state of the one whose id, or else whose name, is `wanted`: also to the size that the disk had.
    /// The present state is lost. Whoever calls it has seen to it that nobody relies on content or size.
    fn apply<'a>(&'a self, wanted: &'a str, next: Next<'a>) -> LocalFut<'a, Result<()>>;

    /// Deletes the one with that id, the guest's own state with it.
    fn delete<'a>(&'a self, id: &'a str, next: Next<'a>) -> LocalFut<'a, Result<()>>;
}

/// What is known of a dirty bitmap.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct BitmapInfo {
    /// Its name.
    pub name: String,
    /// Bytes that a bit stands for.
    pub granularity: u64,
    /// Dirty bytes, in whole units; 0 where its content is lost.
    pub count: u64,
    /// Changes are recorded in it.
    pub recording: bool,
    /// It is in the image, or goes there when that is closed.
    pub persistent: bool,
    /// Whoever wrote it last has not closed it: its content is lost, and it can only be removed.
    pub inconsistent: bool,
}

/// A change of one dirty bitmap.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum BitmapChange {
    /// It is made.
    Add {
        /// Bytes that a bit stands for.
        granularity: u64,
        /// Whether changes are recorded in it.
        recording: bool,
        /// Whether it goes into the image.
        persistent: bool,
    },
    /// It goes, also from the image: durable when that is answered.
    Remove,
    /// Nothing is dirty any more.
    Clear,
    /// Changes are recorded in it from now on, or not.
    Record(bool),
    /// All that is dirty in this one is dirty in it.
    Merge(DirtyBitmap),
}

/// Dirty bitmaps, those that are in the image and others.
///
/// Errors: `NotFound` and `Exists` name the bitmap, in QEMU's words; `Invalid` where it cannot be stored or is
/// inconsistent.
pub trait Bitmaps: Sync {
    /// All bitmaps, oldest first.
    fn list<'a>(&'a self, next: Next<'a>) -> LocalFut<'a, Result<Vec<BitmapInfo>>>;
    /// The bitmap `name` as it is now.
    fn content<'a>(&'a self, name: &'a str, next: Next<'a>) -> LocalFut<'a, Result<DirtyBitmap>>;
    /// Changes the bitmap `name`. What is recorded in it from then on is what views show that are built later.
    fn change<'a>(&'a self, name: &'a str, change: BitmapChange, next: Next<'a>) -> LocalFut<'a, Result<()>>;
}

/// A bound on what a node holds, for those who store in it what they could fetch again.
pub trait Quota: Sync {
    /// Most bytes of storage that it shall take.
    fn limit(&self) -> u64;
    /// Bytes that it takes, with those that the books about more of it will take.
    fn used(&self) -> u64;
    /// Most bytes that come on top when `range`, which it does not hold, is stored in it.
    fn cost(&self, range: ByteRange) -> u64;
}

/// Storing bytes compressed, cluster by cluster: packing may be done side by side, storing says in which order they
/// lie.
pub trait Compress: Sync {
    /// Packs one cluster; the last one of the node may be shorter. Nothing is stored, and no lock is needed.
    fn pack(&self, bytes: Lease) -> LocalFut<'_, Result<Packed>>;

    /// Stores what was packed in place of the cluster that begins at `start`. The core holds its range lock.
    fn store_packed<'a>(&'a self, start: u64, packed: Packed, next: Next<'a>) -> LocalFut<'a, Result<()>>;
}

/// A cluster that was packed.
#[derive(Debug)]
pub struct Packed {
    /// Its bytes as they are, to be stored so where `packed` is none.
    pub bytes: Lease,
    /// Its bytes compressed; `None` where that saves nothing.
    pub packed: Option<Vec<u8>>,
}
