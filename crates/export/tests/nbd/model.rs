//! Random requests of several clients, side by side, against plain bytes.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use block::{ByteRange, Errno, ExtentState};
use futures_util::future::join_all;
use io::{OpenOptions, World};
use nbd::codec::{Command, CommandFlags};
use nbd::handshake::client::Wish;
use sim::{Options, Rng, SimWorld};

use crate::client::{Answer, Client};
use crate::stage::{Stage, play};
use crate::store::{Mood, Store, UNIT};

/// Bytes that each client has for itself.
const OWN: usize = 80 * UNIT;
/// Bytes behind them that never change, shared by all.
const STABLE: usize = 64 * UNIT;

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

/// A disk of random bytes with holes.
fn some_bytes(rng: &mut Rng, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    for unit in bytes.chunks_mut(UNIT) {
        if rng.chance(0.6) {
            rng.fill(unit);
        }
    }
    bytes
}

async fn stable_file(world: &SimWorld, bytes: &[u8]) -> Arc<dyn io::File> {
    world.disk().put("stable", bytes);
    world.open(Path::new("stable"), OpenOptions::default()).await.unwrap()
}

async fn several_clients(stage: &Stage<SimWorld>, seed: u64, mood: Mood, longest: u64, requests: usize) {
    let mut rng = Rng::new(seed);
    let clients = 1 + rng.index(3);
    let (memory, stable) = (some_bytes(&mut rng, clients * OWN), some_bytes(&mut rng, STABLE));
    let file = stable_file(&stage.world, &stable).await;
    let store = Store::with_stable(memory, Some((file, stable)), mood);
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
    assert!(stage.gone.lock().unwrap().iter().all(Option::is_none));
}

#[test]
fn clients_side_by_side_agree_with_the_model() {
    for seed in 0..40 {
        play(seed, Options::default(), 1 + seed as usize % 3, async |stage| {
            let mood = Mood { wait: [0, 20, 60, 100][seed as usize % 4], ..Mood::MIXED };
            several_clients(&stage, seed, mood, OWN as u64, 150).await;
        });
    }
}

#[test]
fn a_network_that_delivers_single_bytes_changes_nothing() {
    for seed in 0..8 {
        play(seed, Options::default(), 2, async |stage| {
            stage.world.net().adjust(|net| (net.short, net.single) = (1.0, [1.0, 0.7][seed as usize % 2]));
            several_clients(&stage, seed, Mood::MIXED, 2 * UNIT as u64, 30).await;
        });
    }
}

#[test]
fn small_buffers_change_nothing() {
    for seed in 0..12 {
        play(seed, Options::default(), 2, async |stage| {
            let (buffer, longest, requests) =
                [(1, 100, 10), (300, 5000, 20), (9000, 50_000, 40)][seed as usize % 3];
            stage.world.net().adjust(|net| net.buffer = buffer);
            several_clients(&stage, seed, Mood::MIXED, longest, requests).await;
        });
    }
}

#[test]
fn faults_of_the_node_reach_their_request_alone() {
    for seed in 0..20 {
        play(seed, Options::default(), 2, async |stage| {
            several_clients(&stage, seed, Mood { fail: 30, ..Mood::MIXED }, OWN as u64, 100).await;
        });
    }
}
