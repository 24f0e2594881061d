//! The readers: each a thread with a clone of its own, as virtual machines would be, or one that runs one.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use block::{BlockError, ByteRange, ErrorKind, Result};
use io::Moment;
use io::real::RealWorld;
use io::sync::{mpsc, oneshot};

use super::reader::{Answer, Compared, Guest, Kind, Sample, Task};
use super::source::Source;

/// All readers.
pub(super) struct Readers {
    list: Vec<mpsc::UnboundedSender<Task>>,
    limit: Duration,
}

/// What all readers are doing.
struct Pending<T> {
    what: &'static str,
    deadline: Moment,
    limit: Duration,
    answers: Vec<oneshot::Receiver<Result<T>>>,
}

/// Readers that read until they are told to stop.
pub(super) struct Browsing {
    stop: Arc<AtomicBool>,
    pending: Pending<Vec<Sample>>,
}

impl Readers {
    /// Starts `count` threads of this kind for an image; none has a disk yet. Each phase may take `limit`.
    pub(super) fn start(
        count: usize,
        world: &RealWorld,
        kind: &Kind,
        source: &Source,
        limit: Duration,
    ) -> Result<Self> {
        let start = |number: usize| {
            let (tasks, todo) = mpsc::unbounded_channel();
            let world = world.clone();
            let guest = Guest {
                name: format!("reader{number}"),
                number: number as u64,
                kind: kind.clone(),
                reference: source.reference.clone(),
                size: source.size,
                kept: None,
            };
            let thread = std::thread::Builder::new().name(guest.name.clone());
            let started = thread.spawn(move || world.block_on(guest.work(todo)));
            started.map(|_| tasks).map_err(|e| BlockError::system("cannot start a reader", e))
        };
        Ok(Self { list: (0..count).map(start).collect::<Result<_>>()?, limit })
    }

    /// Each opens its disk.
    pub(super) async fn open(&self, disks: &[PathBuf]) -> Result<()> {
        let task = |number: usize, answer| Task::Open(disks.get(number).cloned().unwrap_or_default(), answer);
        self.begin("opening its disk", task)?.finish().await.map(drop)
    }

    /// Each closes its disk.
    pub(super) async fn close(&self) -> Result<()> {
        self.begin("closing its disk", |_, answer| Task::Close(answer))?.finish().await.map(drop)
    }

    /// All read the same list, one read at a time.
    pub(super) async fn read(&self, list: &[ByteRange]) -> Result<Vec<Sample>> {
        let task = |_, answer| Task::Read(list.to_vec(), None, answer);
        Ok(self.begin("reading", task)?.finish().await?.concat())
    }

    /// Each reads its list, one read at a time, over and over until [`Browsing::stop`].
    pub(super) fn browse(&self, lists: &[Vec<ByteRange>]) -> Result<Browsing> {
        let stop = Arc::new(AtomicBool::new(false));
        let list = |number: usize| lists.get(number).cloned().unwrap_or_default();
        let task = |number, answer| Task::Read(list(number), Some(stop.clone()), answer);
        let pending = self.begin("reading", task)?;
        Ok(Browsing { stop, pending })
    }

    /// Each reads everything and compares every byte.
    pub(super) async fn compare(&self) -> Result<Vec<Compared>> {
        self.begin("comparing", |_, answer| Task::Compare(answer))?.finish().await
    }

    fn begin<T>(&self, what: &'static str, task: impl Fn(usize, Answer<T>) -> Task) -> Result<Pending<T>> {
        let mut answers = Vec::new();
        for (number, reader) in self.list.iter().enumerate() {
            let (answer, answered) = oneshot::channel();
            reader.send(task(number, answer)).map_err(|_| gone(number))?;
            answers.push(answered);
        }
        Ok(Pending { what, deadline: io::now().after(self.limit), limit: self.limit, answers })
    }
}

impl Browsing {
    /// Ends it; answers what was read.
    pub(super) async fn stop(self) -> Result<Vec<Sample>> {
        self.stop.store(true, Ordering::Relaxed);
        Ok(self.pending.finish().await?.concat())
    }
}

impl<T> Pending<T> {
    async fn finish(self) -> Result<Vec<T>> {
        let mut all = Vec::new();
        for (number, answer) in self.answers.into_iter().enumerate() {
            let Some(answer) = io::timeout_at(self.deadline, answer).await else {
                let (what, limit) = (self.what, self.limit.as_secs());
                let context = format!("reader {number}: {what} took longer than {limit} s");
                return Err(BlockError::new(ErrorKind::TimedOut, context));
            };
            let answer = answer.map_err(|_| gone(number))?;
            all.push(answer.map_err(|e| e.within(format_args!("reader {number}, {}", self.what)))?);
        }
        Ok(all)
    }
}

fn gone(number: usize) -> BlockError {
    BlockError::new(ErrorKind::Cancelled, format!("reader {number} has ended"))
}
