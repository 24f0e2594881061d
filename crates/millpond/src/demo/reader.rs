//! One reader: a thread that has a disk open as a virtual machine would, or a virtual machine that has booted from it,
//! and does what it is told.

use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use block::{BlockError, ByteRange, ErrorKind, Result};
use engine::{Engine, Reader};
use io::sync::{mpsc, oneshot};
use serde_json::json;

use super::host::GRANULE;
use super::machine::{self, Machine, Qemu, checksum};
use super::source::Reference;
use super::sweep::{pieces, sweep};

/// Bytes per read, and reads in flight of each reader, when everything is read.
const PIECE: u64 = 1 << 20;
const DEPTH: usize = 2;

/// Longest pause between two reads that are timed: guests also work with what they have read.
const THINK_MICROS_MAX: u64 = 25_000;

/// A read that was timed.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sample {
    pub(super) took: Duration,
    pub(super) ended: Instant,
    pub(super) wrong: u64,
    /// Whether this reader has read there before.
    pub(super) again: bool,
}

/// What a reader has compared.
#[derive(Clone, Copy, Default, Debug, PartialEq, Eq)]
pub(super) struct Compared {
    pub(super) bytes: u64,
    pub(super) wrong: u64,
    /// Bytes that the reader wrote to its own disk, and found there again.
    pub(super) written: u64,
}

/// What a reader is.
#[derive(Clone)]
pub(super) enum Kind {
    /// Our own engine, in this process.
    Engine(Arc<Engine>),
    /// A machine; its disks have room for a granule behind the image.
    Machine(Qemu),
}

impl Kind {
    /// Many of them, for people.
    pub(super) fn named(&self) -> String {
        match self {
            Self::Engine(_) => "readers".to_owned(),
            Self::Machine(qemu) => format!("guests of QEMU ({})", qemu.accelerator()),
        }
    }

    /// How machines are run, if they are machines.
    pub(super) fn accelerator(&self) -> Option<&'static str> {
        match self {
            Self::Engine(_) => None,
            Self::Machine(qemu) => Some(qemu.accelerator()),
        }
    }
}

/// A disk in use.
enum Disk {
    Node(Rc<Reader>),
    Machine(Machine),
}

/// What a reader is told to do.
pub(super) enum Task {
    /// Open the disk at this path.
    Open(PathBuf, Answer<()>),
    /// Let go of it.
    Close(Answer<()>),
    /// Read these, one at a time; over and over until the flag is set, if there is one.
    Read(Vec<ByteRange>, Option<Arc<AtomicBool>>, Answer<Vec<Sample>>),
    /// Read everything and compare every byte.
    Compare(Answer<Compared>),
}

/// Where an answer goes.
pub(super) type Answer<T> = oneshot::Sender<Result<T>>;

/// A reader's thread.
pub(super) struct Guest {
    pub(super) name: String,
    /// Its number among the readers.
    pub(super) number: u64,
    pub(super) kind: Kind,
    pub(super) reference: Arc<Reference>,
    /// Bytes of the image.
    pub(super) size: u64,
    /// The checksum of what it wrote to its disk.
    pub(super) kept: Option<u32>,
}

impl Guest {
    /// Does what it is told until nobody tells it any more.
    pub(super) async fn work(mut self, mut todo: mpsc::UnboundedReceiver<Task>) {
        let mut disk = None;
        while let Some(task) = todo.recv().await {
            // Whoever asked may be gone.
            match task {
                Task::Open(path, answer) => {
                    let opened = self.open(&path).await;
                    let _ = answer.send(opened.map(|opened| disk = Some(opened)));
                }
                Task::Close(answer) => drop(answer.send(self.close(disk.take()).await)),
                Task::Read(ranges, until, answer) => {
                    drop(answer.send(self.read(disk.as_mut(), &ranges, until).await));
                }
                Task::Compare(answer) => drop(answer.send(self.compare(disk.as_mut()).await)),
            }
        }
    }

