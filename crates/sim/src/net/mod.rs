//! The simulated network: listeners, connections, and a control handle for tests.
//!
//! Invariants: bytes of a connection arrive in order, once; what a cut takes away is a tail.

mod link;
mod listener;
mod options;
mod pipe;
mod state;
mod stream;

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, ErrorKind};
use std::sync::{Arc, Mutex};
use std::task::Waker;
use std::time::Duration;

use ::io::select::race;
use ::io::sync::Notify;
use ::io::{Address, Incoming, Listener, Moment};

pub use link::Link;
pub use options::NetOptions;

use crate::clock::Event;
use crate::core::Core;
use crate::locked;
use crate::rng::Rng;
use link::Line;
use listener::SimListener;
use state::{Conn, Key, State};
use stream::Side;

/// The network, and the handle by which a test shapes and breaks it. Clones are the same network.
///
/// Addresses are only keys. A client finds a listener at the same host and port, else one that listens to
/// all hosts (an empty one) at that port. What is said here of an address holds for the connections whose
/// client asked for it and for those whose server listens there.
#[derive(Clone)]
pub struct SimNet(Arc<Mutex<State>>);

impl SimNet {
    pub(crate) fn new(core: Arc<Core>, options: NetOptions, rng: Rng) -> Self {
        Self(Arc::new(Mutex::new(State {
            options,
            rng,
            core,
            serial: 0,
            listeners: BTreeMap::new(),
            conns: BTreeMap::new(),
            lines: BTreeMap::new(),
            refused: BTreeSet::new(),
            stalled: BTreeMap::new(),
            resumed: Arc::default(),
        })))
    }

    /// Changes how it behaves from now on.
    pub fn adjust(&self, change: impl FnOnce(&mut NetOptions)) {
        change(&mut locked(&self.0).options);
    }

    /// Makes the line to `address` like `link`, also for what is sent on it from now on by those connected.
    pub fn set_link(&self, address: &Address, link: Link) {
        let mut state = locked(&self.0);
        state.lines.entry(Key::of(address)).or_insert_with(|| Line::new(link)).link = link;
    }

    /// Refuses new connections to `address`, or no longer.
    pub fn refuse(&self, address: &Address, refuse: bool) {
        let (mut state, key) = (locked(&self.0), Key::of(address));
        match refuse {
            true => state.refused.insert(key),
            false => state.refused.remove(&key),
        };
    }

    /// Nothing arrives at either end of any connection of `address` for `span`, and none is established;
    /// `Duration::MAX` stalls it until [`SimNet::resume`]. Nothing is lost.
    pub fn stall(&self, address: &Address, span: Duration) {
        let mut state = locked(&self.0);
        let until = state.now().after(span);
        state.stalled.insert(Key::of(address), until);
        let core = state.core.clone();
        drop(state);
        if span < Duration::MAX {
            let (net, address) = (self.clone(), address.clone());
            core.clock.run_after(span, move || net.wake_all(&address));
        }
    }

    /// Ends the stall of `address` and of its connections.
    pub fn resume(&self, address: &Address) {
        let (mut state, key) = (locked(&self.0), Key::of(address));
        state.stalled.remove(&key);
        for conn in state.conns.values_mut().filter(|conn| conn.names.contains(&key)) {
            conn.stalled = Moment(0);
        }
        drop(state);
        self.wake_all(address);
    }

    /// Cuts all connections of `address`: bytes on their way are lost, both sides then see an error or the
    /// end of the stream. Answers how many there were.
    pub fn cut_all(&self, address: &Address) -> usize {
        let all = self.connections(address);
        all.iter().for_each(Connection::cut);
        all.len()
    }

    /// The connections of `address`, oldest first.
    pub fn connections(&self, address: &Address) -> Vec<Connection> {
        let ids = locked(&self.0).conns_of(&Key::of(address));
        ids.into_iter().map(|id| Connection { net: self.clone(), id }).collect()
    }

    fn wake_all(&self, address: &Address) {
        let mut state = locked(&self.0);
        let ids = state.conns_of(&Key::of(address));
        let (readers, resumed) = (state.readers(&ids), state.resumed.clone());
        drop(state);
        resumed.notify_waiters();
        readers.into_iter().for_each(Waker::wake);
    }

    /// Has the readers of a connection look again at `when`.
    fn wake_at(&self, when: Moment, id: u64) {
        let (core, net) = (locked(&self.0).core.clone(), self.clone());
        let wake = move || {
            let readers = locked(&net.0).readers(&[id]);
            readers.into_iter().for_each(Waker::wake);
        };
        core.clock.at(when, Event::Run(Box::new(wake)));
    }

