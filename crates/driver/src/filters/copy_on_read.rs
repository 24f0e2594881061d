//! `copy-on-read`: what its child does not hold is fetched once, answered at once, and stored in the child.
//!
//! The child's first format layer is the cache; what it does not hold comes from its backing child. Bytes are
//! fetched in whole granules (the cache's clusters), one flight each, whoever asks: guest read, guest write to a
//! part of a granule, or fill ([`Op::Cache`]). A guest is answered when its bytes have arrived; storing follows
//! under the range lock of the cache and never touches what a guest has written meanwhile.
//!
//! A cache that has a bound on what it holds ([`flow::Quota`]) and has no room for more is read through: what it lacks
//! comes from below as it is asked for, and is not stored.
//!
//! With a `bottom`, only what the layers down to that one hold is stored: what lies below it is passed on.
//!
//! Invariants: a byte that the cache holds is never fetched; a flush waits for the stores that are under way; a
//! store that fails loses nothing (the bytes are fetched again when they are next wanted), and is told to whoever asked
//! for the store itself ([`Op::Cache`]).

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use block::{Alignment, BlockError, ByteRange, ChildIndex, ErrorKind, Extent, Priority, Result};
use flow::flights::{Boarding, Flight, Flights, Lead};
use flow::{
    Body, Execute, Flags, Limits, Next, NodeId, Now, Op, Powers, Pressure, Quota, Request, Role, Stats, View,
    Whence, Window, seam,
};
use io::{Lease, LocalFut, Moment};
use serde::Deserialize;

use crate::context::{OpenContext, Opened};

const CHILD: ChildIndex = ChildIndex(0);
/// Longest flight in bytes: what one request to the source asks for, unless a granule is longer.
const FLIGHT_MAX: u64 = 1 << 20;
/// Zeros in less than this many bytes are stored with what is beside them.
const STORE_MIN: u64 = 4096;
/// Bytes fetched and not yet stored, at most.
const FLYING_MAX: u64 = 64 << 20;

/// Its own options.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Options {
    /// Node-name of the lowest layer whose data is stored; without one, that of all layers is.
    bottom: Option<String>,
}

/// Opens a `copy-on-read` node.
pub fn open(mut context: OpenContext) -> LocalFut<'static, Result<Opened>> {
    Box::pin(async move {
        let Options { bottom } = context.parse()?;
        let bottom = bottom.map(|name| layer(context.child(Role::Filtered)?, &name)).transpose()?;
        Ok(Opened::new(Body::Executes(Arc::new(CopyOnRead::new(bottom)))))
    })
}

/// The layer called `name` of what lies below.
fn layer(below: &View, name: &str) -> Result<NodeId> {
    let refused = |why: &str| BlockError::new(ErrorKind::Invalid, format!("Bottom node '{name}' {why}"));
    let found = below.nodes().find(|node| &**node.name() == name).ok_or_else(|| refused("not found"))?;
    match found.body() {
        Body::Executes(filter) if filter.size().is_none() => Err(refused("is a filter")),
        _ => Ok(found.id()),
    }
}

/// The filter.
pub struct CopyOnRead {
    bottom: Option<NodeId>,
    flights: Arc<Flights>,
    counts: Arc<Counts>,
    /// Bytes that a bounded cache may come to take for what is fetched and not stored yet.
    reserved: Arc<AtomicU64>,
}

/// What a copy-on-read node has done.
#[derive(Debug, Default)]
pub struct Counts {
    /// Bytes fetched from below the cache.
    pub fetched: AtomicU64,
    /// Bytes stored in the cache.
    pub stored: AtomicU64,
    /// Bytes that could not be stored in the cache.
    pub stores_failed: AtomicU64,
}

impl Stats for Counts {
    fn stats(&self) -> Vec<(String, u64)> {
        let figures = [
            ("fetched-bytes", &self.fetched),
            ("stored-bytes", &self.stored),
            ("unstored-bytes", &self.stores_failed),
        ];
        figures.into_iter().map(|(name, value)| (name.to_owned(), value.load(Ordering::Relaxed))).collect()
    }
}

impl Default for CopyOnRead {
    fn default() -> Self {
        Self::new(None)
    }
}

impl CopyOnRead {
    /// A filter with nothing under way, that stores what the layers down to `bottom` hold.
    pub fn new(bottom: Option<NodeId>) -> Self {
        Self { bottom, flights: Flights::new(FLYING_MAX), counts: Arc::default(), reserved: Arc::default() }
    }

