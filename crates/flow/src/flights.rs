//! Single flight: a byte that is being fetched is fetched once, whoever asks.
//!
//! A flight is begun by the first who misses its range; everybody else who misses a byte of it follows. Its data
//! answers all of them as soon as it has arrived, and stays until it has been stored, in bounded memory.
//!
//! State of a flight: fetching -> arrived -> gone (stored), or fetching -> gone (failed: followers get the error).
//! Invariants: flights never overlap; a flight whose leader is dropped fails its followers, who then ask again.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use block::{BlockError, ByteRange, ErrorKind, Priority, Result};
use io::sync::Notify;
use io::{Lease, Moment};

/// The flights of one cache.
pub struct Flights {
    table: Mutex<Table>,
    changed: Notify,
    bytes_max: u64,
}

#[derive(Default)]
struct Table {
    flights: BTreeMap<u64, Arc<Flight>>,
    bytes: u64,
    /// Demand flights begun and still fetching: fill lets those go first that it finds.
    demands: Vec<Demand>,
    /// How long after the last of them the next one is still expected.
    expected_until: Moment,
    next: u64,
}

/// A flight that somebody waits for.
struct Demand {
    number: u64,
    begun: Moment,
}

/// Whoever has just missed something will soon miss something else: for so many times as long as this one took.
const EXPECTED: u32 = 4;

/// One range on its way.
pub struct Flight {
    range: ByteRange,
    state: Mutex<State>,
    /// Why what has arrived could not be stored.
    unstored: OnceLock<(ErrorKind, Arc<str>)>,
    changed: Notify,
}

#[derive(Clone)]
enum State {
    Fetching,
    Arrived(Arc<Lease>),
    Failed {
        kind: ErrorKind,
        context: Arc<str>,
    },
    /// The leader is gone without a word: ask again.
    Abandoned,
}

/// A part of a range that somebody misses.
pub enum Boarding {
    /// Somebody fetches it already.
    Follow(Arc<Flight>),
    /// Nobody does: the caller must.
    Lead(Lead),
}

impl Flights {
    /// A table whose flights hold at most about `bytes_max` bytes, fetched and not yet stored.
    pub fn new(bytes_max: u64) -> Arc<Self> {
        Arc::new(Self { table: Mutex::default(), changed: Notify::new(), bytes_max })
    }

    /// Covers `range` with flights: those under way, and new ones of at most `len_max` bytes for the rest.
    pub fn board(
        self: &Arc<Self>,
        range: ByteRange,
        len_max: u64,
        priority: Priority,
        now: Moment,
    ) -> Vec<Boarding> {
        let mut table = self.table();
        let mut boardings = Vec::new();
        let mut rest = range;
        while !rest.is_empty() {
            let under_way = table.covering(rest.start());
            let flight = under_way.unwrap_or_else(|| {
                let free = table.free_from(rest.start(), rest.end()).min(len_max);
                let lead = self.begin(&mut table, rest.head(free), priority, now);
                let flight = lead.flight.clone();
                boardings.push(Boarding::Lead(lead));
                flight
            });
            rest = ByteRange::between(flight.range.end(), range.end().max(flight.range.end()));
            if !matches!(boardings.last(), Some(Boarding::Lead(lead)) if Arc::ptr_eq(&lead.flight, &flight)) {
                boardings.push(Boarding::Follow(flight));
            }
        }
        boardings
    }

    fn begin(self: &Arc<Self>, table: &mut Table, range: ByteRange, priority: Priority, now: Moment) -> Lead {
        let state = Mutex::new(State::Fetching);
        let flight = Arc::new(Flight { range, state, unstored: OnceLock::new(), changed: Notify::new() });
        table.flights.insert(range.start(), flight.clone());
        table.bytes += range.len();
        let number = table.next;
        table.next += 1;
        if priority == Priority::Demand {
            table.demands.push(Demand { number, begun: now });
        }
        Lead { flights: self.clone(), flight, number }
    }

    /// Waits until flights hold less than their bound (less than half of it for those who do not wait on
    /// demand), and, unless on demand, until the demand flights that are under way now have arrived. Answers whether
    /// that took a wait, in which somebody else may have brought what is wanted.
    pub async fn admit(&self, priority: Priority) -> bool {
        let bound = if priority == Priority::Demand { self.bytes_max } else { self.bytes_max / 2 };
        let (seen, mut waited) = (self.table().next, false);
        loop {
            let changed = self.changed.notified();
            {
                let table = self.table();
                let older_demand = table.demands.first().is_some_and(|demand| demand.number < seen);
                if table.bytes < bound && (priority == Priority::Demand || !older_demand) {
                    return waited;
                }
            }
            changed.await;
            waited = true;
        }
    }

