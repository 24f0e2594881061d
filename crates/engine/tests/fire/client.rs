//! A client of the live export: several random requests at a time, each held against the model.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use block::{ByteRange, ErrorKind};
use driver::protocols::nbd::{Config, NbdClient, Use};
use flow::guard::Domain;
use flow::{Body, Execute, Flags, Node, NodeId, NodeState, Op, Request, View, ViewBuilder};
use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use io::{Address, Lease, World};
use sim::Rng;

use super::model::{Change, Model, UNIT};

/// Most units of a request.
const LONG: u64 = 640;

/// How a client behaves.
#[derive(Clone)]
pub struct Habit {
    pub address: Address,
    pub export: String,
    pub writes: bool,
    /// Requests until it says goodbye.
    pub requests: u64,
    /// Requests at a time.
    pub depth: usize,
    /// Goes away without waiting for its last requests.
    pub rude: bool,
    /// Errors that the chain may answer with.
    pub may_fail: &'static [ErrorKind],
}

/// What clients did, all together.
#[derive(Default, Debug)]
pub struct Done {
    pub reads: AtomicU64,
    pub changes: AtomicU64,
    pub others: AtomicU64,
    pub failed: AtomicU64,
    pub edits: AtomicU64,
}

impl Done {
    pub fn total(&self) -> u64 {
        [&self.reads, &self.changes, &self.others].iter().map(|count| count.load(Ordering::Relaxed)).sum()
    }
}

/// Shares of kinds of requests. Clients that do not write read instead.
const KINDS: &[(u64, Kind)] = &[
    (45, Kind::Read),
    (24, Kind::Write(Flags::NONE)),
    (4, Kind::Write(Flags::FUA)),
    (4, Kind::Zero(Flags::NONE)),
    (4, Kind::Zero(Flags::MAY_UNMAP)),
    (2, Kind::Zero(Flags::FUA)),
    (5, Kind::Discard),
    (4, Kind::Flush),
    (2, Kind::Cache),
    (6, Kind::Extents),
];

#[derive(Clone, Copy)]
enum Kind {
    Read,
    Write(Flags),
    Zero(Flags),
    Discard,
    Flush,
    Cache,
    Extents,
}

/// One connection.
pub struct Client {
    nbd: Arc<NbdClient>,
    view: Arc<View>,
    model: Arc<Model>,
    done: Arc<Done>,
    habit: Habit,
}

impl Client {
    pub async fn connect(
        world: &Arc<dyn World>,
        habit: Habit,
        model: Arc<Model>,
        done: Arc<Done>,
    ) -> Result<Self, String> {
        let config = Config::new(habit.address.clone(), &habit.export);
        let use_as = Use { writable: habit.writes, no_flush: false, unmap: true };
        let nbd = NbdClient::connect(config, use_as, world.clone()).await.map_err(|e| e.to_string())?;
        let nbd = Arc::new(nbd);
        let state = NodeState::new(Arc::<Domain>::default());
        let node = Node::new(NodeId(0), "client".into(), "nbd", Body::Executes(nbd.clone()), state);
        let view = ViewBuilder::new().node(Arc::new(node), Vec::new()).build().map_err(|e| e.to_string())?;
        Ok(Self { nbd, view, model, done, habit })
    }

    /// All its requests.
    pub async fn run(&self, mut rng: Rng) -> Result<(), String> {
        let mut flying = FuturesUnordered::new();
        for _ in 0..self.habit.requests {
            if flying.len() == self.habit.depth
                && let Some(answer) = flying.next().await
            {
                let _: () = answer?;
            }
            flying.push(self.request(self.kind(&mut rng), self.range(&mut rng)));
            if rng.chance(0.1) {
                io::yield_now().await;
            }
        }
        if self.habit.rude {
            return Ok(());
        }
        while let Some(answer) = flying.next().await {
            answer?;
        }
        Ok(())
    }

    /// Reads all there is.
    pub async fn read_all(&self) -> Result<(), String> {
        let size = self.model.size();
        let step = LONG * UNIT;
        for start in (0..size).step_by(step as usize) {
            self.request(Kind::Read, ByteRange::between(start, (start + step).min(size))).await?;
        }
        Ok(())
    }

