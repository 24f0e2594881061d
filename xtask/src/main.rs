//! The project's own commands: `cargo xtask tidy | test | sim | bench | fuzz`.
//!
//! Invariant: nothing here is part of the product; a command prints what it did and exits non-zero when
//! anything was wrong.

mod bench;
mod fuzz;
mod sim;
mod test;
mod tidy;

use clap::Parser;
use std::env;
use std::path::PathBuf;
use std::process::ExitCode;

/// The project's own commands.
#[derive(Parser)]
#[command(bin_name = "cargo xtask")]
enum Xtask {
    /// Checks the rules of the house that a compiler does not know.
    Tidy {
        /// Lets the ratchet take in what has shrunk.
        #[arg(long)]
        bless: bool,
    },
    /// Runs every check and test, after installing the peers that are missing.
    Test(test::Options),
    /// Measures against the peers, interleaved.
    #[command(subcommand)]
    Bench(bench::Bench),
    /// Cuts the power in simulated scenarios, at every write and every flush.
    Sim(sim::Options),
    /// Feeds the parsers what no peer would send.
    Fuzz(fuzz::Options),
    /// Serves a file as the floor that servers are measured against.
    #[command(hide = true)]
    Floor { socket: PathBuf, file: PathBuf },
    /// Copies a file as the floor that conversions are measured against.
    #[command(hide = true)]
    FloorCopy { from: PathBuf, to: PathBuf },
}

fn main() -> ExitCode {
    let root = root();
    let outcome = match Xtask::parse() {
        Xtask::Tidy { bless } => tidy::run(&root, bless),
        Xtask::Test(options) => test::run(&root, &options),
        Xtask::Bench(bench) => bench::run(&root, &bench),
        Xtask::Sim(options) => sim::run(&root, &options),
        Xtask::Fuzz(options) => fuzz::run(&root, &options),
        Xtask::Floor { socket, file } => bench::floor::run(&socket, &file),
        Xtask::FloorCopy { from, to } => bench::copy_floor::run(&from, &to),
    };
    match outcome {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(message) => {
            eprintln!("xtask: {message}");
            ExitCode::FAILURE
        }
    }
}

/// The repository: the one that runs this, which a shared target directory may have built elsewhere.
fn root() -> PathBuf {
    let xtask = env::var_os("CARGO_MANIFEST_DIR").map_or(env!("CARGO_MANIFEST_DIR").into(), PathBuf::from);
    xtask.parent().unwrap_or(&xtask).to_owned()
}
