//! One reader: a thread that has a disk open as a virtual machine would, and does what it is told.

use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use block::{BlockError, ByteRange, ErrorKind, Result};
use engine::{Engine, Reader};
use io::sync::{mpsc, oneshot};
use serde_json::json;

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
    pub(super) engine: Arc<Engine>,
    pub(super) reference: Arc<Reference>,
}

impl Guest {
    /// Does what it is told until nobody tells it any more.
    pub(super) async fn work(self, mut todo: mpsc::UnboundedReceiver<Task>) {
        let mut disk = None;
        while let Some(task) = todo.recv().await {
            // Whoever asked may be gone.
            match task {
                Task::Open(path, answer) => {
                    let opened = self.open(&path).await;
                    let _ = answer.send(opened.map(|reader| disk = Some(reader)));
                }
                Task::Close(answer) => drop(answer.send(self.close(disk.take()).await)),
                Task::Read(ranges, until, answer) => {
                    drop(answer.send(self.read(disk.as_ref(), &ranges, until).await));
                }
                Task::Compare(answer) => drop(answer.send(self.compare(disk.as_ref()).await)),
            }
        }
    }

    /// As a VM does: the file's own backing name leads on to the host.
    async fn open(&self, path: &Path) -> Result<Rc<Reader>> {
        let options = json!({
            "driver": "qcow2", "node-name": self.name, "read-only": true,
            "file": { "driver": "file", "filename": path },
        });
        self.engine.add_node(options.as_object().cloned().unwrap_or_default()).await?;
        Ok(Rc::new(self.engine.reader(&self.name, &self.name)?))
    }

    async fn close(&self, disk: Option<Rc<Reader>>) -> Result<()> {
        let disk = disk.and_then(Rc::into_inner).ok_or_else(closed)?;
        disk.close().await?;
        self.engine.delete_node(&self.name).await
    }

    async fn read(
        &self,
        disk: Option<&Rc<Reader>>,
        ranges: &[ByteRange],
        until: Option<Arc<AtomicBool>>,
    ) -> Result<Vec<Sample>> {
        let disk = disk.ok_or_else(closed)?;
        let (mut samples, mut buf) = (Vec::with_capacity(ranges.len()), Vec::new());
        for range in ranges.iter().cycle() {
            let again = samples.len() >= ranges.len();
            if until.as_ref().map_or(again, |flag| flag.load(Ordering::Relaxed)) {
                break;
            }
            io::sleep(think(range)).await;
            let began = Instant::now();
            let bytes = disk.read(*range).await?;
            let ended = Instant::now();
            let wrong = self.reference.wrong(range.start(), &bytes, &mut buf)?;
            samples.push(Sample { took: ended - began, ended, wrong, again });
        }
        Ok(samples)
    }

    async fn compare(&self, disk: Option<&Rc<Reader>>) -> Result<Compared> {
        let disk = disk.ok_or_else(closed)?;
        let (mut compared, mut buf) = (Compared::default(), Vec::new());
        let all = pieces(ByteRange::between(0, disk.size()), PIECE);
        sweep(disk, all, DEPTH, |range, bytes| {
            compared.bytes += range.len();
            compared.wrong += self.reference.wrong(range.start(), bytes, &mut buf)?;
            Ok(())
        })
        .await?;
        Ok(compared)
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