    /// Cuts a connection if the dice say so.
    fn maybe_cut(&self, id: u64) {
        let mut state = locked(&self.0);
        let odds = state.options.cut;
        let waiting = if state.rng.chance(odds) { state.cut(id) } else { Vec::new() };
        drop(state);
        waiting.into_iter().for_each(Waker::wake);
    }

    pub(crate) fn listen(&self, address: &Address) -> io::Result<Box<dyn Listener>> {
        let mut state = locked(&self.0);
        let mut address = address.clone();
        if let Address::Tcp { port: port @ 0, .. } = &mut address {
            state.serial += 1;
            *port = u16::try_from(49_152 + state.serial % 16_384).unwrap_or(49_152);
        }
        let key = Key::of(&address);
        if state.listeners.contains_key(&key) {
            return Err(ErrorKind::AddrInUse.into());
        }
        state.listeners.insert(key.clone(), state::Backlog::default());
        drop(state);
        Ok(Box::new(SimListener { net: self.clone(), key, address }))
    }

    pub(crate) async fn connect(&self, address: &Address) -> io::Result<Box<dyn Incoming>> {
        let key = Key::of(address);
        self.pass_half_way(&key).await;
        let id = self.establish(&key)?;
        let client = Side { net: self.clone(), id, side: 0, peer: address.to_string() };
        self.pass_half_way(&key).await;
        Ok(Box::new(client))
    }

    /// Waits as long as a packet takes that has no other in its way.
    async fn pass_half_way(&self, key: &Key) {
        loop {
            let (stalled, span, resumed) = self.passage(key);
            let Some(until) = stalled else { return ::io::sleep(span).await };
            race(::io::sleep_until(until), resumed.notified()).await;
        }
    }

    /// Until when `key` is stalled, how long a packet takes otherwise, and who tells when a stall ends.
    fn passage(&self, key: &Key) -> (Option<Moment>, Duration, Arc<Notify>) {
        let mut state = locked(&self.0);
        let keys = key.listeners();
        let until = keys.iter().filter_map(|key| state.stalled.get(key)).max().copied();
        let jitter = state.options.jitter.clone();
        let jitter = state.rng.span(&jitter);
        let line = keys.iter().find_map(|key| state.lines.get(key));
        let link = line.map_or(state.options.link, |line| line.link);
        let now = state.now();
        (until.filter(|until| *until > now), link.round_trip / 2 + jitter, state.resumed.clone())
    }

    /// Puts a new connection before its listener.
    fn establish(&self, key: &Key) -> io::Result<u64> {
        let mut state = locked(&self.0);
        let found = key.listeners().into_iter().find(|key| state.listeners.contains_key(key));
        let refused = state.refused.contains(key);
        let Some(listens) = found.filter(|found| !refused && !state.refused.contains(found)) else {
            let missing = !refused && matches!(key, Key::Unix(_));
            return Err(if missing { ErrorKind::NotFound } else { ErrorKind::ConnectionRefused }.into());
        };
        state.serial += 1;
        let id = state.serial;
        let conn = Conn {
            names: [key.clone(), listens.clone()],
            pipes: Default::default(),
            stalled: Moment(0),
            open: [true; 2],
        };
        state.conns.insert(id, conn);
        state.core.note("connect", id, 0);
        let backlog = state.listeners.entry(listens).or_default();
        backlog.waiting.push_back(id);
        let acceptors = std::mem::take(&mut backlog.acceptors);
        drop(state);
        acceptors.into_iter().for_each(Waker::wake);
        Ok(id)
    }
}

/// One connection, for a test to break.
#[derive(Clone)]
pub struct Connection {
    net: SimNet,
    id: u64,
}

impl Connection {
    /// Cuts it, as [`SimNet::cut_all`] does.
    pub fn cut(&self) {
        let waiting = locked(&self.net.0).cut(self.id);
        waiting.into_iter().for_each(Waker::wake);
    }

    /// Nothing arrives at either end for `span`, as [`SimNet::stall`] does.
    pub fn stall(&self, span: Duration) {
        let mut state = locked(&self.net.0);
        let until = state.now().after(span);
        if let Some(conn) = state.conns.get_mut(&self.id) {
            conn.stalled = until;
        }
        drop(state);
        if span < Duration::MAX {
            self.net.wake_at(until, self.id);
        }
    }

    /// Ends a stall of this connection alone.
    pub fn resume(&self) {
        let mut state = locked(&self.net.0);
        if let Some(conn) = state.conns.get_mut(&self.id) {
            conn.stalled = Moment(0);
        }
        let readers = state.readers(&[self.id]);
        drop(state);
        readers.into_iter().for_each(Waker::wake);
    }

    /// Whether a side still has it.
    pub fn is_open(&self) -> bool {
        locked(&self.net.0).conns.contains_key(&self.id)
    }
}
