//! The power goes while a host fetches an image, cuts it off and pivots its clones, or its daemon is killed: at any write
//! and any flush, the network failing beside it. The next daemon finds everything, and no byte is ever wrong.
//!
//! A failure says how to replay it. `MILLPOND_TEST_FULL=1` looks at more points.

#![allow(unreachable_pub, reason = "modules of one test")]
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod bad_states;
mod cache_file;
mod life;
mod outlives;
mod scene;

use std::process::Command;

use flow::sabotage::{Rule, break_rule};
use life::{Known, Life, Plan};
use pond::Mode;
use scene::Master;
use sim::{CrashPoint, Rng, SimDisk};

/// Rules without which something is wrong here, by their names in MILLPOND_CRASH_BREAK.
const RULES: &[(&str, Rule)] = &[("data-barrier", Rule::DataBarrier), ("last-barrier", Rule::LastBarrier)];
/// Points of a run at which the power goes.
const POINTS_OF_RUN: usize = 60;
/// Each how manyth crashed cache is looked at by QEMU.
const ASK_QEMU: usize = 50;

/// Says how to see it again when something is wrong.
struct Replay(u64, Option<CrashPoint>);

impl Drop for Replay {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let (seed, point) = (self.0, self.1);
            let (name, number) = match point {
                Some(CrashPoint::Write(number)) => ("write", number),
                Some(CrashPoint::Flush(number)) => ("flush", number),
                None => ("none", 0),
            };
            eprintln!(
                "seed {seed}, {point:?}; replay: MILLPOND_CRASH_REPLAY={seed}:{name}:{number} cargo test -p pond --test crash a_pond"
            );
        }
    }
}

/// A whole life after `known`; it ends with VMs that need nobody, or with a cache that goes on.
fn live_on(seed: u64, with_faults: bool, master: &Master, disk: SimDisk, known: Known) -> SimDisk {
    let left = known.left;
    let plan = Plan::new(seed, with_faults);
    let life = Life::new(&plan, master, disk, known);
    let fetched = life.world.run(life.live());
    if !with_faults {
        let lacked = master.lacks(left);
        assert!(
            fetched <= lacked,
            "{fetched} bytes were fetched, {left} granules were there, {lacked} bytes not"
        );
    }
    if plan.mode == Mode::Complete {
        life.world.run(life.alone());
    }
    life.world.disk()
}

/// Lets all stop at `point`; answers what the next life finds.
fn cut(
    seed: u64,
    master: &Master,
    disk: SimDisk,
    known: Known,
    point: CrashPoint,
    rng: &mut Rng,
) -> Option<(SimDisk, Known)> {
    let plan = Plan::new(seed, true);
    let life = Life::new(&plan, master, disk, known);
    if life.world.run_until_crash(point, life.live()).is_some() {
        return None;
    }
    let disk = life.world.disk();
    let left = if rng.chance(0.3) { disk.kill(rng) } else { disk.crash(rng) };
    Some((left, life.known_after()))
}

/// What is wrong with the cache that is left; `ask` QEMU as well.
fn check(disk: &SimDisk, master: &Master, ask: bool) {
    for file in scene::caches(disk) {
        if let Err(wrong) = cache_file::check(&file, &master.bytes) {
            panic!("the cache that is left: {wrong}");
        }
        if ask {
            ask_qemu(&file);
        }
    }
}

/// Nothing worse than leaks, says QEMU.
fn ask_qemu(file: &[u8]) {
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let path = folder.path().join("cache.qcow2");
    std::fs::write(&path, file).unwrap();
    // The source is not of this world.
    let file = serde_json::json!({"driver": "file", "filename": path});
    let image = format!("json:{}", serde_json::json!({"driver": "qcow2", "backing": null, "file": file}));
    match Command::new("qemu-img").args(["check", "-q", &image]).output() {
        Err(_) => println!("SKIPPED: qemu-img is not there, crashed caches are not checked by it"),
        Ok(output) => assert!(matches!(output.status.code(), Some(0 | 3)), "qemu-img check: {output:?}"),
    }
}

