//! What the simulated network consists of.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::io::{self, ErrorKind};
use std::path::PathBuf;
use std::sync::Arc;
use std::task::Waker;

use ::io::sync::Notify;
use ::io::{Address, Moment};

use super::link::Line;
use super::options::NetOptions;
use super::pipe::{Body, End, Pipe};
use crate::core::Core;
use crate::rng::Rng;

/// Bytes that a line with a limit carries as one piece, at most.
const PIECE_MAX: usize = 16 << 10;

/// An address as a key.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Key {
    Tcp(String, u16),
    Unix(PathBuf),
    Inherited(i32),
}

impl Key {
    pub(crate) fn of(address: &Address) -> Self {
        match address {
            Address::Tcp { host, port } => Self::Tcp(host.clone(), *port),
            Address::Unix { path } => Self::Unix(path.clone()),
            Address::Inherited(fd) => Self::Inherited(*fd),
        }
    }

    /// The keys under which a listener answers a client that asks for this one.
    pub(crate) fn listeners(&self) -> Vec<Self> {
        match self {
            Self::Tcp(_, port) => vec![self.clone(), Self::Tcp(String::new(), *port)],
            other => vec![other.clone()],
        }
    }
}

#[derive(Default)]
pub(crate) struct Backlog {
    pub(crate) waiting: VecDeque<u64>,
    pub(crate) acceptors: Vec<Waker>,
}

pub(crate) struct Conn {
    /// What the client asked for, and where the server listens.
    pub(crate) names: [Key; 2],
    /// From the client to the server, and back.
    pub(crate) pipes: [Pipe; 2],
    /// Nothing arrives before.
    pub(crate) stalled: Moment,
    /// Sides that have not let go.
    pub(crate) open: [bool; 2],
}

impl Conn {
    /// Takes everybody who waits on it.
    fn waiting(&mut self) -> Vec<Waker> {
        self.pipes.iter_mut().flat_map(|pipe| [pipe.reader.take(), pipe.writer.take()]).flatten().collect()
    }
}

pub(crate) struct State {
    pub(crate) options: NetOptions,
    pub(crate) rng: Rng,
    pub(crate) core: Arc<Core>,
    pub(crate) serial: u64,
    pub(crate) listeners: BTreeMap<Key, Backlog>,
    pub(crate) conns: BTreeMap<u64, Conn>,
    pub(crate) lines: BTreeMap<Key, Line>,
    pub(crate) refused: BTreeSet<Key>,
    pub(crate) stalled: BTreeMap<Key, Moment>,
    /// Told when a stall ends.
    pub(crate) resumed: Arc<Notify>,
}

/// What a send has led to.
pub(crate) struct Sent {
    pub(crate) len: usize,
    /// When its pieces arrive.
    pub(crate) arrivals: Vec<Moment>,
}

impl State {
    pub(crate) fn now(&self) -> Moment {
        self.core.clock.now()
    }

    pub(crate) fn line_of(&mut self, id: u64) -> &mut Line {
        let link = self.options.link;
        let [asked, listens] = &self.conns[&id].names;
        let key = if self.lines.contains_key(asked) { asked } else { listens };
        self.lines.entry(key.clone()).or_insert_with(|| Line::new(link))
    }

    /// Until when nothing arrives on a connection.
    pub(crate) fn stalled_until(&self, conn: &Conn) -> Moment {
        let names = conn.names.iter().filter_map(|name| self.stalled.get(name));
        names.copied().fold(conn.stalled, Moment::max)
    }

    /// A part of `len` that one call handles.
    fn part(&mut self, len: usize) -> usize {
        let (short, single) = (self.options.short, self.options.single);
        match (self.rng.chance(short), self.rng.chance(single)) {
            (false, _) => len,
            (true, true) => len.min(1),
            (true, false) => len.min(self.rng.index(len) + 1),
        }
    }

    /// How much `side` may send now; 0 when there is no room.
    pub(crate) fn room(&mut self, id: u64, side: usize) -> io::Result<usize> {
        let flying = self.line_of(id).link.bandwidth_delay();
        let pipe = &self.conns[&id].pipes[side];
        if pipe.is_broken() {
            return Err(ErrorKind::BrokenPipe.into());
        }
        let hold = self.options.buffer.saturating_add(usize::try_from(flying).unwrap_or(usize::MAX));
        Ok(hold.saturating_sub(pipe.queued))
    }

