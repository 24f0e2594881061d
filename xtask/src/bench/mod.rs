//! `cargo xtask bench nbd`: NBD servers side by side on this machine, interleaved; `cargo xtask bench fill`: ways to
//! bring an image here ([`fill`]); `cargo xtask bench qcow2`: what is done to qcow2 images ([`qcow2`]).
//!
//! Invariants: one server runs at a time, all serve the same file; the order of the rows rotates from round to
//! round; ratios are taken within a round; nothing is left behind, neither a process nor a file.

pub(crate) mod copy_floor;
mod cpu;
mod fill;
mod fio;
pub(crate) mod floor;
mod folder;
mod images;
mod process;
mod qcow2;
mod report;
mod rows;
mod server;
mod skipped;

use fio::Test;
use images::{Image, Images};
use report::{Report, Sample};
use rows::Row;
use server::Server;
use std::path::{Path, PathBuf};
use std::process::Command;

/// What to measure.
#[derive(clap::Subcommand)]
pub(crate) enum Bench {
    /// NBD servers, driven by fio.
    Nbd(Options),
    /// Ways to bring an image here over a line, until it is durable.
    Fill(fill::Options),
    /// Writing, reading, converting and checking qcow2 images.
    Qcow2(qcow2::Options),
}

/// Options of `cargo xtask bench nbd`.
#[derive(clap::Args)]
pub(crate) struct Options {
    /// Length of one measurement.
    #[arg(long, default_value_t = 2)]
    seconds: u32,
    /// How often each row is measured.
    #[arg(long, default_value_t = 3)]
    rounds: usize,
    /// Size of the image, which should fit the page cache several times.
    #[arg(long, default_value_t = 512)]
    image_mib: u64,
    /// Writes every sample, median and ratio to this file.
    #[arg(long)]
    json: Option<PathBuf>,
    /// Only these servers.
    #[arg(long, value_delimiter = ',')]
    rows: Vec<String>,
    /// Only these tests.
    #[arg(long, value_delimiter = ',')]
    tests: Vec<String>,
    /// Only these images.
    #[arg(long, value_delimiter = ',')]
    images: Vec<String>,
    /// Measures the millpond that is there instead of building it first.
    #[arg(long)]
    no_build: bool,
}

/// Where images and sockets lie while it runs.
const FOLDER: &str = "target/bench";

/// Measures; returns whether every row of ours that was asked for could be.
pub(crate) fn run(root: &Path, bench: &Bench) -> Result<bool, String> {
    match bench {
        Bench::Nbd(options) => servers(root, options),
        Bench::Fill(options) => fill::run(root, options),
        Bench::Qcow2(options) => qcow2::run(root, options),
    }
}

fn servers(root: &Path, options: &Options) -> Result<bool, String> {
    let rows = selected("row", rows::ROWS, &options.rows, |row| row.name)?;
    let tests = selected("test", fio::TESTS, &options.tests, |test| test.name)?;
    let images = selected("image", images::IMAGES, &options.images, |image| image.name)?;
    if !options.no_build && rows.iter().any(|row| row.name == rows::OURS) {
        build(root)?;
    }
    let mut report = Report::new(options.seconds, options.rounds, options.image_mib);
    let rows: Vec<_> =
        rows.into_iter().filter(|row| report.skipped.keep_if(row.name, row.is_here(root))).collect();
    rows::find("fio").map_err(|reason| format!("nothing can be measured: {reason}"))?;
    let images = Images::make(&root.join(FOLDER), &images, options.image_mib, &mut report)?;
    for round in 0..options.rounds {
        for image in images.all() {
            for test in tests.iter().filter(|test| image.takes(test)) {
                measure_round(root, round, image, test, &rows, options.seconds, &mut report);
            }
        }
    }
    report.print();
    options.json.as_ref().map_or(Ok(()), |path| report.write_json(path))?;
    Ok(!report.skipped.lacks(rows::OURS))
}

/// One test on one image with each row once.
fn measure_round(
    root: &Path,
    round: usize,
    image: &Image,
    test: &Test,
    rows: &[&Row],
    seconds: u32,
    report: &mut Report,
) {
    for turn in 0..rows.len() {
        let row = rows[(round + turn) % rows.len()];
        if !row.serves(image.kind) {
            continue;
        }
        match measure(root, image, test, row, seconds) {
            Ok(figures) => {
                let sample = Sample { round, image: image.kind, test: *test, row: row.name, figures };
                eprintln!("{sample}");
                report.add(sample);
            }
            Err(error) => {
                report.skipped.note(row.name, &format!("{} {}: {error}", image.kind.name, test.name))
            }
        }
    }
}

fn measure(root: &Path, image: &Image, test: &Test, row: &Row, seconds: u32) -> Result<fio::Figures, String> {
    let server = Server::start(root, row, image, test)?;
    let before = cpu::Sample::of(server.pid());
    let mut figures = fio::run(&server.uri(), test, seconds, image.folder())?;
    server.settle();
    let used = cpu::Sample::of(server.pid()).since(&before);
    figures.cpu_us = used.as_secs_f64() * 1e6 / figures.requests.max(1.0);
    drop(server);
    if !test.is_read() {
        image.sync()?;
    }
    Ok(figures)
}

fn build(root: &Path) -> Result<(), String> {
    let cargo = std::env::var("CARGO").unwrap_or_else(|_| "cargo".to_owned());
    let status =
        Command::new(cargo).args(["build", "--release", "-p", rows::OURS]).current_dir(root).status();
    match status {
        Ok(status) if status.success() => Ok(()),
        _ => Err(format!("cannot build {}: mend it, or leave its row out with --rows", rows::OURS)),
    }
}

/// The entries of `all` that `wanted` names, all of them when it names none.
fn selected<T>(
    what: &str,
    all: &'static [T],
    wanted: &[String],
    name: fn(&T) -> &'static str,
) -> Result<Vec<&'static T>, String> {
    if let Some(unknown) = wanted.iter().find(|wanted| !all.iter().any(|entry| name(entry) == **wanted)) {
        let known: Vec<_> = all.iter().map(name).collect();
        return Err(format!("no {what} `{unknown}`: there are {}", known.join(", ")));
    }
    let is_wanted = |entry: &&T| wanted.is_empty() || wanted.iter().any(|wanted| wanted == name(entry));
    Ok(all.iter().filter(is_wanted).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_selection_names_what_there_is() {
        let names = |wanted: &[&str]| {
            let wanted: Vec<_> = wanted.iter().map(|&name| name.to_owned()).collect();
            selected("row", rows::ROWS, &wanted, |row| row.name).map(|rows| rows.len())
        };
        assert_eq!(names(&[]), Ok(rows::ROWS.len()));
        assert_eq!(names(&["floor", "qemu-nbd"]), Ok(2));
        assert!(names(&["flor"]).is_err_and(|error| error.contains("`flor`") && error.contains("floor")));
    }
}
