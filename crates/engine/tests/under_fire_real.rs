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
use io::counting::{self, Counting};
use io::real::RealWorld;
use io::{Address, lease};

/// Seeds of each scene, and of a full run.
const FEW: u64 = 1;
const FULL: u64 = 30;

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Memory is counted for the whole process, so one at a time.
static ONE: Mutex<()> = Mutex::new(());

/// Bytes of buffers that a thread keeps for reuse while memory is measured.
const POOL_MAX: usize = 256 << 10;

/// On the machine it also depends on chance how far threads' lists have grown when a round ends: seen up to 64 KiB.
/// What leaks in 20 rounds is more.
const SLACK: i64 = 256 << 10;

/// Nothing takes this long, however busy the machine is.
const STANDSTILL: Duration = Duration::from_secs(120);

/// Rounds, requests of each client in a round, and edits, at least; whether the scene's own caches are cut off.
type Course = (u32, u64, u64, bool);
const BATTLE: Course = (6, 400, 500, true);
/// Long enough for the memory of a round to show.
const SIEGE: Course = (60, 40, 0, false);

fn fight(
    scene: &'static Scene,
    threads: usize,
    seed: u64,
    course: Course,
) -> Option<Result<Outcome, String>> {
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let ((model, image), (rounds, requests, edits, cuts)) = (fire::image(seed), course);
    if !scene.make_files(folder.path(), &image) {
        return None;
    }
    // Each number of threads with and without a ring, over two seeds.
    let forbidden = (threads == 1) == seed.is_multiple_of(2);
    let world = if forbidden { RealWorld::without_io_uring() } else { RealWorld::new() };
    let battle = Battle {
        seed,
        scene,
        threads,
        clients: 3,
        rounds,
        requests,
        edits,
        cuts,
        address: Address::Unix { path: folder.path().join("s") },
        folder: format!("{}/", folder.path().display()),
        memory: Arc::new(|| counting::live() - lease::pooled() as i64),
        done: Arc::default(),
    };
    let watched = watch(battle.done.clone(), format!("{}, {threads} threads, seed {seed}", scene.name));
    let outcome = world.block_on(battle.run(Arc::new(world.clone()), model));
    drop(watched);
    if outcome.is_ok() {
        scene.check_images(folder.path());
    }
    Some(outcome)
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
    fire::all(name, fire::seeds(FEW, FULL), |scene, threads, seed| fight(scene, threads, seed, BATTLE));
}

fire::every_scene!(all);

#[test]
fn memory_is_flat() {
    let _one = ONE.lock().unwrap_or_else(PoisonError::into_inner);
    // Full after a few rounds: each buffer that is kept takes some bytes beside its own.
    lease::set_pool_max(POOL_MAX);
    for scene in SCENES {
        fire::all(scene.name, fire::seeds(1, FULL / 10), |scene, threads, seed| {
            let outcome = fight(scene, threads, seed, SIEGE)?;
            Some(outcome.and_then(|outcome| outcome.memory_is_flat(SLACK).map(|()| outcome)))
        });
    }
}
