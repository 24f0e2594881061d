//! The link between repository and host: a relay that gives every byte the delay and the rate of a long line.
//!
//! All connections share the line. Each direction has one transmitter; connections that have something to send take
//! turns at it, a piece each. The transmitter reads from a connection only when it is about to send, so that queues
//! build up at the sender, where they would without us.
//!
//! Invariants: bytes keep their order; no more than the line holds (and a little) is kept per connection; time that
//! we lose by waking late is made up for, so that a busy line carries what its rate says.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::io;
use std::rc::Rc;
use std::time::Duration;

use ::io::sync::{Notify, oneshot};
use ::io::{Listener, LocalFut, Moment, Stream, now, spawn};

/// What a line is like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Shape {
    /// From sending a byte to getting one back that answers it.
    pub(super) round_trip: Duration,
    /// Bytes per second in each direction; `u64::MAX` for no limit.
    pub(super) rate: u64,
}

impl Shape {
    /// What one connection may have under way: all that the line holds, twice, since we may be late to deliver.
    pub(super) fn held_max(&self) -> usize {
        self.carries(self.round_trip + AHEAD).saturating_add(4 * PIECE_MAX)
    }

    /// Bytes that the line carries in `span`.
    fn carries(&self, span: Duration) -> usize {
        if self.rate == u64::MAX {
            return PIECE_MAX;
        }
        usize::try_from(span.as_nanos() * u128::from(self.rate) / 1_000_000_000).unwrap_or(usize::MAX)
    }
}

/// Largest piece that is sent in one turn; smaller on slow lines.
const PIECE_MAX: usize = 64 << 10;
const PIECE_MIN: usize = 4 << 10;
/// What a piece takes at most, if it is not the smallest.
const PIECE_TIME: Duration = Duration::from_millis(1);
/// How far ahead the transmitter may be busy when it takes the next piece.
const AHEAD: Duration = Duration::from_millis(1);

/// Bytes that are spoiled on purpose.
const SPOILED: u32 = 8;

/// How to wait for a moment.
pub(super) type Sleep = Rc<dyn Fn(Moment) -> LocalFut<'static, ()>>;

/// How to reach the far end.
pub(super) type Connect = Rc<dyn Fn() -> LocalFut<'static, io::Result<Box<dyn Stream>>>>;

/// A line with two directions.
pub(super) struct Link {
    up: Rc<Direction>,
    down: Rc<Direction>,
}

impl Link {
    /// An idle line.
    pub(super) fn new(shape: Shape, sleep: Sleep) -> Self {
        Self { up: Direction::new(shape, sleep.clone()), down: Direction::new(shape, sleep) }
    }

    /// Bytes that have left the far end.
    pub(super) fn bytes_down(&self) -> u64 {
        self.down.bytes.get()
    }

    /// Spoils some bytes of what comes down: one whenever `every` more bytes have. Several, since one may hit a header,
    /// which costs the connection and no more.
    pub(super) fn spoil(&self, every: u64) {
        let next = self.down.bytes.get() + every;
        self.down.spoil.set(Some(Spoil { next, every, left: SPOILED }));
    }

    /// Relays every connection to `listener` over the line; until dropped.
    pub(super) async fn serve(&self, listener: &dyn Listener, connect: Connect) -> io::Result<()> {
        loop {
            let near: Rc<dyn Stream> = Rc::from(listener.accept().await?.attach()?);
            let (connect, up, down) = (connect.clone(), self.up.clone(), self.down.clone());
            spawn(async move {
                let Ok(far) = connect().await else { return near.shutdown() };
                let far: Rc<dyn Stream> = Rc::from(far);
                up.carry(near.clone(), far.clone());
                down.carry(far, near);
            });
        }
    }
}

/// One direction of the line.
struct Direction {
    shape: Shape,
    sleep: Sleep,
    turns: Turns,
    /// Until when the transmitter is busy.
    busy: Cell<Moment>,
    bytes: Cell<u64>,
    spoil: Cell<Option<Spoil>>,
}

/// Bytes that are still to be spoiled.
#[derive(Clone, Copy)]
struct Spoil {
    next: u64,
    every: u64,
    left: u32,
}

impl Direction {
    fn new(shape: Shape, sleep: Sleep) -> Rc<Self> {
        let (turns, busy) = (Turns::default(), Cell::default());
        Rc::new(Self { shape, sleep, turns, busy, bytes: Cell::new(0), spoil: Cell::new(None) })
    }

    /// Carries what `from` sends to `to`, until either end is gone; then ends both.
    fn carry(self: Rc<Self>, from: Rc<dyn Stream>, to: Rc<dyn Stream>) {
        let flying = Rc::new(Flying::default());
        let (direction, source, taking) = (self.clone(), from.clone(), flying.clone());
        spawn(async move {
            // Whatever ends it, the bytes before that arrive.
            let _ = direction.take(&*source, &taking).await;
            taking.close();
        });
        spawn(async move {
            let _ = self.deliver(&*to, &flying).await;
            flying.close();
            from.shutdown();
            to.shutdown();
        });
    }

