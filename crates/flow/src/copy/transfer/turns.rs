//! Whose turn it is to write, where writes are to reach the target in order.
//!
//! Invariants: turns come in the order in which places were taken; a turn begins when the one before it has nothing
//! left to begin and all the others have ended; once a copy has failed nobody's turn comes any more.

use std::cell::Cell;

use io::sync::Notify;

/// The queue of those who are going to write.
pub(super) struct Turns {
    ordered: bool,
    taken: Cell<u64>,
    /// Whose turn comes next.
    next: Cell<u64>,
    /// Whose turn came last, and how far it is.
    last: Cell<(u64, Turn)>,
    /// The one before that is still writing.
    one_more: Cell<bool>,
    over: Cell<bool>,
    changed: Notify,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Turn {
    /// It is going to begin more.
    Begins,
    /// All is under way.
    Begun,
    Ended,
}

/// A place in it, of one who writes up to `end`. Dropped, its turn has ended.
pub(super) struct Place<'a> {
    turns: &'a Turns,
    number: u64,
    end: u64,
    is_writing: Cell<bool>,
}

impl Turns {
    /// An empty queue; not `ordered`, it is everybody's turn.
    pub(super) fn new(ordered: bool) -> Self {
        Self {
            ordered,
            taken: Cell::new(0),
            next: Cell::new(0),
            last: Cell::new((0, Turn::Ended)),
            one_more: Cell::new(false),
            over: Cell::new(false),
            changed: Notify::new(),
        }
    }

    /// The last place, for what is written up to `end`.
    pub(super) fn place(&self, end: u64) -> Place<'_> {
        let number = self.taken.replace(self.taken.get() + 1);
        Place { turns: self, number, end, is_writing: Cell::new(false) }
    }

    /// Nobody writes any more who is not writing.
    pub(super) fn end(&self) {
        self.over.set(true);
        self.changed.notify_waiters();
    }

    fn may_begin(&self, number: u64) -> bool {
        self.next.get() == number && self.last.get().1 != Turn::Begins && !self.one_more.get()
    }
}

impl Place<'_> {
    /// Ready when it is this one's turn, as often as it is asked; false when it never will be.
    pub(super) async fn turn(&self) -> bool {
        let turns = self.turns;
        loop {
            let changed = turns.changed.notified();
            if turns.over.get() {
                return false;
            }
            if !turns.ordered || self.is_writing.get() {
                return true;
            }
            if turns.may_begin(self.number) {
                self.begin();
                return true;
            }
            changed.await;
        }
    }

    fn begin(&self) {
        self.is_writing.set(true);
        self.turns.next.set(self.number + 1);
        let (_, before) = self.turns.last.replace((self.number, Turn::Begins));
        self.turns.one_more.set(before != Turn::Ended);
    }

    /// How far it is, if its turn came last.
    fn as_last(&self) -> Option<Turn> {
        let (number, turn) = self.turns.last.get();
        (self.is_writing.get() && number == self.number).then_some(turn)
    }

    /// What it writes up to `at` is under way: once that is all, the next one may begin.
    pub(super) fn begun_to(&self, at: u64) {
        if at >= self.end && self.as_last() == Some(Turn::Begins) {
            self.turns.last.set((self.number, Turn::Begun));
            self.turns.changed.notify_waiters();
        }
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        if self.as_last().is_some() {
            self.turns.last.set((self.number, Turn::Ended));
        } else if self.is_writing.get() {
            self.turns.one_more.set(false);
        } else if self.turns.next.get() == self.number {
            self.turns.next.set(self.number + 1);
        }
        self.turns.changed.notify_waiters();
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;

    #[test]
    fn turns_come_one_after_the_other_in_the_order_of_places() {
        let turns = Turns::new(true);
        let (first, second, third) = (turns.place(0), turns.place(0), turns.place(0));
        assert_eq!(third.turn().now_or_never(), None);
        assert_eq!((second.turn().now_or_never(), first.turn().now_or_never()), (None, Some(true)));
        drop(first);
        assert_eq!((third.turn().now_or_never(), second.turn().now_or_never()), (None, Some(true)));
        drop(second);
        assert_eq!(third.turn().now_or_never(), Some(true));
    }

    #[test]
    fn the_next_begins_when_one_alone_has_begun_all() {
        let turns = Turns::new(true);
        let (first, second, third) = (turns.place(8), turns.place(8), turns.place(8));
        assert_eq!(first.turn().now_or_never(), Some(true));
        first.begun_to(7);
        assert_eq!(second.turn().now_or_never(), None);
        first.begun_to(8);
        assert_eq!((third.turn().now_or_never(), second.turn().now_or_never()), (None, Some(true)));
        second.begun_to(8);
        assert_eq!(third.turn().now_or_never(), None);
        drop(second);
        assert_eq!(third.turn().now_or_never(), None, "the first is still writing");
        drop(first);
        assert_eq!(third.turn().now_or_never(), Some(true));
        drop(third);
        assert_eq!(turns.place(0).turn().now_or_never(), Some(true));
    }

    #[test]
    fn who_writes_nothing_is_passed_over() {
        let turns = Turns::new(true);
        let (first, second, third, fourth) = (turns.place(8), turns.place(8), turns.place(8), turns.place(8));
        assert_eq!(first.turn().now_or_never(), Some(true));
        first.begun_to(8);
        drop(second);
        assert_eq!(third.turn().now_or_never(), Some(true));
        third.begun_to(8);
        assert_eq!(fourth.turn().now_or_never(), None);
        drop(first);
        assert_eq!(fourth.turn().now_or_never(), Some(true));
    }

    #[test]
    fn who_waits_is_woken() {
        let turns = Turns::new(true);
        let (first, second) = (turns.place(0), turns.place(0));
        let mut waits = Box::pin(second.turn());
        assert_eq!((&mut waits).now_or_never(), None);
        drop(first);
        assert_eq!((&mut waits).now_or_never(), Some(true));
    }

    #[test]
    fn without_an_order_it_is_everybodys_turn() {
        let turns = Turns::new(false);
        let (_first, second) = (turns.place(0), turns.place(0));
        assert_eq!(second.turn().now_or_never(), Some(true));
    }

    #[test]
    fn after_a_failure_nobodys_turn_comes() {
        let turns = Turns::new(true);
        let (first, second) = (turns.place(0), turns.place(0));
        turns.end();
        drop(first);
        assert_eq!(second.turn().now_or_never(), Some(false));
    }
}