    /// What it has done so far.
    pub fn counts(&self) -> &Arc<Counts> {
        &self.counts
    }

    async fn read(&self, mut rq: Request, mut lease: Lease, next: Next<'_>) -> (Result<()>, Lease) {
        let mut head = lease.split_to(rq.done as usize);
        while !rq.rest().is_empty() {
            let (whence, len) = match self.whence(rq.rest(), rq.priority, next).await {
                Ok(answer) => answer,
                Err(error) => {
                    head.join(lease);
                    return (Err(error), head);
                }
            };
            let run = rq.rest().head(len);
            let kept = self.kept(whence, run, next);
            let range = if kept.range.is_empty() { run } else { kept.range };
            let part = lease.split_to(range.len() as usize);
            let (result, part) = match kept.range.is_empty() {
                true => next.execute(CHILD, rq.on(range), part).await,
                false => self.read_missing(rq.priority, kept, part, next).await,
            };
            rq.done += range.len() as u32;
            rq.acted = 0;
            head.join(part);
            if result.is_err() {
                head.join(lease);
                return (result, head);
            }
        }
        head.join(lease);
        (Ok(()), head)
    }

    async fn read_missing(
        &self,
        priority: Priority,
        kept: Kept,
        mut part: Lease,
        next: Next<'_>,
    ) -> (Result<()>, Lease) {
        let range = kept.range;
        let result = self
            .fetch(priority, kept, next, |_, bytes| {
                let wanted = bytes.range.intersection(range);
                if wanted.is_empty() {
                    return;
                }
                let from = (wanted.start() - bytes.range.start()) as usize;
                let to = (wanted.start() - range.start()) as usize;
                let len = wanted.len() as usize;
                part[to..to + len].copy_from_slice(&bytes.bytes[from..from + len]);
            })
            .await;
        (result, part)
    }

