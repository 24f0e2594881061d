//! Streams in the simulated world: chains of images that differ in size and cluster size, guests that write meanwhile,
//! disks that fail, and power that goes at any write and any flush.
//!
//! A failure prints the `cargo xtask sim` command that plays it again, or its seed; `MILLPOND_TEST_FULL=1` tries more.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod guests;
mod policies;
mod scene;

use std::rc::Rc;

use engine::{JobState, StreamRequest};
use flow::sabotage::{Rule, break_named};
use futures_util::future::{join, join_all};
use guests::Disk;
use scene::{Scene, World, ask_qemu};
use sim::campaign::{self, Budget, Budgets, Look, Scenario, rng_of};
use sim::{Counts, CrashPoint, Options, Rng, SimDisk};

fn is_full() -> bool {
    std::env::var_os("MILLPOND_TEST_FULL").is_some()
}

/// Streams while guests write, with rests, and sometimes not to the end. Answers whether it came to its end.
async fn live(world: World, scene: &Scene, disk: Rc<Disk>, seed: u64) -> bool {
    let mut rng = Rng::new(seed);
    let engine = scene.open(&world).await;
    let guests = guests::enter(&engine, &disk, 3);
    let work = join_all(guests.iter().map(|guest| guest.work(rng.fork(), 60)));
    let streamed = async {
        turns(rng.below(30)).await;
        let job = scene.stream(&engine, StreamRequest::default()).await.unwrap();
        for _ in 0..rng.below(3) {
            turns(rng.below(20)).await;
            // It may be at its end.
            let _ = job.pause();
            turns(rng.below(20)).await;
            let _ = job.resume();
        }
        turns(rng.below(200)).await;
        let cancelled = rng.chance(0.2) && job.cancel().is_ok();
        job.reached(|state| state == JobState::Null).await;
        assert_eq!(job.info().error.is_some(), cancelled);
        !cancelled
    };
    let (came_to_its_end, _) = join(streamed, work).await;
    disk.check_all(&engine).await;
    for guest in guests {
        guest.leave(&engine).await;
    }
    came_to_its_end
}

async fn turns(number: u64) {
    for _ in 0..number {
        io::yield_now().await;
    }
}

/// Opens what is left by the names in its headers, and compares.
fn opens_right(seed: u64, scene: &Scene, left: SimDisk, disk: &Disk) {
    let world = sim::SimWorld::with_disk(seed, Options::calm(), left);
    world.run(async {
        let engine = scene.open_by_name(&world).await;
        disk.check_all(&engine).await;
    });
}

#[test]
fn guests_write_while_layers_go() {
    for seed in 0..if is_full() { 400 } else { 40 } {
        println!("seed {seed}");
        let (scene, whole) = Scene::new(seed);
        let world = sim::SimWorld::with_disk(seed, Options::default(), whole);
        let disk = Rc::new(Disk::new(&scene.content));
        let came_to_its_end = world.run(live(world.clone(), &scene, disk.clone(), seed));
        let left = world.disk();
        let below = if came_to_its_end { scene.stays } else { Some("mid") };
        assert_eq!(scene.names(&left).as_deref(), below, "in the header");
        if seed % 10 == 0 {
            ask_qemu(&scene, &left);
        }
        opens_right(seed, &scene, left, &disk);
    }
}

/// A stream under guests, and the power.
struct Streamed;

impl Scenario for Streamed {
    fn name(&self) -> &'static str {
        "a stream"
    }

    fn whole(&self, seed: u64) -> Result<Counts, String> {
        let (scene, whole) = Scene::new(seed);
        let world = sim::SimWorld::with_disk(seed, Options::default(), whole);
        world.run(live(world.clone(), &scene, Rc::new(Disk::new(&scene.content)), seed));
        Ok(world.disk().counts())
    }

    fn cut(&self, seed: u64, point: CrashPoint, look: Look) -> Result<(), String> {
        let (scene, whole) = Scene::new(seed);
        let world = sim::SimWorld::with_disk(seed, Options::default(), whole);
        let disk = Rc::new(Disk::new(&scene.content));
        assert!(world.run_until_crash(point, live(world.clone(), &scene, disk.clone(), seed)).is_none());
        let mut rng = rng_of(seed, point);
        let left = world.disk().crash(&mut rng);
        if look.ask_peer {
            ask_qemu(&scene, &left);
        }
        opens_right(seed, &scene, left.crash(&mut rng), &disk);
        let left = stream_again(seed, &scene, left, &disk);
        opens_right(seed, &scene, left.crash(&mut rng), &disk);
        if look.ask_peer {
            ask_qemu(&scene, &left);
        }
        Ok(())
    }
}

/// What is left is streamed into once more, and lacks nothing then.
fn stream_again(seed: u64, scene: &Scene, left: SimDisk, disk: &Disk) -> SimDisk {
    let world = sim::SimWorld::with_disk(seed + 1000, Options::default(), left);
    world.run(async {
        let engine = scene.open_by_name(&world).await;
        if scene.names(&world.disk()).is_some() {
            let request =
                StreamRequest { id: "again".to_owned(), node: "top".to_owned(), ..StreamRequest::default() };
            engine.stream(request).await.unwrap();
            if let Some(job) = engine.jobs().find("again") {
                job.reached(|state| state == JobState::Null).await;
                assert_eq!(job.info().error, None);
            }
        }
        disk.check_all(&engine).await;
    });
    assert_eq!(scene.names(&world.disk()), None);
    world.disk()
}

const BUDGETS: Budgets = Budgets {
    quick: Budget { seeds: 12, points: 12 },
    full: Budget { seeds: 60, points: 24 },
    full_points: 700,
};

#[test]
fn scenarios() {
    campaign::play_or_break(&[Box::new(Streamed)], &BUDGETS, break_named);
}

#[test]
fn a_removed_barrier_is_found() {
    campaign::must_fail_without(Rule::DataBarrier.name(), Streamed.name());
}