    /// As a VM does: the file's own backing name leads on to the host.
    async fn open(&self, path: &Path) -> Result<Disk> {
        let engine = match &self.kind {
            Kind::Machine(qemu) => return Machine::boot(qemu, path, "qcow2", false).await.map(Disk::Machine),
            Kind::Engine(engine) => engine,
        };
        let options = json!({
            "driver": "qcow2", "node-name": self.name, "read-only": true,
            "file": { "driver": "file", "filename": path },
        });
        engine.add_node(options.as_object().cloned().unwrap_or_default()).await?;
        Ok(Disk::Node(Rc::new(engine.reader(&self.name, &self.name)?)))
    }

    async fn close(&self, disk: Option<Disk>) -> Result<()> {
        match (disk.ok_or_else(closed)?, &self.kind) {
            (Disk::Machine(machine), _) => machine.off().await,
            (Disk::Node(reader), Kind::Engine(engine)) => {
                Rc::into_inner(reader).ok_or_else(closed)?.close().await?;
                engine.delete_node(&self.name).await
            }
            (Disk::Node(_), Kind::Machine(_)) => Err(closed()),
        }
    }

    async fn read(
        &self,
        disk: Option<&mut Disk>,
        ranges: &[ByteRange],
        until: Option<Arc<AtomicBool>>,
    ) -> Result<Vec<Sample>> {
        let disk = disk.ok_or_else(closed)?;
        let mut samples = Vec::with_capacity(ranges.len());
        for range in ranges.iter().cycle() {
            let again = samples.len() >= ranges.len();
            if until.as_ref().map_or(again, |flag| flag.load(Ordering::Relaxed)) {
                break;
            }
            io::sleep(think(range)).await;
            samples.push(self.read_one(disk, *range, again).await?);
        }
        Ok(samples)
    }

    async fn read_one(&self, disk: &mut Disk, range: ByteRange, again: bool) -> Result<Sample> {
        let began = Instant::now();
        let (ended, wrong) = match disk {
            Disk::Node(reader) => {
                let bytes = reader.read(range).await?;
                (Instant::now(), self.reference.wrong(range.start(), &bytes, &mut Vec::new())?)
            }
            Disk::Machine(machine) => {
                let sum = machine.sum(range.start(), range.len()).await?;
                let right = checksum(&self.reference.read(range.start(), range.len())?);
                (Instant::now(), if sum == right { 0 } else { range.len() })
            }
        };
        Ok(Sample { took: ended - began, ended, wrong, again })
    }

    async fn compare(&mut self, disk: Option<&mut Disk>) -> Result<Compared> {
        let mut compared = Compared::default();
        match disk.ok_or_else(closed)? {
            Disk::Machine(machine) => {
                let sums = machine.sums(0, self.size / GRANULE).await?;
                compared.bytes = sums.len() as u64 * GRANULE;
                compared.wrong = machine::wrong(&self.reference, 0, &sums)?;
                compared.written = self.write(machine).await?;
            }
            Disk::Node(disk) => {
                let all = pieces(ByteRange::between(0, disk.size()), PIECE);
                let mut buf = Vec::new();
                sweep(disk, all, DEPTH, |range, bytes| {
                    compared.bytes += range.len();
                    compared.wrong += self.reference.wrong(range.start(), bytes, &mut buf)?;
                    Ok(())
                })
                .await?;
            }
        }
        Ok(compared)
    }

    /// Copies a granule of the image behind the image, unless it has done so before, and reads it there. Answers how
    /// many bytes it found.
    async fn write(&mut self, machine: &mut Machine) -> Result<u64> {
        let from = self.number * GRANULE % self.size;
        if self.kept.is_none() {
            machine.copy(from, self.size).await?;
            self.kept = Some(checksum(&self.reference.read(from, GRANULE)?));
            // Another one in the buffer: what is read next is what came from the disk.
            machine.sum((from + GRANULE) % self.size, GRANULE).await?;
        }
        let found = machine.sum(self.size, GRANULE).await?;
        Ok(if self.kept == Some(found) { GRANULE } else { 0 })
    }
}

fn closed() -> BlockError {
    BlockError::new(ErrorKind::Invalid, "the disk is not open")
}

/// What a guest does between two reads; the same for the same read, and no two readers in step.
fn think(range: &ByteRange) -> Duration {
    let spread = (range.start() / 4096).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32;
    Duration::from_micros(spread % THINK_MICROS_MAX)
}