    /// Waits until every flight that is under way now in `range` has been stored or has failed.
    pub async fn land(&self, range: ByteRange) {
        self.land_those(|flight| flight.range.overlaps(range)).await;
    }

    /// The same of all that have arrived by now: what is still being fetched takes as long as its source does.
    pub async fn land_arrived(&self) {
        self.land_those(|flight| matches!(*flight.state(), State::Arrived(_))).await;
    }

    async fn land_those(&self, wanted: impl Fn(&Flight) -> bool) {
        let under_way: Vec<Arc<Flight>> =
            self.table().flights.values().filter(|flight| wanted(flight)).cloned().collect();
        for flight in under_way {
            loop {
                let changed = self.changed.notified();
                let there =
                    self.table().flights.get(&flight.range.start()).is_some_and(|f| Arc::ptr_eq(f, &flight));
                if !there {
                    break;
                }
                changed.await;
            }
        }
    }

    /// Whether a flight on demand is fetching, or the next one is to be expected.
    pub fn pressed(&self, now: Moment) -> bool {
        let table = self.table();
        !table.demands.is_empty() || now < table.expected_until
    }

    /// Whether nothing is under way.
    pub fn is_empty(&self) -> bool {
        self.table().flights.is_empty()
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Table {
    fn expect_more(&mut self, number: u64, now: Moment) {
        if let Some(demand) = self.demands.iter().find(|demand| demand.number == number) {
            let until = now.after(now.since(demand.begun) * EXPECTED);
            self.expected_until = self.expected_until.max(until);
        }
    }

    fn covering(&self, at: u64) -> Option<Arc<Flight>> {
        let (_, flight) = self.flights.range(..=at).next_back()?;
        (at < flight.range.end()).then(|| flight.clone())
    }

    /// Bytes from `at` (which no flight covers) up to the next flight or `end`.
    fn free_from(&self, at: u64, end: u64) -> u64 {
        let next = self.flights.range(at..).next().map_or(end, |(start, _)| *start);
        next.min(end) - at
    }
}

impl Flight {
    /// The bytes that it carries.
    pub fn range(&self) -> ByteRange {
        self.range
    }

    /// Waits for its bytes. `None`: it was abandoned, ask again.
    pub async fn arrived(&self) -> Result<Option<Arc<Lease>>> {
        loop {
            let changed = self.changed.notified();
            let state = self.state().clone();
            match state {
                State::Fetching => changed.await,
                State::Arrived(bytes) => return Ok(Some(bytes)),
                State::Failed { kind, context } => return Err(BlockError::new(kind, &*context)),
                State::Abandoned => return Ok(None),
            }
        }
    }

    /// Whether it has been stored, when it has landed ([`Flights::land`]).
    pub fn stored(&self) -> Result<()> {
        self.unstored.get().map_or(Ok(()), |(kind, context)| Err(BlockError::new(*kind, &**context)))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn set(&self, state: State) {
        *self.state() = state;
        self.changed.notify_waiters();
    }
}

/// The duty to fetch a flight. Dropped, it takes the flight out of the table.
pub struct Lead {
    flights: Arc<Flights>,
    flight: Arc<Flight>,
    number: u64,
}

impl Lead {
    /// The flight.
    pub fn flight(&self) -> &Arc<Flight> {
        &self.flight
    }

    /// Its bytes have come: followers go on. The flight stays until the lead is dropped, after the store.
    pub fn arrived(&self, bytes: Arc<Lease>, now: Moment) {
        self.flight.set(State::Arrived(bytes));
        self.flights.table().expect_more(self.number, now);
        self.fetched();
    }

    /// Fetching has failed: followers fail with it.
    pub fn failed(self, error: &BlockError) {
        self.flight.set(State::Failed { kind: error.kind(), context: error.to_string().into() });
    }

    /// It has come, and could not be stored.
    pub fn unstored(&self, error: &BlockError) {
        // Told once, before the lead is dropped.
        let _ = self.flight.unstored.set((error.kind(), error.to_string().into()));
    }

    fn fetched(&self) {
        self.flights.table().demands.retain(|demand| demand.number != self.number);
        self.flights.changed.notify_waiters();
    }
}

impl Drop for Lead {
    fn drop(&mut self) {
        if matches!(*self.flight.state(), State::Fetching) {
            self.flight.set(State::Abandoned);
        }
        {
            let mut table = self.flights.table();
            table.flights.remove(&self.flight.range.start());
            table.bytes -= self.flight.range.len();
        }
        self.fetched();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    use futures_util::FutureExt;

    const T: Moment = Moment(1_000);

    fn r(start: u64, end: u64) -> ByteRange {
        ByteRange::between(start, end)
    }

    fn lead(boarding: Boarding) -> Lead {
        match boarding {
            Boarding::Lead(lead) => lead,
            Boarding::Follow(flight) => panic!("{:?} is under way already", flight.range()),
        }
    }

    #[test]
    fn the_second_to_miss_follows_and_gaps_are_led() {
        let flights = Flights::new(1 << 20);
        let first = lead(flights.board(r(10, 20), 100, Priority::Demand, T).remove(0));
        let mut second = flights.board(r(0, 40), 100, Priority::Demand, T);
        assert_eq!(second.len(), 3);
        let tail = lead(second.remove(2));
        assert!(matches!(&second[1], Boarding::Follow(f) if f.range() == r(10, 20)));
        assert_eq!((lead(second.remove(0)).flight().range(), tail.flight().range()), (r(0, 10), r(20, 40)));
        assert_eq!(flights.board(r(12, 15), 100, Priority::Demand, T).len(), 1);
        drop(first);
    }

    #[test]
    fn long_gaps_are_cut() {
        let flights = Flights::new(1 << 20);
        let cut: Vec<_> = flights.board(r(0, 25), 10, Priority::Fill, T).into_iter().map(lead).collect();
        let ranges: Vec<_> = cut.iter().map(|l| l.flight().range()).collect();
        assert_eq!(ranges, [r(0, 10), r(10, 20), r(20, 25)]);
    }

    #[test]
    fn followers_get_bytes_errors_or_the_word_to_ask_again() {
        let flights = Flights::new(1 << 20);
        let leader = lead(flights.board(r(0, 4), 10, Priority::Demand, T).remove(0));
        let flight = leader.flight().clone();
        assert!(flight.arrived().now_or_never().is_none());
        leader.arrived(Arc::new(Lease::copy_of(b"abcd")), T);
        assert_eq!(&flight.arrived().now_or_never().unwrap().unwrap().unwrap()[..], b"abcd");
        drop(leader);
        assert!(flights.is_empty());
        let leader = lead(flights.board(r(0, 4), 10, Priority::Demand, T).remove(0));
        let flight = leader.flight().clone();
        leader.failed(&BlockError::new(ErrorKind::Disconnected, "gone"));
        assert_eq!(flight.arrived().now_or_never().unwrap().unwrap_err().kind(), ErrorKind::Disconnected);
        let leader = lead(flights.board(r(0, 4), 10, Priority::Demand, T).remove(0));
        let flight = leader.flight().clone();
        drop(leader);
        assert!(flight.arrived().now_or_never().unwrap().unwrap().is_none());
    }

    #[test]
    fn fill_waits_for_older_demand_and_for_room() {
        let flights = Flights::new(100);
        let demand = lead(flights.board(r(0, 10), 10, Priority::Demand, T).remove(0));
        let mut fill = Box::pin(flights.admit(Priority::Fill));
        assert!(fill.as_mut().now_or_never().is_none());
        let later = lead(flights.board(r(10, 20), 10, Priority::Demand, T).remove(0));
        demand.arrived(Arc::new(Lease::new(10)), T);
        assert!(fill.as_mut().now_or_never().is_some(), "later demand must not starve the fill");
        let big = lead(flights.board(r(20, 80), 100, Priority::Fill, T).remove(0));
        drop((later, demand));
        assert!(flights.admit(Priority::Fill).now_or_never().is_none());
        assert!(flights.admit(Priority::Demand).now_or_never().is_some());
        drop(big);
        assert!(flights.admit(Priority::Fill).now_or_never().is_some());
    }

    #[test]
    fn demand_presses_for_some_times_as_long_as_it_took() {
        let flights = Flights::new(100);
        let fill = lead(flights.board(r(0, 10), 10, Priority::Fill, T).remove(0));
        assert!(!flights.pressed(T));
        let demand = lead(flights.board(r(10, 20), 10, Priority::Demand, T).remove(0));
        assert!(flights.pressed(T));
        let came = T.after(Duration::from_nanos(10));
        demand.arrived(Arc::new(Lease::new(10)), came);
        fill.arrived(Arc::new(Lease::new(10)), came.after(Duration::from_nanos(500)));
        assert!(flights.pressed(came.after(Duration::from_nanos(39))));
        assert!(!flights.pressed(came.after(Duration::from_nanos(40))));
    }
}
