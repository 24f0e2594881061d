//! `throttle-group`: limits that several nodes share.
//!
//! Each limit is a leaky bucket: a request fills it and may go while the level is not above the size, which is a
//! tenth of a second's worth, or what the burst options say. Those who have to wait stand in two lines, one for reads
//! and one for writes; of the two at the front, the one who came first is asked first.
//!
//! Invariants: nobody overtakes within a line; a request is charged once, when it is let go; one that gives up is not
//! charged; whoever stands in front sleeps until its moment, everybody else until it stands in front.

mod buckets;
mod limits;
mod line;

use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use block::{BlockError, ErrorKind, Result};
use io::Moment;
use io::select::race;

use buckets::{Buckets, Cost};
pub use limits::{LimitsPatch, Rate, ThrottleGroupOptions, ThrottleLimits};
use line::{Lines, Place};

/// What a request does, as far as limits tell requests apart.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Direction {
    /// It reads.
    Read,
    /// It writes, zeroes or discards.
    Write,
}

/// Whether a request may go.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Admit {
    /// Now; it has been charged.
    Now,
    /// Not before this moment, and then after those who wait already: see [`ThrottleGroup::wait`].
    At(Moment),
}

/// A throttle group.
pub struct ThrottleGroup {
    name: String,
    /// Nothing is limited and nobody waits: no lock is needed.
    open: AtomicBool,
    waited: AtomicU64,
    state: Mutex<State>,
}

struct State {
    limits: ThrottleLimits,
    buckets: Buckets,
    lines: Lines,
}

impl ThrottleGroup {
    /// A group with `limits`, which have been checked (they cannot be made otherwise).
    pub fn new(name: &str, limits: ThrottleLimits) -> Self {
        let buckets = Buckets::new(&limits);
        let open = AtomicBool::new(limits.is_unlimited());
        let state = Mutex::new(State { limits, buckets, lines: Lines::default() });
        Self { name: name.to_owned(), open, waited: AtomicU64::new(0), state }
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The limits in force.
    pub fn limits(&self) -> ThrottleLimits {
        self.lock().limits
    }

    /// Changes those limits that `patch` names (`qom-set`), from empty buckets. Those who wait are asked again.
    pub fn set_limits(&self, patch: &LimitsPatch) -> Result<()> {
        let mut state = self.lock();
        let limits = patch.over(state.limits).map_err(|text| BlockError::new(ErrorKind::Invalid, text))?;
        state.limits = limits;
        state.buckets = Buckets::new(&limits);
        state.lines.call_fronts();
        self.open.store(limits.is_unlimited() && state.lines.is_empty(), Ordering::Release);
        Ok(())
    }

    /// Whether nothing is limited, so that nobody has to ask.
    pub fn is_open(&self) -> bool {
        self.open.load(Ordering::Acquire)
    }

    /// Lets a request of `bytes` go and charges it, if that can be at once. Never waits for more than a few
    /// instructions of another thread.
    pub fn admit(&self, now: Moment, direction: Direction, bytes: u64) -> Admit {
        if self.is_open() {
            return Admit::Now;
        }
        let mut state = self.lock();
        state.let_go(now);
        let cost = Cost::new(direction, bytes, &state.limits);
        let wait = state.buckets.wait(now, direction);
        // Whoever stands in this line would have been let go first.
        if wait.is_zero() {
            state.buckets.charge(cost);
            return Admit::Now;
        }
        Admit::At(now.after(wait))
    }

    /// Waits in line until the request may go; it has been charged then. Dropping the future gives up the place.
    pub async fn wait(&self, direction: Direction, bytes: u64) {
        self.waited.fetch_add(1, Ordering::Relaxed);
        let place = {
            let mut state = self.lock();
            self.open.store(false, Ordering::Release);
            let cost = Cost::new(direction, bytes, &state.limits);
            state.lines.stand(cost)
        };
        let mut standing = Standing { group: self, place: Some(place.clone()) };
        loop {
            let called = place.called.notified();
            let until = self.lock().ask(&place);
            match until {
                Turn::Go => break,
                Turn::At(moment) => {
                    race(called, io::sleep_until(moment)).await;
                }
                Turn::Later => called.await,
            }
        }
        standing.place = None;
        self.open_if_idle();
    }

    /// Requests that had to wait so far.
    pub fn waited(&self) -> u64 {
        self.waited.load(Ordering::Relaxed)
    }

    /// Requests that wait now.
    pub fn waiting(&self) -> usize {
        self.lock().lines.len()
    }

    fn open_if_idle(&self) {
        let state = self.lock();
        self.open.store(state.limits.is_unlimited() && state.lines.is_empty(), Ordering::Release);
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Levels and lines are consistent between any two statements that hold it.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for ThrottleGroup {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ThrottleGroup({})", self.name)
    }
}

/// What one who waits is told.
enum Turn {
    Go,
    At(Moment),
    Later,
}

impl State {
    /// Lets everybody go whose moment has come, the front that came first being asked first.
    fn let_go(&mut self, now: Moment) {
        while let Some(cost) = self
            .lines
            .fronts()
            .into_iter()
            .flatten()
            .find(|cost| self.buckets.wait(now, cost.direction).is_zero())
        {
            self.buckets.charge(cost);
            self.lines.admit_front(cost.direction);
        }
    }

    fn ask(&mut self, place: &Arc<Place>) -> Turn {
        let now = io::now();
        self.let_go(now);
        if place.is_admitted() {
            return Turn::Go;
        }
        if !self.lines.is_front(place) {
            return Turn::Later;
        }
        Turn::At(now.after(self.buckets.wait(now, place.cost.direction)))
    }
}

/// A place in line; given up when dropped.
struct Standing<'a> {
    group: &'a ThrottleGroup,
    place: Option<Arc<Place>>,
}

impl Drop for Standing<'_> {
    fn drop(&mut self) {
        let Some(place) = self.place.take() else { return };
        let mut state = self.group.lock();
        if place.is_admitted() {
            // Let go, but it did not come to know: nothing will be done for it.
            state.buckets.refund(place.cost);
            state.lines.call_fronts();
        } else {
            state.lines.leave(&place);
        }
        drop(state);
        self.group.open_if_idle();
    }
}

#[cfg(test)]
mod tests;
