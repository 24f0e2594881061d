//! Whose turn it is to write, where writes are to reach the target in order, one at a time.
//!
//! Invariants: turns come in the order in which places were taken; a turn begins when the one before it has ended; once
//! a copy has failed nobody's turn comes any more.

use std::cell::Cell;

use io::sync::Notify;

/// The queue of those who are going to write.
pub(super) struct Turns {
    ordered: bool,
    taken: Cell<u64>,
    /// Whose turn it is.
    now: Cell<u64>,
    over: Cell<bool>,
    changed: Notify,
}

/// A place in it. Dropped, it is the next one's turn, if it was this one's.
pub(super) struct Place<'a> {
    turns: &'a Turns,
    number: u64,
}

impl Turns {
    /// An empty queue; not `ordered`, it is everybody's turn.
    pub(super) fn new(ordered: bool) -> Self {
        let (taken, now, over) = (Cell::new(0), Cell::new(0), Cell::new(false));
        Self { ordered, taken, now, over, changed: Notify::new() }
    }

    /// The last place.
    pub(super) fn place(&self) -> Place<'_> {
        Place { turns: self, number: self.taken.replace(self.taken.get() + 1) }
    }

    /// Nobody writes any more who is not writing.
    pub(super) fn end(&self) {
        self.over.set(true);
        self.changed.notify_waiters();
    }
}

impl Place<'_> {
    /// Ready when it is this one's turn; false when it never will be.
    pub(super) async fn turn(&self) -> bool {
        loop {
            let changed = self.turns.changed.notified();
            if self.turns.over.get() {
                return false;
            }
            if !self.turns.ordered || self.turns.now.get() == self.number {
                return true;
            }
            changed.await;
        }
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        if self.turns.now.get() == self.number {
            self.turns.now.set(self.number + 1);
            self.turns.changed.notify_waiters();
        }
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;

    #[test]
    fn turns_come_one_after_the_other_in_the_order_of_places() {
        let turns = Turns::new(true);
        let (first, second, third) = (turns.place(), turns.place(), turns.place());
        assert_eq!(third.turn().now_or_never(), None);
        assert_eq!((second.turn().now_or_never(), first.turn().now_or_never()), (None, Some(true)));
        drop(first);
        assert_eq!((third.turn().now_or_never(), second.turn().now_or_never()), (None, Some(true)));
        drop(second);
        assert_eq!(third.turn().now_or_never(), Some(true));
    }

    #[test]
    fn who_waits_is_woken() {
        let turns = Turns::new(true);
        let (first, second) = (turns.place(), turns.place());
        let mut waits = Box::pin(second.turn());
        assert_eq!((&mut waits).now_or_never(), None);
        drop(first);
        assert_eq!((&mut waits).now_or_never(), Some(true));
    }

    #[test]
    fn without_an_order_it_is_everybodys_turn() {
        let turns = Turns::new(false);
        let (_first, second) = (turns.place(), turns.place());
        assert_eq!(second.turn().now_or_never(), Some(true));
    }

    #[test]
    fn after_a_failure_nobodys_turn_comes() {
        let turns = Turns::new(true);
        let (first, second) = (turns.place(), turns.place());
        turns.end();
        drop(first);
        assert_eq!(second.turn().now_or_never(), Some(false));
    }
}
