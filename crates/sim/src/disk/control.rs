//! What a test may do to single operations: watch, delay, hold, release, fail.

use std::path::{Path, PathBuf};
use std::time::Duration;

use block::{ByteRange, Errno};

/// What an operation does.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum OpKind {
    /// Opens the file. May be delayed or fail, not be held.
    Open,
    /// Reads bytes.
    Read,
    /// Writes bytes.
    Write,
    /// Makes bytes zero.
    Zero,
    /// Gives storage back.
    Discard,
    /// Makes earlier changes durable.
    Flush,
    /// Changes the length (the start of its range is the new one).
    SetLen,
    /// Asks what is stored.
    Extents,
}

impl OpKind {
    /// Whether it changes the file.
    pub const fn changes(self) -> bool {
        matches!(self, Self::Write | Self::Zero | Self::Discard | Self::SetLen)
    }

    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Open => "open",
            Self::Read => "read",
            Self::Write => "write",
            Self::Zero => "zero",
            Self::Discard => "discard",
            Self::Flush => "flush",
            Self::SetLen => "set-len",
            Self::Extents => "extents",
        }
    }
}

/// An operation on a file.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Op {
    /// The file.
    pub path: PathBuf,
    /// What it does.
    pub kind: OpKind,
    /// Where; empty for a flush and an open.
    pub range: ByteRange,
    /// Whether it is one that must not wait (`try_read`, `try_write`).
    pub inline: bool,
}

impl Op {
    /// Whether it is a `kind` on the file `path`.
    pub fn is(&self, kind: OpKind, path: impl AsRef<Path>) -> bool {
        self.kind == kind && self.path == path.as_ref()
    }
}

/// What becomes of an operation.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Verdict {
    /// It takes its course (errors by chance included).
    Go,
    /// It takes that long. An inline one would block.
    Delay(Duration),
    /// It waits until the test releases or fails it. An inline one would block.
    Hold,
    /// It fails; a write with any sectors of it done.
    Fail(Errno),
}

/// Decides about each operation before it starts. Must not call the disk.
pub type Policy = Box<dyn FnMut(&Op) -> Verdict + Send>;

/// Names an operation that is held.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct OpId(pub(crate) u64);

/// Where the power goes. Counts are those of [`crate::Counts`], from 1.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum CrashPoint {
    /// Just after the n-th change, which is not durable then.
    Write(u64),
    /// Just before the n-th flush makes anything durable.
    Flush(u64),
}

/// What a disk has done since it was put into its world.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Counts {
    /// Reads that were carried out, in bytes.
    pub read_bytes: u64,
    /// Bytes that one file has taken from another.
    pub taken_bytes: u64,
    /// Changes: writes (each part of a split one), zeroes, discards and resizes.
    pub writes: u64,
    /// Flushes.
    pub flushes: u64,
}

impl Counts {
    /// Every point at which the power can go in a run that does this much.
    pub fn crash_points(self) -> impl Iterator<Item = CrashPoint> {
        (1..=self.writes).map(CrashPoint::Write).chain((1..=self.flushes).map(CrashPoint::Flush))
    }
}
