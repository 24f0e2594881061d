//! The power goes while a qcow2 image is written: at any write and any flush, with what was on its way lost, torn or
//! reordered. Whatever is left opens, has tables that agree, and holds all that was flushed.
//!
//! A failure names scenario, seed and point; `MILLPOND_TEST_FULL=1` looks at more points.

#![allow(unreachable_pub, reason = "modules of one test")]
#![allow(clippy::unwrap_used, reason = "a test may panic")]

#[path = "../lab/mod.rs"]
mod lab;
mod model;
mod reader;
mod scenario;

use std::process::Command;

use flow::sabotage::{Rule, break_rule};
use scenario::Scenario;
use sim::{CrashPoint, Rng, SimDisk};

/// Rules without which something is lost here, by their names in MILLPOND_CRASH_BREAK.
const RULES: &[(&str, Rule)] = &[
    ("data-barrier", Rule::DataBarrier),
    ("refcount-barrier", Rule::RefcountBarrier),
    ("last-barrier", Rule::LastBarrier),
    ("durable-drop", Rule::DurableDrop),
    ("header-barrier", Rule::HeaderBarrier),
    ("data-file-barrier", Rule::DataFileBarrier),
];

/// Points of a run at which the power goes.
const POINTS_OF_RUN: usize = 24;
/// Each how manyth point is gone on from, and looked at by QEMU.
const GO_ON: usize = 10;
const ASK_QEMU: usize = 40;

fn is_full() -> bool {
    std::env::var_os("MILLPOND_TEST_FULL").is_some()
}

/// Cuts the power of runs of a scenario; answers how often, or the first thing that was wrong.
fn cut(scenario: &Scenario, seeds: std::ops::Range<u64>) -> Result<usize, String> {
    let mut cuts = 0;
    for seed in seeds {
        let (whole, model) = scenario.run(seed, None);
        let whole = whole.disk();
        let end = scenario.check(&model, &whole);
        end.map_err(|wrong| format!("{}, seed {seed}, not cut: {wrong}", scenario.name))?;
        let mut points: Vec<_> = whole.counts().crash_points().collect();
        let mut rng = Rng::new(seed);
        while points.len() > POINTS_OF_RUN {
            points.swap_remove(rng.index(points.len()));
        }
        for point in points {
            cuts += 1;
            cut_at(scenario, seed, point, cuts).map_err(|wrong| {
                format!("{}, seed {seed}, power cut at {point:?}: {wrong}", scenario.name)
            })?;
        }
    }
    Ok(cuts)
}

fn cut_at(scenario: &Scenario, seed: u64, point: CrashPoint, number: usize) -> Result<(), String> {
    let (world, model) = scenario.run(seed, Some(point));
    let mut rng = Rng::new(seed ^ number as u64);
    for _ in 0..2 {
        let left = world.disk().crash(&mut rng);
        scenario.check(&model, &left)?;
        if number.is_multiple_of(ASK_QEMU) {
            ask_qemu(&left)?;
        }
        if number.is_multiple_of(GO_ON) {
            let left = scenario.go_on(seed, left).map_err(|wrong| format!("gone on: {wrong}"))?;
            if number.is_multiple_of(ASK_QEMU) {
                ask_qemu(&left)?;
            }
        }
    }
    Ok(())
}

/// Nothing worse than leaks, says QEMU.
fn ask_qemu(disk: &SimDisk) -> Result<(), String> {
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    std::fs::write(folder.path().join("base"), [0; 512]).unwrap();
    for (name, path) in [("disk", "disk.qcow2"), ("data", "data")] {
        if let Some(bytes) = disk.bytes(name) {
            std::fs::write(folder.path().join(path), bytes).unwrap();
        }
    }
    let mut check = Command::new("qemu-img");
    check.args(["check", "-q", "-f", "qcow2", "disk.qcow2"]).current_dir(folder.path());
    let Ok(output) = check.output() else { return Ok(()) };
    match output.status.code() {
        Some(0 | 3) => Ok(()),
        code => Err(format!(
            "qemu-img check: {code:?}: {}",
            String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
        )),
    }
}

#[test]
fn what_was_flushed_is_there_and_tables_agree() {
    let broken = std::env::var("MILLPOND_CRASH_BREAK").ok();
    if let Some(rule) = &broken {
        break_rule(RULES.iter().find(|(name, _)| name == rule).unwrap().1);
    }
    let seeds = if is_full() { 200 } else { 12 };
    let mut cuts = 0;
    for scenario in scenario::all() {
        cuts += cut(&scenario, 0..seeds).unwrap_or_else(|wrong| panic!("{wrong}"));
    }
    assert!(cuts > 2000, "{cuts} cuts");
}

/// In processes of their own, since a broken rule stays broken.
#[test]
fn removed_barriers_are_found() {
    for (rule, _) in RULES {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args(["what_was_flushed_is_there_and_tables_agree", "--exact"]);
        let output = command.env("MILLPOND_CRASH_BREAK", rule).output().unwrap();
        let said =
            String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success(), "without {rule} nothing was wrong");
        assert!(said.contains("seed "), "without {rule}: {said}");
        println!("without {rule}: {}", said.lines().find(|line| line.contains("seed ")).unwrap_or_default());
    }
}
