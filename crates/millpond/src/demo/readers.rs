//! The readers: each a thread with a connection of its own to the host, as virtual machines would be.

use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use block::{BlockError, ByteRange, ErrorKind, Result};
use engine::{Engine, Reader};
use io::real::RealWorld;
use io::sync::{mpsc, oneshot};
use serde_json::json;

use super::repository::EXPORT;
use super::source::Reference;
use super::sweep::{pieces, sweep};

/// Bytes per read, and reads in flight of each reader, when everything is read.
const PIECE: u64 = 1 << 20;
const DEPTH: usize = 2;

/// Longest pause between two reads that are timed: guests also work with what they have read.
const THINK_MICROS_MAX: u64 = 25_000;

/// All readers.
pub(super) struct Readers {
    list: Vec<mpsc::UnboundedSender<Task>>,
    limit: Duration,
}

/// A read that was timed.
#[derive(Clone, Copy)]
pub(super) struct Sample {
    pub(super) took: Duration,
    pub(super) ended: Instant,
    pub(super) wrong: u64,
}

/// What a reader has compared.
#[derive(Clone, Copy, Default, Debug, PartialEq, Eq)]
pub(super) struct Compared {
    pub(super) bytes: u64,
    pub(super) wrong: u64,
}

enum Task {
    Open(PathBuf, Answer<()>),
    Read(Vec<ByteRange>, Answer<Vec<Sample>>),
    Compare(Answer<Compared>),
}

type Answer<T> = oneshot::Sender<Result<T>>;

impl Readers {
    /// Starts `count` threads; none is connected yet. Each phase may take `limit`.
    pub(super) fn start(
        count: usize,
        world: &RealWorld,
        engine: &Arc<Engine>,
        reference: &Arc<Reference>,
        limit: Duration,
    ) -> Result<Self> {
        let start = |number: usize| {
            let (tasks, todo) = mpsc::unbounded_channel();
            let (world, engine, reference) = (world.clone(), engine.clone(), reference.clone());
            let name = format!("reader{number}");
            let thread = std::thread::Builder::new().name(name.clone());
            let body = move || world.block_on(work(name, engine, reference, todo));
            let started = thread.spawn(body);
            started.map(|_| tasks).map_err(|e| BlockError::system("cannot start a reader", e))
        };
        Ok(Self { list: (0..count).map(start).collect::<Result<_>>()?, limit })
    }

    /// Connects all of them.
    pub(super) async fn open(&self, socket: &Path) -> Result<()> {
        self.all("connecting", |_, answer| Task::Open(socket.to_owned(), answer)).await.map(drop)
    }

    /// Each reads its list, one read at a time.
    pub(super) async fn read(&self, lists: &[Vec<ByteRange>]) -> Result<Vec<Sample>> {
        let task = |number: usize, answer| Task::Read(lists.get(number).cloned().unwrap_or_default(), answer);
        Ok(self.all("reading", task).await?.concat())
    }

    /// Each reads everything and compares every byte.
    pub(super) async fn compare(&self) -> Result<Vec<Compared>> {
        self.all("comparing", |_, answer| Task::Compare(answer)).await
    }

    async fn all<T>(&self, what: &str, task: impl Fn(usize, Answer<T>) -> Task) -> Result<Vec<T>> {
        let deadline = io::now().after(self.limit);
        let mut answers = Vec::new();
        for (number, reader) in self.list.iter().enumerate() {
            let (answer, answered) = oneshot::channel();
            reader.send(task(number, answer)).map_err(|_| gone(number))?;
            answers.push(answered);
        }
        let mut all = Vec::new();
        for (number, answer) in answers.into_iter().enumerate() {
            let Some(answer) = io::timeout_at(deadline, answer).await else {
                let context = format!("reader {number}: {what} took longer than {} s", self.limit.as_secs());
                return Err(BlockError::new(ErrorKind::TimedOut, context));
            };
            let answer = answer.map_err(|_| gone(number))?;
            all.push(answer.map_err(|e| e.within(format_args!("reader {number}, {what}")))?);
        }
        Ok(all)
    }
}

fn gone(number: usize) -> BlockError {
    BlockError::new(ErrorKind::Cancelled, format!("reader {number} has ended"))
}

/// A reader's thread.
async fn work(
    name: String,
    engine: Arc<Engine>,
    reference: Arc<Reference>,
    mut todo: mpsc::UnboundedReceiver<Task>,
) {
    let mut disk = None;
    while let Some(task) = todo.recv().await {
        let closed = || BlockError::new(ErrorKind::Invalid, "not connected");
        // Whoever asked may be gone.
        match task {
            Task::Open(socket, answer) => {
                let opened = open(&name, &engine, &socket).await;
                let _ = answer.send(opened.map(|reader| disk = Some(reader)));
            }
            Task::Read(ranges, answer) => {
                let samples = match &disk {
                    Some(disk) => sample(disk, &ranges, &reference).await,
                    None => Err(closed()),
                };
                let _ = answer.send(samples);
            }
            Task::Compare(answer) => {
                let compared = match &disk {
                    Some(disk) => compare(disk, &reference).await,
                    None => Err(closed()),
                };
                let _ = answer.send(compared);
            }
        }
    }
}

async fn open(name: &str, engine: &Arc<Engine>, socket: &Path) -> Result<Rc<Reader>> {
    let options = json!({
        "driver": "nbd", "node-name": name, "read-only": true, "export": EXPORT,
        "server": { "type": "unix", "path": socket },
    });
    engine.add_node(options.as_object().cloned().unwrap_or_default()).await?;
    Ok(Rc::new(engine.reader(name, name)?))
}

async fn sample(disk: &Reader, ranges: &[ByteRange], reference: &Reference) -> Result<Vec<Sample>> {
    let (mut samples, mut buf) = (Vec::with_capacity(ranges.len()), Vec::new());
    for range in ranges {
        io::sleep(think(range)).await;
        let began = Instant::now();
        let bytes = disk.read(*range).await?;
        let ended = Instant::now();
        let wrong = reference.wrong(range.start(), &bytes, &mut buf)?;
        samples.push(Sample { took: ended - began, ended, wrong });
    }
    Ok(samples)
}

/// What a guest does between two reads; the same for the same read, and no two readers in step.
fn think(range: &ByteRange) -> Duration {
    let spread = (range.start() / 4096).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32;
    Duration::from_micros(spread % THINK_MICROS_MAX)
}

async fn compare(disk: &Rc<Reader>, reference: &Reference) -> Result<Compared> {
    let (mut compared, mut buf) = (Compared::default(), Vec::new());
    let all = pieces(ByteRange::between(0, disk.size()), PIECE);
    sweep(disk, all, DEPTH, |range, bytes| {
        compared.bytes += range.len();
        compared.wrong += reference.wrong(range.start(), bytes, &mut buf)?;
        Ok(())
    })
    .await?;
    Ok(compared)
}
