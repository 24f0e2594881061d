//! Under fire in the simulated world: every order of things that a seed can make.
//!
//! A failure says its seed; `MILLPOND_FIRE_SEED=n cargo test -p engine --test under_fire_sim NAME` runs it again.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod fire;

use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use fire::scene::{SCENES, Scene};
use fire::{Battle, Outcome};
use flow::sabotage::{Rule, break_rule};
use io::counting::{self, Counting};
use io::{Address, lease};
use sim::{DiskOptions, Options, SimDisk, SimWorld};

/// Seeds of each scene, and of a full run.
const FEW: u64 = 2;
const FULL: u64 = 100;

/// Rules without which bytes are wrong here, by their names in MILLPOND_FIRE_BREAK.
const RULES: &[(&str, Rule)] = &[("guards", Rule::Guards), ("range-locks", Rule::RangeLocks)];

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Rounds, requests of each client in a round, and edits, at least; whether the scene's own caches are cut off.
type Course = (u32, u64, u64, bool);
const BATTLE: Course = (6, 100, 500, true);
/// Long enough for the memory of a round to show.
const SIEGE: Course = (60, 40, 0, false);

/// What a simulated disk keeps at a time, and about what that takes beside its bytes: counts, its part of a map.
const PAGE: i64 = 4096;
const BESIDE: i64 = 50;

fn fight(
    scene: &'static Scene,
    threads: usize,
    seed: u64,
    course: Course,
) -> Option<Result<Outcome, String>> {
    let (model, image) = fire::image(seed);
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    if !scene.make_files(folder.path(), &image) {
        return None;
    }
    let (disk, (rounds, requests, edits, cuts)) = (SimDisk::new(), course);
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
    let world = SimWorld::with_disk(seed, options, disk.clone());
    let battle = Battle {
        seed,
        scene,
        threads,
        clients: 3,
        rounds,
        requests,
        edits,
        cuts,
        address: Address::Tcp { host: "fire".to_owned(), port: 10809 },
        folder: String::new(),
        // All of a world runs on one thread.
        memory: {
            let disk = disk.clone();
            Arc::new(move || counting::live_here() - lease::pooled_here() as i64 - on_disk(&disk))
        },
        done: Arc::default(),
    };
    let outcome = world.run(battle.run(Arc::new(world.clone()), model));
    if outcome.is_ok() {
        look_at_images(scene, &disk, folder.path());
    }
    Some(outcome)
}

/// Has the images of a scene checked as they lie on the disk.
fn look_at_images(scene: &Scene, disk: &SimDisk, folder: &Path) {
    for name in scene.images.iter().flat_map(|image| image.files()) {
        std::fs::write(folder.join(name), disk.bytes(name).unwrap()).unwrap();
    }
    scene.check_images(folder);
}

/// What files take: bytes as readers see them and as they would survive, all flushed. A cache that was read-only before
/// it was written to grows from round to round: what it drops is not used again as long as it is open.
fn on_disk(disk: &SimDisk) -> i64 {
    let bytes: u64 = disk.names().iter().filter_map(|name| disk.allocated(name)).sum();
    2 * (bytes as i64 / PAGE) * (PAGE + BESIDE)
}

fn all(name: &str) {
    let broken = std::env::var("MILLPOND_FIRE_BREAK").ok();
    if let Some(rule) = &broken {
        break_rule(RULES.iter().find(|(name, _)| name == rule).unwrap().1);
    }
    let seeds = fire::seeds(if broken.is_some() { FULL } else { FEW }, FULL);
    let several = seeds.end - seeds.start > 1;
    let edits = fire::all(name, seeds, |scene, threads, seed| fight(scene, threads, seed, BATTLE));
    let vain: Vec<_> = edits.iter().filter(|(_, count)| count.made == 0).map(|(name, _)| *name).collect();
    // All that can be reopened of a raw image is written by clients.
    let expected = if name == "raw" { &["flip-read-only"][..] } else { &[] };
    assert!(vain == expected || !several, "edits that were never made: {vain:?}");
}

fire::every_scene!(all);

#[test]
fn memory_is_flat() {
    for scene in SCENES {
        fire::all(scene.name, fire::seeds(1, FULL / 10), |scene, threads, seed| {
            let outcome = fight(scene, threads, seed, SIEGE)?;
            Some(outcome.and_then(|outcome| outcome.memory_is_flat(fire::SLACK).map(|()| outcome)))
        });
    }
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