    /// Sends as much of what `take` gives as there is room for, of `len` bytes.
    pub(crate) fn send(
        &mut self,
        id: u64,
        side: usize,
        len: usize,
        take: impl FnOnce(usize) -> Body,
    ) -> io::Result<Option<Sent>> {
        let room = self.room(id, side)?.min(len);
        if room == 0 && len > 0 {
            return Ok(None);
        }
        let len = self.part(room);
        let mut body = take(len);
        let (now, jitter) = (self.now(), self.options.jitter.clone());
        let mut arrivals = Vec::new();
        while body.len() > 0 {
            let piece = body.split_to(body.len().min(PIECE_MAX));
            let when = self.line_of(id).carry(side, now, piece.len() as u64);
            let when = when.after(self.rng.span(&jitter));
            let pipe = self.conns.get_mut(&id).map(|conn| &mut conn.pipes[side]);
            arrivals.extend(pipe.map(|pipe| pipe.push(when, piece)));
        }
        self.core.note("send", id * 2 + side as u64, len as u64);
        Ok(Some(Sent { len, arrivals }))
    }

    /// What `side` can receive now.
    pub(crate) fn available(&self, id: u64, side: usize) -> io::Result<Option<usize>> {
        let conn = &self.conns[&id];
        let pipe = &conn.pipes[1 - side];
        if self.stalled_until(conn) > self.now() && !pipe.deaf {
            return Ok(None);
        }
        pipe.available(self.now())
    }

    /// Receives into `buf`; also answers who waits to send.
    pub(crate) fn recv(
        &mut self,
        id: u64,
        side: usize,
        buf: &mut [u8],
    ) -> io::Result<Option<(usize, Option<Waker>)>> {
        let Some(len) = self.available(id, side)? else { return Ok(None) };
        let len = self.part(len.min(buf.len()));
        self.core.note("recv", id * 2 + side as u64, len as u64);
        let Some(conn) = self.conns.get_mut(&id).filter(|_| len > 0) else { return Ok(Some((0, None))) };
        let pipe = &mut conn.pipes[1 - side];
        pipe.take(&mut buf[..len]);
        Ok(Some((len, pipe.writer.take())))
    }

    /// Ends both directions from `side`, which sends what it has unless `abruptly`; answers who waits,
    /// and when the other side notices.
    pub(crate) fn close(&mut self, id: u64, side: usize, abruptly: bool) -> (Vec<Waker>, Moment) {
        let now = self.now();
        let arrives = self.line_of(id).carry(side, now, 0);
        let Some(conn) = self.conns.get_mut(&id) else { return (Vec::new(), now) };
        let out = &mut conn.pipes[side];
        if out.end.is_none() {
            match abruptly {
                true => out.break_off(now, (arrives, End::Reset)),
                false => out.end = Some((arrives, End::Close)),
            }
        }
        conn.pipes[1 - side].turn_deaf();
        self.core.note("close", id * 2 + side as u64, u64::from(abruptly));
        (conn.waiting(), arrives)
    }

    /// Cuts a connection: each side sees an error or the end, as the dice fall; answers who waits.
    pub(crate) fn cut(&mut self, id: u64) -> Vec<Waker> {
        let now = self.now();
        let ends = [0; 2].map(|_| if self.rng.chance(0.5) { End::Reset } else { End::Close });
        let Some(conn) = self.conns.get_mut(&id) else { return Vec::new() };
        for (pipe, end) in conn.pipes.iter_mut().zip(ends) {
            pipe.break_off(now, (now, end));
        }
        self.core.note("cut", id, 0);
        conn.waiting()
    }

    /// The connections that go by `key`.
    pub(crate) fn conns_of(&self, key: &Key) -> Vec<u64> {
        self.conns.iter().filter(|(_, conn)| conn.names.contains(key)).map(|(id, _)| *id).collect()
    }

    pub(crate) fn readers(&mut self, ids: &[u64]) -> Vec<Waker> {
        let conns = self.conns.iter_mut().filter(|(id, _)| ids.contains(id));
        conns.flat_map(|(_, conn)| conn.pipes.iter_mut().filter_map(|pipe| pipe.reader.take())).collect()
    }
}
