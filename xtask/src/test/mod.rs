//! `cargo xtask test`: the one test command. Peers first, then each check in turn, then a summary.
//!
//! Invariants: a step that fails stops no other step; the last lines printed are the test runner's own summary.

mod apt;
mod peers;
mod points;
mod python;
mod report;
pub(crate) mod step;

use report::Report;
use std::path::{Path, PathBuf};
use std::time::Instant;
use step::Output;

/// Options of `cargo xtask test`.
#[derive(clap::Args)]
pub(crate) struct Options {
    /// Runs more seeds (`MILLPOND_TEST_FULL=1` for the tests).
    #[arg(long)]
    full: bool,
    /// Installs no missing peers; their tests skip.
    #[arg(long)]
    no_install: bool,
}

/// Where a test that skips itself for want of a peer says so, one line each.
const SKIP_LOG: &str = "target/skipped-tests.txt";

/// Where tables of simulated scenarios say how many crash points they came to, one line each.
const POINTS_LOG: &str = "target/crash-points.txt";

/// Where the second reader of images is built, a workspace of its own.
const SECOND_READER: &str = "target/second-reader";

/// Builds the second reader. Like a peer that is missing, it is no failure where its crates cannot be had.
fn second_reader(root: &Path) -> Result<Output, String> {
    let build = format!("build --locked --manifest-path imago/Cargo.toml --target-dir {SECOND_READER}");
    let built = step::cargo(root, &build, &[("CARGO_PROFILE_DEV_DEBUG", "0")])?;
    if !built.passed {
        println!("missing peer: imago cannot be built");
    }
    Ok(Output::of(true))
}

/// A seed for the random cases of a full run, shown so that they can be had again. The quick run always has those of
/// `.cargo/config.toml`.
fn chance() -> String {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    let seed = since.map_or(0, |since| since.as_secs()).to_string();
    println!("PROPTEST_RNG_SEED={seed}");
    seed
}

/// Where the log is of that name, which has nothing in it yet.
fn fresh_log(root: &Path, name: &str) -> PathBuf {
    let path = root.join(name);
    // Absent on a fresh clone, which is as good as emptied.
    let _ = std::fs::remove_file(&path);
    path
}

/// Runs everything in the repository at `root`; returns whether all of it passed.
pub(crate) fn run(root: &Path, options: &Options) -> Result<bool, String> {
    let (skip_log, points_log) = (fresh_log(root, SKIP_LOG), fresh_log(root, POINTS_LOG));
    let mut report = Report::default();
    let mut timed = |name: &'static str, step: &mut dyn FnMut() -> Result<Output, String>| {
        println!("\n==> {name}");
        let start = Instant::now();
        let outcome = step();
        report.add(name, start.elapsed(), outcome);
    };
    timed("peers", &mut || Ok(peers::prepare(root, !options.no_install)));
    timed("tidy", &mut || crate::tidy::run(root, false).map(Output::of));
    let reader = root.join(SECOND_READER).join("debug/second-reader");
    timed("second reader", &mut || second_reader(root));
    let seed = if options.full { chance() } else { String::new() };
    let cargo = |arguments: &str| {
        let full = if options.full { "1" } else { "" };
        let reader = if reader.exists() { reader.to_string_lossy() } else { "".into() };
        let env = [
            ("MILLPOND_TEST_FULL", full),
            ("PROPTEST_RNG_SEED", &seed),
            ("MILLPOND_SKIP_LOG", &skip_log.to_string_lossy()),
            ("MILLPOND_POINTS_LOG", &points_log.to_string_lossy()),
            ("MILLPOND_SECOND_READER", &reader),
            ("RUSTDOCFLAGS", "-D warnings"),
        ];
        step::cargo(root, arguments, &env)
    };
    timed("format", &mut || cargo("fmt --all --check"));
    timed("clippy", &mut || cargo("clippy --workspace --all-targets -- -D warnings"));
    let runner = match step::has_nextest(root) {
        true if options.full => "nextest run --profile full",
        true => "nextest run",
        false => "test --all-targets --no-fail-fast",
    };
    timed("tests", &mut || cargo(&format!("{runner} --workspace")));
    timed("crash points", &mut || {
        let said = std::fs::read_to_string(&points_log).unwrap_or_default();
        Ok(points::count(&said, if options.full { points::FULL_MIN } else { 0 }))
    });
    timed("documentation", &mut || cargo("doc --workspace --no-deps --document-private-items"));
    timed("doc tests", &mut || cargo("test --workspace --doc"));
    // A workspace of its own: without this nothing would notice that a target no longer builds. What it depends on
    // clippy has checked already.
    timed("fuzz targets", &mut || {
        cargo("check --manifest-path fuzz/Cargo.toml --no-default-features --target-dir target")
    });
    report.print(&peers::missing(root), &std::fs::read_to_string(&skip_log).unwrap_or_default());
    Ok(report.passed())
}
