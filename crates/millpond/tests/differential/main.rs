//! The same image through our hands and QEMU's in turn: after each step of a seeded sequence both read the same bytes,
//! snapshots and dirty bitmaps, those of a plain model, both say the same about it, and both checks that nothing is
//! wrong.
//!
//! A failure prints the options, the steps so far, and the command that plays its seed again; `MILLPOND_TEST_FULL=1`
//! plays more seeds.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod bitmaps;
mod case;
#[path = "../lab/mod.rs"]
mod lab;
mod ours;
mod snapshots;
mod stage;
mod steps;

use std::path::PathBuf;

use case::Case;
use lab::Lab;
use stage::Stage;

/// Seeds: enough for each cluster size, and each width of refcounts twice.
const QUICK: u64 = 14;
const FULL: u64 = 150;
/// Steps of a sequence.
const STEPS: usize = 9;
/// Path of the program in `imago/`.
const READER: &str = "MILLPOND_SECOND_READER";
/// A seed alone.
const SEED: &str = "MILLPOND_DIFFERENTIAL_SEED";

/// Says at the end of a sequence that went wrong how to see it again.
struct Replay<'a>(u64, &'a Case);

impl Drop for Replay<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("seed {}: {:?}", self.0, self.1);
            eprintln!("replay: {SEED}={} cargo test -p millpond --test differential", self.0);
        }
    }
}

fn play(lab: &Lab, seed: u64, case: &Case, reader: Option<PathBuf>) {
    let _replay = Replay(seed, case);
    let mut stage = Stage::new(lab, case, seed, reader);
    stage.compare();
    for _ in 0..STEPS {
        steps::take_one(&mut stage);
        stage.compare();
    }
}

/// The seeds to be played: so many of those whose images are wanted, or the one that is asked for.
fn seeds(quick: u64, wanted: impl Fn(&Case) -> bool) -> Vec<u64> {
    match std::env::var(SEED) {
        Ok(seed) => vec![seed.parse().unwrap()],
        Err(_) => {
            (0..if lab::is_full() { FULL } else { quick }).filter(|seed| wanted(&Case::new(*seed))).collect()
        }
    }
}

#[test]
fn both_see_the_same_image_after_every_step() {
    let test = "both_see_the_same_image_after_every_step";
    for seed in seeds(QUICK, |_| true) {
        let Some(lab) = Lab::new(test, &["qemu-img", "qemu-io"]) else { return };
        play(&lab, seed, &Case::new(seed), None);
    }
}

/// What we make and change, the library imago reads as we and QEMU do: a reader that shares no code with either.
#[test]
fn a_second_reader_reads_what_we_write() {
    let test = "a_second_reader_reads_what_we_write";
    let Some(reader) = std::env::var_os(READER) else {
        return lab::skip(test, "imago (cargo xtask test builds it)");
    };
    let seeds = seeds(QUICK, |case| case.plain);
    for seed in &seeds {
        let Some(lab) = Lab::new(test, &["qemu-img", "qemu-io"]) else { return };
        play(&lab, *seed, &Case::new(*seed), Some(PathBuf::from(&reader)));
    }
    assert!(!seeds.is_empty(), "none of the images is one that it knows");
}