    /// Makes all that was written durable.
    pub async fn flush(&self) -> Result<(), String> {
        self.request(Kind::Flush, ByteRange::default()).await
    }

    fn kind(&self, rng: &mut Rng) -> Kind {
        let mut left = rng.below(KINDS.iter().map(|(share, _)| share).sum());
        let kind = KINDS.iter().find(|(share, _)| {
            let here = left < *share;
            left = left.saturating_sub(*share);
            here
        });
        match kind.map_or(Kind::Read, |(_, kind)| *kind) {
            Kind::Write(_) | Kind::Zero(_) | Kind::Discard if !self.habit.writes => Kind::Read,
            kind => kind,
        }
    }

    /// Mostly short, and half of them where everybody else is, too.
    fn range(&self, rng: &mut Rng) -> ByteRange {
        let units = self.model.size() / UNIT;
        let reach = if rng.chance(0.5) { units.min(256) } else { units };
        let start = rng.below(reach);
        let longest = match rng.below(10) {
            0 => LONG,
            1..=3 => 64,
            _ => 10,
        };
        let len = (1 + rng.below(longest)).min(units - start);
        ByteRange::new(start * UNIT, len * UNIT)
    }

    async fn request(&self, kind: Kind, range: ByteRange) -> Result<(), String> {
        match kind {
            Kind::Read => self.read(range).await,
            Kind::Write(flags) => self.change(Op::Write, flags, self.model.write(range)).await,
            Kind::Zero(flags) => self.change(Op::WriteZeroes, flags, self.model.zero(range)).await,
            Kind::Discard => self.change(Op::Discard, Flags::NONE, self.model.discard(range)).await,
            Kind::Flush => self.other(Request::flush()).await,
            Kind::Cache => self.other(Request::new(Op::Cache, range)).await,
            Kind::Extents => self.extents(range).await,
        }
    }

    async fn read(&self, range: ByteRange) -> Result<(), String> {
        let read = self.model.read(range);
        let rq = Request::new(Op::Read, range);
        let mut lease = Lease::new(range.len() as usize);
        lease.fill(0xcc);
        let (result, lease) = self.nbd.execute(rq, lease, self.view.next()).await;
        self.done.reads.fetch_add(1, Ordering::Relaxed);
        match result {
            Ok(()) => self.model.found(&read, &lease),
            Err(error) => {
                self.model.unread(&read);
                self.failed(&rq, &error)
            }
        }
    }

    async fn change(&self, op: Op, flags: Flags, change: Option<Change>) -> Result<(), String> {
        let Some(change) = change else { return Ok(()) };
        let rq = Request::new(op, change.range).with_flags(flags);
        let lease = if op == Op::Write { Lease::copy_of(&change.bytes) } else { Lease::empty() };
        let (result, _) = self.nbd.execute(rq, lease, self.view.next()).await;
        self.model.changed(&change, result.is_ok());
        self.done.changes.fetch_add(1, Ordering::Relaxed);
        result.or_else(|error| self.failed(&rq, &error))
    }

    async fn other(&self, rq: Request) -> Result<(), String> {
        let (result, _) = self.nbd.execute(rq, Lease::empty(), self.view.next()).await;
        self.done.others.fetch_add(1, Ordering::Relaxed);
        result.or_else(|error| self.failed(&rq, &error))
    }

    async fn extents(&self, range: ByteRange) -> Result<(), String> {
        let read = self.model.read(range);
        let answer = self.nbd.extents(range, self.view.next()).await;
        self.done.others.fetch_add(1, Ordering::Relaxed);
        match answer {
            Ok(extents) => self.model.told(&read, &extents),
            Err(error) => {
                self.model.unread(&read);
                self.failed(&Request::new(Op::Read, range), &error)
            }
        }
    }

    fn failed(&self, rq: &Request, error: &block::BlockError) -> Result<(), String> {
        self.done.failed.fetch_add(1, Ordering::Relaxed);
        match self.habit.may_fail.contains(&error.kind()) {
            true => Ok(()),
            false => Err(format!("{:?} of {} failed: {error}", rq.op, rq.range)),
        }
    }
}
