//! Under fire in the simulated world: every order of things that a seed can make.
//!
//! A failure says its seed; `MILLPOND_FIRE_SEED=n cargo test -p engine --test under_fire_sim NAME` runs it again.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod fire;

use std::sync::Arc;
use std::time::Duration;

use fire::scene::{SCENES, Scene};
use fire::{Battle, Outcome};
use io::Address;
use sim::{DiskOptions, Options, SimDisk, SimWorld};

fn scene(name: &str) -> &'static Scene {
    SCENES.iter().find(|scene| scene.name == name).unwrap()
}

fn fight(scene: &'static Scene, threads: usize, seed: u64) -> Outcome {
    let (model, image) = fire::image(seed);
    let disk = SimDisk::new();
    for (name, len) in scene.files {
        let mut bytes = image.clone();
        bytes.resize(*len as usize, 0);
        disk.put(name, &bytes);
    }
    let rough = DiskOptions { discard_rubbish: 0.0, ..DiskOptions::rough() };
    let options = Options {
        disk: rough,
        turn_cost: Duration::from_micros(1),
        max_turns: 5_000_000,
        ..Options::default()
    };
    let world = SimWorld::with_disk(seed, options, disk);
    let battle = Battle {
        seed,
        scene,
        threads,
        clients: 3,
        rounds: 4,
        requests: 150,
        address: Address::Tcp { host: "fire".to_owned(), port: 10809 },
        folder: String::new(),
        memory: || 0,
        pulse: Arc::default(),
    };
    let shared = Arc::new(world.clone());
    let again = format!("MILLPOND_FIRE_SEED={seed} runs it again");
    world
        .run(battle.run(shared, model))
        .unwrap_or_else(|e| panic!("{}, {threads} threads: {e}\n{again}", scene.name))
}

fn all(name: &str, few: u64, full: u64) {
    for seed in fire::seeds(few, full) {
        for threads in [1, 3] {
            let begun = std::time::Instant::now();
            let outcome = fight(scene(name), threads, seed);
            let (requests, took) = (outcome.done.total(), begun.elapsed());
            println!("{name}, {threads} threads, seed {seed}: {requests} requests, {outcome:?}, {took:?}");
        }
    }
}

#[test]
fn a_raw_image() {
    all("raw", 3, 200);
}

#[test]
fn a_cache() {
    all("memory-format", 3, 200);
}

#[test]
fn two_caches() {
    all("two caches", 3, 200);
}

#[test]
fn a_cache_in_memory() {
    all("memory", 3, 200);
}
