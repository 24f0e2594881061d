//! Nothing is left behind of clients that come and go: alone in its process, since it counts all descriptors,
//! threads and bytes.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod lab;

use std::time::{Duration, Instant};

use block::ByteRange;
use export::nbd::ServerOptions;
use io::Address;
use io::counting::{self, Counting};
use io::real::RealWorld;
use nbd::codec::{Command, CommandFlags};
use sim::Rng;
use tempfile::TempDir;

use lab::client::{Answer, Client, connect, wish};
use lab::garbage::garbage;
use lab::stage::Stage;
use lab::store::{Mood, Store};

#[global_allocator]
static ALLOCATOR: Counting = Counting;

const LEN: usize = 1 << 20;
const CYCLES: usize = 1000;
const ROUNDS: usize = 4;
/// Only to stop a hang.
const PATIENCE: Duration = Duration::from_secs(20);
/// How long what a task holds may take to be freed before another round tells.
const SETTLE: Duration = Duration::from_secs(2);

/// Descriptors and threads.
fn held() -> (usize, usize) {
    let count = |what: &str| std::fs::read_dir(format!("/proc/self/{what}")).unwrap().count();
    (count("fd"), count("task"))
}

/// Address space in bytes: what is lost in large blocks shows here.
fn mapped() -> i64 {
    let pages = std::fs::read_to_string("/proc/self/statm").unwrap();
    pages.split(' ').next().unwrap().parse::<i64>().unwrap() * 4096
}

/// A client that sends garbage.
async fn babble(stage: &Stage<RealWorld>, rng: &mut Rng) {
    let stream = connect(&stage.world, &stage.address).await;
    let _ = stream.send_all(&garbage(rng)).await;
    if rng.chance(0.3) {
        stream.shutdown();
        while stream.recv(&mut [0; 4096]).await.is_ok_and(|len| len > 0) {}
    }
}

/// A client that asks for this and that and leaves without a word, perhaps in the middle of a payload.
async fn vanish(stage: &Stage<RealWorld>, rng: &mut Rng) {
    let mut client = Client::connect(&stage.world, &stage.address, wish("disk")).await;
    for _ in 0..rng.index(20) {
        let range = ByteRange::new(rng.below(1000), 1 + rng.below(LEN as u64 - 1000));
        match rng.index(4) {
            0 => client.ask(Command::Write, CommandFlags::FUA, range, &vec![7; range.len() as usize]),
            1 => client.ask(Command::BlockStatus, CommandFlags::NONE, range, &[]),
            _ => client.ask(Command::Read, CommandFlags::NONE, range, &[]),
        };
    }
    client.push().unwrap();
    if rng.chance(0.5) && client.unanswered() > 0 {
        client.answer().await.unwrap();
    }
}

async fn cycles(stage: &Stage<RealWorld>, rng: &mut Rng, count: usize) {
    for _ in 0..count {
        match rng.chance(0.7) {
            true => babble(stage, rng).await,
            false => vanish(stage, rng).await,
        }
    }
    assert_eq!(stage.ends(count).await.len(), count);
    stage.server.idle().await;
}

/// Bytes that a round of cycles leaves, when all else is as before.
async fn grown(stage: &Stage<RealWorld>, rng: &mut Rng, held_before: (usize, usize)) -> i64 {
    let bytes = counting::small();
    cycles(stage, rng, CYCLES).await;
    let begun = Instant::now();
    let growth = || counting::small() - bytes;
    while held() != held_before && begun.elapsed() < PATIENCE
        || growth() >= CYCLES as i64 && begun.elapsed() < SETTLE
    {
        io::sleep(Duration::from_millis(10)).await;
    }
    assert_eq!(held(), held_before);
    growth()
}

#[test]
fn a_thousand_cycles_leave_no_descriptor_no_thread_and_no_byte() {
    let folder = TempDir::new().unwrap();
    let address = Address::Unix { path: folder.path().join("socket") };
    let world = RealWorld::new();
    world.block_on(async {
        let stage = Stage::start(world.clone(), ServerOptions::default(), 2, address);
        stage.export(&Store::new(vec![7; LEN], Mood { delay_us: 0..=50, ..Mood::MIXED }));
        let mut rng = Rng::new(1);
        cycles(&stage, &mut rng, 300).await;
        // What a task holds is freed just after its end was told.
        io::sleep(Duration::from_millis(100)).await;
        let (held_before, address_space) = (held(), mapped());
        let mut growth = i64::MAX;
        // What leaks grows in every round; a queue of the runtime's that has doubled does so once.
        for _ in 0..ROUNDS {
            growth = grown(&stage, &mut rng, held_before).await;
            if growth < CYCLES as i64 {
                break;
            }
        }
        assert!(growth < CYCLES as i64, "{growth} bytes");
        // Less than the buffers of a few connections.
        assert!(mapped() - address_space < 32 << 20, "{} bytes mapped", mapped() - address_space);
        let mut client = Client::connect(&stage.world, &stage.address, wish("disk")).await;
        assert_eq!(client.read(5, 100).await, Answer::Done(vec![7; 100]));
    });
}
