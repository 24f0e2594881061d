//! Under fire on the machine: real files, sockets and threads.
//!
//! The seed decides what clients ask for and which edits are made, not when: a failure may take several runs of
//! `MILLPOND_FIRE_SEED=n cargo test -p engine --test under_fire_real NAME` to come back.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod fire;

use std::sync::atomic::Ordering;
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use fire::client::Done;
use fire::scene::{SCENES, Scene};
use fire::{Battle, Outcome};
use io::Address;
use io::counting::{self, Counting};
use io::real::RealWorld;

/// Seeds of each scene, and of a full run.
const FEW: u64 = 1;
const FULL: u64 = 30;

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Memory is counted for the whole process, so one at a time.
static ONE: Mutex<()> = Mutex::new(());

/// Nothing takes this long, however busy the machine is.
const STANDSTILL: Duration = Duration::from_secs(120);

fn fight(scene: &'static Scene, threads: usize, seed: u64) -> Option<Result<Outcome, String>> {
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let (model, image) = fire::image(seed);
    if !scene.make_files(folder.path(), &image) {
        return None;
    }
    let world = if threads == 1 { RealWorld::without_io_uring() } else { RealWorld::new() };
    let battle = Battle {
        seed,
        scene,
        threads,
        clients: 3,
        rounds: 6,
        requests: 400,
        address: Address::Unix { path: folder.path().join("s") },
        folder: format!("{}/", folder.path().display()),
        memory: counting::small,
        done: Arc::default(),
    };
    let watched = watch(battle.done.clone(), format!("{}, {threads} threads, seed {seed}", scene.name));
    let outcome = world.block_on(battle.run(Arc::new(world.clone()), model));
    drop(watched);
    Some(outcome.and_then(|outcome| outcome.memory_is_flat().map(|()| outcome)))
}

/// Ends the process when nothing is answered any more. Dropped, it watches no longer.
fn watch(done: Arc<Done>, what: String) -> Sender<()> {
    let (over, is_over) = channel();
    std::thread::spawn(move || {
        let answered = || done.total() + done.edits.load(Ordering::Relaxed);
        let (mut last, mut since) = (answered(), Instant::now());
        while is_over.recv_timeout(Duration::from_secs(1)) == Err(RecvTimeoutError::Timeout) {
            if answered() != last {
                (last, since) = (answered(), Instant::now());
            } else if since.elapsed() > STANDSTILL {
                eprintln!("{what}: nothing is answered any more, after {done:?}");
                std::process::abort();
            }
        }
    });
    over
}

fn all(name: &str) {
    let _one = ONE.lock().unwrap_or_else(PoisonError::into_inner);
    let scene = SCENES.iter().find(|scene| scene.name == name).unwrap();
    for seed in fire::seeds(FEW, FULL) {
        for threads in [1, 3] {
            let begun = Instant::now();
            let Some(outcome) = fight(scene, threads, seed) else { return };
            let again = format!("MILLPOND_FIRE_SEED={seed} runs it again");
            let outcome = outcome.unwrap_or_else(|e| panic!("{name}, {threads} threads: {e}\n{again}"));
            println!("{name}, {threads} threads, seed {seed}: {outcome:?}, {:?}", begun.elapsed());
        }
    }
}

#[test]
fn a_raw_image() {
    all("raw");
}

#[test]
fn a_cache() {
    all("memory-format");
}

#[test]
fn two_caches() {
    all("two caches");
}

#[test]
fn a_cache_in_memory() {
    all("memory");
}

#[test]
fn a_qcow2_chain() {
    all("qcow2");
}

#[test]
fn a_cache_of_a_qcow2_chain() {
    all("cache of qcow2");
}
