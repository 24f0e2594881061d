//! The power goes while a host fetches an image, cuts it off and pivots its clones, or its daemon is killed: at any
//! write and any flush, the network failing beside it. The next daemon finds everything, and no byte is ever wrong.
//!
//! A failure prints the `cargo xtask sim` command that plays it again; `MILLPOND_TEST_FULL=1` looks at more points.

#![allow(unreachable_pub, reason = "modules of one test")]
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod bad_states;
mod cache_file;
mod life;
#[path = "../../../engine/tests/listening/mod.rs"]
mod listening;
mod outlives;
mod scene;

use std::process::Command;

use flow::sabotage::{Rule, break_named};
use life::{Known, Life, Plan};
use pond::Mode;
use scene::Master;
use sim::campaign::{self, Budget, Budgets, Look, Scenario, rng_of};
use sim::{Counts, CrashPoint, Rng, SimDisk};

/// Rules without which something is wrong here.
const RULES: &[Rule] = &[Rule::DataBarrier, Rule::LastBarrier];
const BUDGETS: Budgets = Budgets {
    quick: Budget { seeds: 34, points: 60 },
    full: Budget { seeds: 120, points: usize::MAX },
    full_points: 4_000,
};

/// A host that fetches, cuts off and pivots, whose VMs live on.
struct WholeLife;

impl Scenario for WholeLife {
    fn name(&self) -> &'static str {
        "a pond"
    }

    fn whole(&self, seed: u64) -> Result<Counts, String> {
        let master = Master::new(seed);
        Ok(live_on(seed, true, &master, master.disk(), Known::default()).counts())
    }

    fn cut(&self, seed: u64, point: CrashPoint, look: Look) -> Result<(), String> {
        crash_at(seed, &Master::new(seed), point, look);
        Ok(())
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
        Err(_) => sim::skip("pond crash, each fortieth cache", "qemu-img"),
        Ok(output) => assert!(matches!(output.status.code(), Some(0 | 3)), "qemu-img check: {output:?}"),
    }
}

/// One crash, perhaps another one in the life after it, and the life that comes to its end.
fn crash_at(seed: u64, master: &Master, point: CrashPoint, look: Look) {
    let mut rng = rng_of(seed, point);
    let left = cut(seed, master, master.disk(), Known::default(), point, &mut rng);
    let (mut disk, mut known) = left.expect("a whole run came to this point");
    check(&disk, master, look.ask_peer);
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
    check(&disk, master, look.ask_peer);
}

#[test]
fn scenarios() {
    campaign::play_or_break(&[Box::new(WholeLife)], &BUDGETS, break_named);
}

#[test]
fn removed_barriers_are_found() {
    for rule in RULES {
        campaign::must_fail_without(rule.name(), WholeLife.name());
    }
}