    async fn take(&self, from: &dyn Stream, flying: &Flying) -> io::Result<()> {
        let mut buf = vec![0; self.piece()];
        // Since when what is next has been waiting for the line; being late ourselves does not count.
        let mut ready = now();
        loop {
            if flying.bytes.get() >= self.shape.held_max() {
                flying.room(self.shape.held_max()).await;
                ready = now();
            }
            if flying.closed.get() {
                return Ok(());
            }
            let turn = self.turns.take().await;
            if let Some(begin) = self.begin() {
                (self.sleep)(begin).await;
            }
            let taken = from.try_recv(&mut buf)?;
            let due = taken.map(|len| self.send(ready, len));
            drop(turn);
            match (taken, due) {
                (Some(0), _) => return Ok(()),
                (Some(len), Some(due)) => {
                    self.count(&mut buf[..len]);
                    flying.push(due, buf[..len].into());
                    ready = if len < buf.len() { now() } else { ready };
                }
                _ => {
                    from.readable().await?;
                    ready = now();
                }
            }
        }
    }

    async fn deliver(&self, to: &dyn Stream, flying: &Flying) -> io::Result<()> {
        while let Some((due, bytes)) = flying.pop().await {
            if due > now() {
                (self.sleep)(due).await;
            }
            to.send_all(&bytes).await?;
        }
        Ok(())
    }

    /// When the transmitter may take the next piece, if not now.
    fn begin(&self) -> Option<Moment> {
        let ahead = self.busy.get().since(now());
        (ahead > AHEAD).then(|| now().after(ahead.saturating_sub(AHEAD)))
    }

    /// Sends a piece that was there at `ready`; answers when it arrives.
    fn send(&self, ready: Moment, len: usize) -> Moment {
        // Not from now on: had we been in time, it would have left when it was ready and the line was free.
        let sent = self.busy.get().max(ready).after(self.takes(len as u64));
        self.busy.set(sent);
        sent.after(self.shape.round_trip / 2)
    }

    fn takes(&self, len: u64) -> Duration {
        if self.shape.rate == u64::MAX {
            return Duration::ZERO;
        }
        let nanos = u128::from(len) * 1_000_000_000 / u128::from(self.shape.rate.max(1));
        Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
    }

    fn piece(&self) -> usize {
        self.shape.carries(PIECE_TIME).clamp(PIECE_MIN, PIECE_MAX)
    }

    fn count(&self, bytes: &mut [u8]) {
        let before = self.bytes.get();
        self.bytes.set(before + bytes.len() as u64);
        while let Some(Spoil { next, every, left }) = self.spoil.get()
            && next < self.bytes.get()
        {
            bytes[next.saturating_sub(before) as usize] ^= 1;
            let again = Spoil { next: next + every.max(1), every, left: left - 1 };
            self.spoil.set((left > 1).then_some(again));
        }
    }
}

/// Bytes under way on one connection, in order.
#[derive(Default)]
struct Flying {
    queue: RefCell<VecDeque<(Moment, Box<[u8]>)>>,
    bytes: Cell<usize>,
    closed: Cell<bool>,
    changed: Notify,
}

impl Flying {
    /// Waits until fewer than `max` bytes are under way, or nobody takes them any more.
    async fn room(&self, max: usize) {
        while self.bytes.get() >= max && !self.closed.get() {
            self.changed.notified().await;
        }
    }

    fn push(&self, due: Moment, bytes: Box<[u8]>) {
        self.bytes.set(self.bytes.get() + bytes.len());
        self.queue.borrow_mut().push_back((due, bytes));
        self.changed.notify_waiters();
    }

    /// The next piece; `None` at the end.
    async fn pop(&self) -> Option<(Moment, Box<[u8]>)> {
        loop {
            if let Some((due, bytes)) = self.queue.borrow_mut().pop_front() {
                self.bytes.set(self.bytes.get() - bytes.len());
                self.changed.notify_waiters();
                return Some((due, bytes));
            }
            if self.closed.get() {
                return None;
            }
            self.changed.notified().await;
        }
    }

    fn close(&self) {
        self.closed.set(true);
        self.changed.notify_waiters();
    }
}

/// Whose turn it is: first come, first served, and whoever comes again stands at the end.
#[derive(Default)]
struct Turns {
    busy: Cell<bool>,
    waiting: RefCell<VecDeque<oneshot::Sender<()>>>,
}

/// A turn; dropping it passes it on.
struct Turn<'a>(&'a Turns);

impl Turns {
    async fn take(&self) -> Turn<'_> {
        if self.busy.replace(true) {
            let (pass, passed) = oneshot::channel();
            self.waiting.borrow_mut().push_back(pass);
            // Nobody drops a place in the line but with all of it.
            let _ = passed.await;
        }
        Turn(self)
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        let mut waiting = self.0.waiting.borrow_mut();
        while let Some(next) = waiting.pop_front() {
            if next.send(()).is_ok() {
                return;
            }
        }
        self.0.busy.set(false);
    }
}

#[cfg(test)]
mod tests;
