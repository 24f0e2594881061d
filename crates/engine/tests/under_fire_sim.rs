//! Under fire in the simulated world: every order of things that a seed can make.
//!
//! A failure says its seed; `MILLPOND_FIRE_SEED=n cargo test -p engine --test under_fire_sim NAME` runs it again.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod fire;

use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use fire::scene::{SCENES, Scene};
use fire::{Battle, Outcome};
use flow::sabotage::{Rule, break_rule};
use io::Address;
use io::counting::{self, Counting};
use sim::{DiskOptions, Options, SimDisk, SimWorld};

/// Seeds of each scene, and of a full run.
const FEW: u64 = 2;
const FULL: u64 = 100;

/// Rules without which bytes are wrong here, by their names in MILLPOND_FIRE_BREAK.
const RULES: &[(&str, Rule)] = &[("guards", Rule::Guards), ("range-locks", Rule::RangeLocks)];

#[global_allocator]
static ALLOCATOR: Counting = Counting;

fn fight(scene: &'static Scene, threads: usize, seed: u64) -> Option<Result<Outcome, String>> {
    let (model, image) = fire::image(seed);
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    if !scene.make_files(folder.path(), &image) {
        return None;
    }
    let disk = SimDisk::new();
    for entry in std::fs::read_dir(folder.path()).unwrap() {
        let entry = entry.unwrap();
        disk.put(entry.file_name(), &std::fs::read(entry.path()).unwrap());
    }
    // What a discard leaves may be rubbish of any kind: the model knows zeros and what was there.
    let disk_options = DiskOptions { discard_rubbish: 0.0, ..DiskOptions::rough() };
    let options = Options {
        disk: disk_options,
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
        rounds: 6,
        requests: 100,
        address: Address::Tcp { host: "fire".to_owned(), port: 10809 },
        folder: String::new(),
        // All of a world runs on one thread.
        memory: counting::small_here,
        done: Arc::default(),
    };
    let outcome = world.run(battle.run(Arc::new(world.clone()), model));
    Some(outcome.and_then(|outcome| outcome.memory_is_flat().map(|()| outcome)))
}

fn all(name: &str) {
    let scene = SCENES.iter().find(|scene| scene.name == name).unwrap();
    let broken = std::env::var("MILLPOND_FIRE_BREAK").ok();
    if let Some(rule) = &broken {
        break_rule(RULES.iter().find(|(name, _)| name == rule).unwrap().1);
    }
    for seed in fire::seeds(if broken.is_some() { FULL } else { FEW }, FULL) {
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

/// In processes of their own, since a broken rule stays broken.
#[test]
fn broken_rules_are_found() {
    for (rule, _) in RULES {
        let mut command = Command::new(std::env::current_exe().unwrap());
        let run = command.args(["a_cache", "--exact"]).env("MILLPOND_FIRE_BREAK", rule);
        let output = run.env_remove("MILLPOND_FIRE_SEED").output().unwrap();
        let said =
            String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success(), "without {rule} nothing was wrong: {said}");
        assert!(said.contains("is wrong") || said.contains("corruptions"), "without {rule}: {said}");
    }
}