/// One crash, perhaps another one in the life after it, and the life that comes to its end.
fn crash_at(seed: u64, master: &Master, point: CrashPoint, number: usize) {
    let _replay = Replay(seed, Some(point));
    let mut rng = Rng::new(
        seed ^ match point {
            CrashPoint::Write(number) => number << 20,
            CrashPoint::Flush(number) => number << 40,
        },
    );
    let left = cut(seed, master, master.disk(), Known::default(), point, &mut rng);
    let (mut disk, mut known) = left.expect("a whole run came to this point");
    check(&disk, master, number.is_multiple_of(ASK_QEMU));
    if rng.chance(0.3) {
        let again = CrashPoint::Write(1 + rng.below(60));
        let before = disk.kill(&mut Rng::new(0));
        match cut(seed, master, before, known.clone(), again, &mut rng) {
            Some(left) => (disk, known) = left,
            None => return,
        }
        check(&disk, master, false);
    }
    let disk = live_on(seed, false, master, disk, known);
    check(&disk, master, number.is_multiple_of(ASK_QEMU));
}

/// Crashes at points of the run of one seed; answers how many.
fn crashes(seed: u64, most: usize, before: usize) -> usize {
    let master = Master::new(seed);
    let whole = {
        let _replay = Replay(seed, None);
        live_on(seed, true, &master, master.disk(), Known::default())
    };
    let mut points: Vec<_> = whole.counts().crash_points().collect();
    let mut rng = Rng::new(seed);
    while points.len() > most {
        points.swap_remove(rng.index(points.len()));
    }
    for (number, point) in points.iter().enumerate() {
        crash_at(seed, &master, *point, before + number);
    }
    points.len()
}

/// The seed and the point that are to be seen again.
fn replayed() -> Option<(u64, Option<CrashPoint>)> {
    let text = std::env::var("MILLPOND_CRASH_REPLAY").ok()?;
    let parts: Vec<_> = text.split(':').collect();
    let number = parts[2].parse().unwrap();
    let point = match parts[1] {
        "write" => Some(CrashPoint::Write(number)),
        "flush" => Some(CrashPoint::Flush(number)),
        _ => None,
    };
    Some((parts[0].parse().unwrap(), point))
}

#[test]
fn a_pond_is_found_again_after_any_crash() {
    if let Ok(rule) = std::env::var("MILLPOND_CRASH_BREAK") {
        break_rule(RULES.iter().find(|(name, _)| *name == rule).unwrap().1);
    }
    match replayed() {
        Some((seed, Some(point))) => return crash_at(seed, &Master::new(seed), point, 0),
        Some((seed, None)) => return assert_eq!(crashes(seed, 0, 0), 0),
        None => {}
    }
    let full = std::env::var_os("MILLPOND_TEST_FULL").is_some();
    let (wanted, most) = if full { (20_000, usize::MAX) } else { (2_000, POINTS_OF_RUN) };
    let mut count = 0;
    let started = std::time::Instant::now();
    for seed in 0.. {
        count += crashes(seed, most, count);
        println!("seed {seed}: {count} crashes, {:?}", started.elapsed());
        if count >= wanted {
            break;
        }
    }
}

/// In processes of their own, since a broken rule stays broken.
#[test]
fn removed_barriers_are_found() {
    for (rule, _) in RULES {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args(["a_pond_is_found_again_after_any_crash", "--exact"]);
        let output = command.env("MILLPOND_CRASH_BREAK", rule).output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr) + String::from_utf8_lossy(&output.stdout);
        assert!(!output.status.success(), "without {rule} nothing was wrong");
        let replay = said.lines().find(|line| line.contains("replay: "));
        println!("without {rule}: {}", replay.unwrap_or_else(|| panic!("no replay: {said}")));
    }
}
