//! The two lines of those who wait.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use io::sync::Notify;

use super::Direction;
use super::buckets::Cost;

/// A place in a line.
pub(super) struct Place {
    ticket: u64,
    pub(super) cost: Cost,
    admitted: AtomicBool,
    /// Told when it is let go, and when it comes to stand in front.
    pub(super) called: Notify,
}

impl Place {
    pub(super) fn is_admitted(&self) -> bool {
        self.admitted.load(Ordering::Acquire)
    }
}

#[derive(Default)]
pub(super) struct Lines {
    /// Reads, writes.
    lines: [VecDeque<Arc<Place>>; 2],
    tickets: u64,
}

impl Lines {
    pub(super) fn stand(&mut self, cost: Cost) -> Arc<Place> {
        let (ticket, admitted, called) = (self.tickets, AtomicBool::new(false), Notify::new());
        self.tickets += 1;
        let place = Arc::new(Place { ticket, cost, admitted, called });
        self.lines[cost.direction as usize].push_back(place.clone());
        place
    }

    /// What the two in front cost, the one who came first being first.
    pub(super) fn fronts(&self) -> [Option<Cost>; 2] {
        let [read, write] = self.lines.each_ref().map(VecDeque::front);
        let swap = matches!((read, write), (Some(r), Some(w)) if w.ticket < r.ticket);
        let [first, second] = if swap { [write, read] } else { [read, write] };
        [first.map(|place| place.cost), second.map(|place| place.cost)]
    }

    /// Lets the one in front go.
    pub(super) fn admit_front(&mut self, direction: Direction) {
        let line = &mut self.lines[direction as usize];
        if let Some(place) = line.pop_front() {
            place.admitted.store(true, Ordering::Release);
            place.called.notify_one();
        }
        call(line.front());
    }

    /// Takes out one that gave up.
    pub(super) fn leave(&mut self, place: &Arc<Place>) {
        let line = &mut self.lines[place.cost.direction as usize];
        line.retain(|other| other.ticket != place.ticket);
        call(line.front());
    }

    /// Makes those in front look again.
    pub(super) fn call_fronts(&self) {
        self.lines.iter().for_each(|line| call(line.front()));
    }

    pub(super) fn is_front(&self, place: &Place) -> bool {
        let front = self.lines[place.cost.direction as usize].front();
        front.is_some_and(|front| front.ticket == place.ticket)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.lines.iter().all(VecDeque::is_empty)
    }

    pub(super) fn len(&self) -> usize {
        self.lines.iter().map(VecDeque::len).sum()
    }
}

fn call(place: Option<&Arc<Place>>) {
    if let Some(place) = place {
        place.called.notify_one();
    }
}