    /// Has the granules of what is [`Self::kept`] fetched (unless somebody does already) and shows all that arrives to
    /// `visit`.
    async fn fetch(
        &self,
        priority: Priority,
        kept: Kept,
        next: Next<'_>,
        mut visit: impl FnMut(&Arc<Flight>, Arrival<'_>),
    ) -> Result<()> {
        // A granule in two flights would be fetched once more to store the first.
        let (mut rest, longest) = (kept.range, FLIGHT_MAX.max(granule(next)?.bytes()));
        while !rest.is_empty() {
            let mut flights = Vec::new();
            for boarding in self.flights.board(granules(rest, next)?, longest, priority, io::now()) {
                flights.push(match boarding {
                    Boarding::Follow(flight) => flight,
                    Boarding::Lead(lead) => self.launch(lead, priority, kept.room.clone(), next),
                });
            }
            for flight in flights {
                // Abandoned by whoever fetched it: board again for what is left.
                let Some(bytes) = flight.arrived().await? else { break };
                visit(&flight, Arrival { range: flight.range(), bytes: &bytes });
                // One that others began may end before what is wanted begins.
                rest = rest.skip(flight.range().end().saturating_sub(rest.start()));
            }
        }
        Ok(())
    }

    /// Fetches and stores on this thread, whatever becomes of the one who asked.
    fn launch(&self, lead: Lead, priority: Priority, room: Option<Arc<Room>>, next: Next<'_>) -> Arc<Flight> {
        let flight = lead.flight().clone();
        let counts = self.counts.clone();
        let hold = next.hold();
        io::spawn(async move {
            fly(lead, priority, hold.next(), &counts).await;
            drop(room);
        });
        flight
    }

    /// Where the first bytes of `range` come from, when they may be fetched.
    async fn whence(&self, range: ByteRange, priority: Priority, next: Next<'_>) -> Result<(Whence, u64)> {
        let answer = next.whence(CHILD, self.bottom, range).await?;
        if answer.0 != Whence::Between || !self.flights.admit(priority).await {
            return Ok(answer);
        }
        // Somebody may have brought them meanwhile.
        next.whence(CHILD, self.bottom, range).await
    }

    /// The first bytes of `range`, which come from where `whence` says, that the cache shall take: nothing if it has
    /// them or shall not have them; those that it has room for if it has a bound. Whoever waits between this answer
    /// and the fetch finds it outdated.
    fn kept(&self, whence: Whence, range: ByteRange, next: Next<'_>) -> Kept {
        let nothing = Kept { range: ByteRange::default(), room: None };
        if whence != Whence::Between {
            return nothing;
        }
        let (Ok(Some(quota)), Ok(granule)) = (next.quota(CHILD), granule(next)) else {
            return Kept { range, room: None };
        };
        loop {
            let taken = self.reserved.load(Ordering::SeqCst);
            let free = quota.limit().saturating_sub(quota.used()).saturating_sub(taken);
            let (kept, cost) = fitting(range, free, granule, quota);
            if kept.is_empty() {
                return nothing;
            }
            let swapped =
                self.reserved.compare_exchange(taken, taken + cost, Ordering::SeqCst, Ordering::SeqCst);
            if swapped.is_ok() {
                let room = Room { cost, reserved: self.reserved.clone() };
                return Kept { range: kept, room: Some(Arc::new(room)) };
            }
        }
    }

    /// Has what the child shall hold of `range`, and does not hold yet, fetched, as far as
    /// there is room for it. Answers the flights that bring it.
    async fn populate(
        &self,
        priority: Priority,
        range: ByteRange,
        next: Next<'_>,
    ) -> Result<Vec<Arc<Flight>>> {
        let (mut rest, mut flights) = (range, Vec::new());
        while !rest.is_empty() {
            let (whence, len) = self.whence(rest, priority, next).await?;
            let kept = self.kept(whence, rest.head(len), next);
            if !kept.range.is_empty() {
                self.fetch(priority, kept, next, |flight, _| flights.push(flight.clone())).await?;
            }
            rest = rest.skip(len);
        }
        Ok(flights)
    }

    /// Has it stored as well.
    async fn cache(&self, priority: Priority, range: ByteRange, next: Next<'_>) -> Result<()> {
        let flights = self.populate(priority, range, next).await?;
        self.flights.land(range).await;
        flights.iter().try_for_each(|flight| flight.stored())
    }

    /// A change of a part of a granule needs the rest of it: through a flight, so that it is fetched once.
    async fn change(&self, rq: Request, lease: Lease, next: Next<'_>) -> (Result<()>, Lease) {
        if !rq.flags.has(Flags::UNCHANGED) {
            let populated = match edges(rq.rest(), next) {
                Ok(edges) => self.populate_all(rq.priority, edges, next).await,
                Err(error) => Err(error),
            };
            if let Err(error) = populated {
                return (Err(error), lease);
            }
        }
        next.execute(CHILD, rq, lease).await
    }

    async fn populate_all(&self, priority: Priority, ranges: [ByteRange; 2], next: Next<'_>) -> Result<()> {
        for range in ranges.into_iter().filter(|range| !range.is_empty()) {
            self.populate(priority, range, next).await?;
            self.flights.land(range).await;
        }
        Ok(())
    }
}

/// What a cache shall take, and the room that was reserved for it if there is a bound.
struct Kept {
    range: ByteRange,
    room: Option<Arc<Room>>,
}

/// Room that is given back when all of it is stored, or nothing will be.
struct Room {
    cost: u64,
    reserved: Arc<AtomicU64>,
}

impl Drop for Room {
    fn drop(&mut self) {
        self.reserved.fetch_sub(self.cost, Ordering::SeqCst);
    }
}

/// The front of `range`, to the end of a granule if not all, that costs no more than what is `free`, and its cost.
fn fitting(range: ByteRange, free: u64, granule: Alignment, quota: &dyn Quota) -> (ByteRange, u64) {
    let mut kept = range;
    loop {
        let cost = quota.cost(granule.around(kept));
        let over = cost.saturating_sub(free);
        if over == 0 || kept.is_empty() {
            return (kept, cost);
        }
        let end = granule.down(kept.end().saturating_sub(over));
        kept = kept.head(end.saturating_sub(kept.start()));
    }
}

/// Bytes that have come.
struct Arrival<'a> {
    range: ByteRange,
    bytes: &'a [u8],
}

/// One flight: fetch, let everybody who waits go on, store.
async fn fly(lead: Lead, priority: Priority, next: Next<'_>, counts: &Counts) {
    let range = lead.flight().range();
    let read = Request::new(Op::Read, range).with_priority(priority);
    let (result, bytes) = next.execute(CHILD, read, Lease::new(range.len() as usize)).await;
    if let Err(error) = result {
        return lead.failed(&error);
    }
    counts.fetched.fetch_add(range.len(), Ordering::Relaxed);
    let bytes = Arc::new(bytes);
    lead.arrived(bytes.clone(), io::now());
    let granule = granule(next).unwrap_or_default().bytes().max(STORE_MIN);
    let mut rest = range;
    while !rest.is_empty() {
        let run = run(rest, granule, &bytes[(rest.start() - range.start()) as usize..]);
        let stored = store(run, priority, next).await;
        if let Err(error) = &stored {
            lead.unstored(error);
        }
        let count = if stored.is_ok() { &counts.stored } else { &counts.stores_failed };
        count.fetch_add(run.range.len(), Ordering::Relaxed);
        rest = rest.skip(run.range.len());
    }
    drop(lead);
}

