//! Virtual time and everything that is due at some moment of it: timers, disk operations, deliveries.
//!
//! Invariants: time moves only in [`Clock::next_event`], to the moment of the event that it answers; what is
//! due at one moment comes in an order that the seed decides.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::task::Waker;
use std::time::Duration;

use io::Moment;

use crate::locked;
use crate::rng::Rng;

/// What is due.
pub(crate) enum Event {
    /// Somebody wanted to be woken.
    Wake(Waker),
    /// The outside world does something. Runs outside any I/O thread, as a completion does.
    Run(Box<dyn FnOnce() + Send>),
}

/// Names a scheduled event: when, its place among those of the same moment, and a serial number.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) struct EventKey(Moment, u64, u64);

pub(crate) struct Clock(Mutex<State>);

struct State {
    now: Moment,
    serial: u64,
    /// Decides the order within a moment; `None` keeps the order of scheduling.
    rng: Option<Rng>,
    events: BTreeMap<EventKey, Event>,
}

impl Clock {
    pub(crate) fn new(rng: Option<Rng>) -> Self {
        Self(Mutex::new(State { now: Moment(0), serial: 0, rng, events: BTreeMap::new() }))
    }

    pub(crate) fn now(&self) -> Moment {
        locked(&self.0).now
    }

    /// Schedules `event` at `when`, or at once when that is past.
    pub(crate) fn at(&self, when: Moment, event: Event) -> EventKey {
        let mut state = locked(&self.0);
        state.serial += 1;
        let place = state.rng.as_mut().map_or(0, Rng::u64);
        let key = EventKey(when.max(state.now), place, state.serial);
        state.events.insert(key, event);
        key
    }

    /// Schedules `action` after `span`.
    pub(crate) fn run_after(&self, span: Duration, action: impl FnOnce() + Send + 'static) {
        self.at(self.now().after(span), Event::Run(Box::new(action)));
    }

    /// Takes an event back; the caller drops what it held, outside the clock.
    pub(crate) fn cancel(&self, key: EventKey) -> Option<Event> {
        locked(&self.0).events.remove(&key)
    }

    /// Makes a scheduled wake-up wake `waker` instead; false when it is over.
    pub(crate) fn rewake(&self, key: EventKey, waker: &Waker) -> bool {
        let mut state = locked(&self.0);
        let Some(event) = state.events.get_mut(&key) else { return false };
        let old = std::mem::replace(event, Event::Wake(waker.clone()));
        drop(state);
        drop(old);
        true
    }

    /// Whether something is due now.
    pub(crate) fn is_due(&self) -> bool {
        let state = locked(&self.0);
        state.events.first_key_value().is_some_and(|(key, _)| key.0 <= state.now)
    }

    /// The next event; time moves on to its moment. `None` when nothing will ever happen again.
    pub(crate) fn next_event(&self) -> Option<Event> {
        let mut state = locked(&self.0);
        let (key, event) = state.events.pop_first()?;
        state.now = state.now.max(key.0);
        Some(event)
    }

    /// Moves time on by `span`.
    pub(crate) fn pass(&self, span: Duration) {
        let mut state = locked(&self.0);
        state.now = state.now.after(span);
    }

    /// Takes everything that was scheduled, to be dropped by the caller.
    pub(crate) fn clear(&self) -> BTreeMap<EventKey, Event> {
        std::mem::take(&mut locked(&self.0).events)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    /// The order in which four events come: one later than the three others, which share a moment.
    fn order(rng: Option<Rng>) -> Vec<u8> {
        let (clock, (sender, receiver)) = (Clock::new(rng), mpsc::channel());
        for (name, nanos) in [(9, 2), (1, 1), (2, 1), (3, 1)] {
            let sender = sender.clone();
            clock.run_after(Duration::from_nanos(nanos), move || sender.send(name).unwrap());
        }
        while let Some(Event::Run(action)) = clock.next_event() {
            action();
        }
        receiver.try_iter().collect()
    }

    #[test]
    fn the_seed_orders_a_moment() {
        assert_eq!(order(None), [1, 2, 3, 9]);
        let orders: std::collections::BTreeSet<_> = (0..99).map(|seed| order(Some(Rng::new(seed)))).collect();
        assert!(orders.len() == 6 && orders.iter().all(|order| order[3] == 9), "{orders:?}");
    }
}
