//! Random requests of several clients, side by side, against plain bytes.

use std::collections::BTreeMap;
use std::sync::Arc;

use block::{ByteRange, Errno, ExtentState};
use futures_util::future::join_all;
use io::{File, World};
use nbd::codec::{Command, CommandFlags};
use nbd::handshake::client::Wish;
use sim::Rng;

use super::client::{Answer, Client};
use super::stage::Stage;
use super::store::{Mood, Store, UNIT};

/// Bytes that each client has for itself.
pub const OWN: usize = 80 * UNIT;
/// Bytes behind them that never change, shared by all.
pub const STABLE: usize = 64 * UNIT;

struct Request {
    command: Command,
    range: ByteRange,
    payload: Vec<u8>,
}

impl Request {
    fn changes(&self) -> bool {
        matches!(self.command, Command::Write | Command::Trim | Command::WriteZeroes)
    }
}

/// One client, and what it knows of the disk: its own part and the stable one.
struct Player {
    client: Client,
    store: Arc<Store>,
    own: ByteRange,
    model: Vec<u8>,
    rng: Rng,
    under_way: BTreeMap<u64, Request>,
    longest: u64,
}

impl Player {
    async fn play(mut self, requests: usize) {
        for _ in 0..requests {
            let depth = 1 + self.rng.index(24);
            while self.under_way.len() >= depth {
                self.check_next().await;
            }
            self.ask();
            if self.rng.chance(0.2) {
                self.client.push().unwrap();
            }
        }
        while !self.under_way.is_empty() {
            self.check_next().await;
        }
        self.client.ask(Command::Disconnect, CommandFlags::NONE, ByteRange::default(), &[]);
        assert_eq!(self.client.answer().await.unwrap(), None);
        let (from, to) = (self.own.start() as usize, self.own.end() as usize);
        assert!(self.store.bytes()[from..to] == self.model[from..to]);
    }

    /// Asks for something that gets in the way of nothing under way.
    fn ask(&mut self) {
        let stable = self.rng.chance(0.3);
        let part = if stable { ByteRange::between(self.stable(), self.model.len() as u64) } else { self.own };
        let longest = if self.rng.chance(0.1) { self.longest } else { self.longest.min(3 * UNIT as u64) };
        let start = part.start() + self.rng.below(part.len());
        let len = (1 + self.rng.below(longest)).min(part.end() - start);
        let (command, flags) = self.command();
        let range = if command == Command::Flush { ByteRange::default() } else { ByteRange::new(start, len) };
        let mut payload = vec![0; if command == Command::Write { len as usize } else { 0 }];
        if self.rng.chance(0.8) {
            self.rng.fill(&mut payload);
        }
        let request = Request { command, range, payload };
        let collides =
            |other: &Request| (other.changes() || request.changes()) && other.range.overlaps(request.range);
        if !self.under_way.values().any(collides) {
            let cookie = self.client.ask(command, flags, range, &request.payload);
            self.under_way.insert(cookie, request);
        }
    }

    fn command(&mut self) -> (Command, CommandFlags) {
        use CommandFlags as F;
        let structured = self.client.export.structured;
        let (command, flags): (_, &[CommandFlags]) = match self.rng.index(if structured { 14 } else { 12 }) {
            0..5 => (Command::Read, if structured { &[F::DF, F::FUA] } else { &[F::FUA] }),
            5..8 => (Command::Write, &[F::FUA]),
            8 => (Command::Trim, &[F::FUA]),
            9 => (Command::WriteZeroes, &[F::FUA, F::NO_HOLE, F::FAST_ZERO]),
            10 => (Command::Flush, &[]),
            11 => (Command::Cache, &[]),
            _ => (Command::BlockStatus, &[F::REQ_ONE]),
        };
        let some = flags.iter().filter(|_| self.rng.chance(0.3));
        (command, some.fold(F::NONE, |all, flag| all | *flag))
    }

    async fn check_next(&mut self) {
        let (cookie, answer) = self.client.answer().await.unwrap().expect("the connection is fine");
        let request = self.under_way.remove(&cookie).unwrap();
        let place = request.range.start() as usize..request.range.end() as usize;
        let known = &mut self.model[place.clone()];
        match (answer, request.command) {
            (Answer::Failed(Errno::PERM), _) if request.changes() => {
                assert!(request.range.end() > self.stable());
            }
            (Answer::Failed(errno), _) => {
                assert_eq!(errno, Errno::IO);
                // Any part of it may be done.
                known.copy_from_slice(&self.store.bytes()[place]);
            }
            (Answer::Done(bytes), Command::Read) => assert!(bytes == *known, "read of {}", request.range),
            (Answer::Done(_), Command::Write) => known.copy_from_slice(&request.payload),
            (Answer::Done(_), Command::Trim | Command::WriteZeroes) => known.fill(0),
            (Answer::Extents(extents), Command::BlockStatus) => {
                let mut at = request.range.start();
                for extent in extents {
                    assert_eq!(extent.range.start(), at);
                    at = extent.range.end();
                    let bytes = &self.model[extent.range.start() as usize..at as usize];
                    assert!(extent.state == ExtentState::Data || bytes.iter().all(|b| *b == 0));
                }
                assert!(at > request.range.start() && at <= request.range.end());
            }
            (_, command) => assert!(matches!(command, Command::Flush | Command::Cache)),
        }
    }

    fn stable(&self) -> u64 {
        (self.model.len() - STABLE) as u64
    }
}

/// `len` random bytes with holes.
pub fn some_bytes(seed: u64, len: usize) -> Vec<u8> {
    let (mut rng, mut bytes) = (Rng::new(seed), vec![0; len]);
    for unit in bytes.chunks_mut(UNIT) {
        if rng.chance(0.6) {
            rng.fill(unit);
        }
    }
    bytes
}

/// One to three clients play; `stable` is a file of [`some_bytes`] of this seed, [`STABLE`] of them.
pub async fn several_clients<W: World + Clone + 'static>(
    stage: &Stage<W>,
    seed: u64,
    stable: Arc<dyn File>,
    mood: Mood,
    (longest, requests): (u64, usize),
) {
    let mut rng = Rng::new(seed);
    let clients = 1 + rng.index(3);
    let memory = some_bytes(seed + 1, clients * OWN);
    let store = Store::with_stable(memory, Some((stable, some_bytes(seed, STABLE))), mood);
    let export = stage.export(&store);
    let players = (0..clients).map(|at| {
        let (store, rng) = (store.clone(), rng.fork());
        async move {
            let structured = at != 1;
            let wish = Wish { export: "disk".into(), structured, allocation: structured };
            let client = stage.client_as(wish).await;
            let (own, model) = (ByteRange::new((at * OWN) as u64, OWN as u64), store.bytes());
            let under_way = BTreeMap::new();
            Player { client, store, own, model, rng, under_way, longest }.play(requests).await;
        }
    });
    join_all(players).await;
    stage.server.idle().await;
    assert_eq!((stage.server.connections(), export.clients()), (0, 0));
    assert!(stage.ends(clients).await.iter().all(Option::is_none));
}