/// Bytes to be stored in one way.
#[derive(Clone, Copy)]
struct Run<'a> {
    range: ByteRange,
    /// `None` where they are zeros.
    bytes: Option<&'a [u8]>,
}

/// The first granules of `range` that are all zeros, or none of which is; `bytes` are those of `range`.
fn run(range: ByteRange, granule: u64, bytes: &[u8]) -> Run<'_> {
    let mut granules = bytes.chunks(granule as usize);
    let mut len = granules.next().map_or(0, <[u8]>::len);
    let zeros = seam::is_zero(&bytes[..len]);
    len += granules.take_while(|bytes| seam::is_zero(bytes) == zeros).map(<[u8]>::len).sum::<usize>();
    Run { range: range.head(len as u64), bytes: (!zeros).then_some(&bytes[..len]) }
}

async fn store(run: Run<'_>, priority: Priority, next: Next<'_>) -> Result<()> {
    let (op, flags, lease) = match run.bytes {
        None => (Op::WriteZeroes, Flags::UNCHANGED | Flags::MAY_UNMAP, Lease::empty()),
        Some(bytes) => (Op::Write, Flags::UNCHANGED, Lease::copy_of(bytes)),
    };
    let rq = Request::new(op, run.range).with_flags(flags).with_priority(priority);
    next.execute(CHILD, rq, lease).await.0
}

fn granule(next: Next<'_>) -> Result<Alignment> {
    Ok(Alignment::new(next.granule(CHILD)?).unwrap_or_default())
}

/// The whole granules around `range`, within the child.
fn granules(range: ByteRange, next: Next<'_>) -> Result<ByteRange> {
    Ok(granule(next)?.around(range).intersection(ByteRange::between(0, next.size(CHILD)?)))
}

/// The parts of granules at either end of `range`.
fn edges(range: ByteRange, next: Next<'_>) -> Result<[ByteRange; 2]> {
    let granule = granule(next)?;
    let size = next.size(CHILD)?;
    let edge = |at: u64| match granule.fits(at) || at >= size {
        true => ByteRange::default(),
        false => ByteRange::between(granule.down(at), granule.up(at + 1).min(size)),
    };
    let (first, last) = (edge(range.start()), edge(range.end()));
    Ok([first, if last == first { ByteRange::default() } else { last }])
}

impl Execute for CopyOnRead {
    fn size(&self) -> Option<u64> {
        None
    }

    fn limits(&self) -> Limits {
        Limits::NONE
    }

    fn try_now(&self, rq: &mut Request, window: Window<'_>, next: Next<'_>) -> Result<Now> {
        let known = match rq.op {
            Op::Read => rq.rest(),
            Op::Write if !rq.flags.has(Flags::UNCHANGED) => rq.rest(),
            _ => return Ok(Now::Wait),
        };
        let mut rest = known;
        while !rest.is_empty() {
            match next.whence_now(CHILD, self.bottom, rest)? {
                Some((Whence::Here | Whence::Below, len)) => rest = rest.skip(len),
                _ => return Ok(Now::Wait),
            }
        }
        next.try_now(CHILD, rq, window)
    }

    fn execute<'a>(&'a self, rq: Request, lease: Lease, next: Next<'a>) -> LocalFut<'a, (Result<()>, Lease)> {
        match rq.op {
            Op::Read => Box::pin(self.read(rq, lease, next)),
            Op::Write | Op::WriteZeroes | Op::Discard => Box::pin(self.change(rq, lease, next)),
            Op::Cache => Box::pin(async move { (self.cache(rq.priority, rq.range, next).await, lease) }),
            Op::Flush => Box::pin(async move {
                self.flights.land_arrived().await;
                next.execute(CHILD, rq, lease).await
            }),
        }
    }

    fn extents<'a>(&'a self, range: ByteRange, next: Next<'a>) -> LocalFut<'a, Result<Vec<Extent>>> {
        next.extents(CHILD, range)
    }

    fn powers(&self) -> Powers<'_> {
        Powers { stats: Some(&*self.counts), pressure: Some(self), ..Powers::default() }
    }
}

impl Pressure for CopyOnRead {
    fn pressed(&self, now: Moment) -> bool {
        self.flights.pressed(now)
    }
}
