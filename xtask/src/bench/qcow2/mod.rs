//! `cargo xtask bench qcow2`: what is done to qcow2 images, by us and by QEMU's programs, interleaved: writing through
//! a server, reading a wide image, converting, checking.
//!
//! Invariants: one program works at a time; both get the same arguments, and images that are alike; the order rotates
//! from round to round; ratios are taken within a round; nothing is left behind, neither a process nor a file.

mod images;
mod report;
mod tasks;
mod work;

use super::folder::Folder;
use super::rows;
use images::Images;
use report::{Report, Sample};
use std::path::{Path, PathBuf};
use tasks::{TASKS, Task};
use work::{ROWS, Row};

/// Options of `cargo xtask bench qcow2`.
#[derive(clap::Args)]
pub(crate) struct Options {
    /// How often each row is measured.
    #[arg(long, default_value_t = 3)]
    rounds: usize,
    /// Data in the images that are converted and written.
    #[arg(long, default_value_t = 512)]
    data_mib: u64,
    /// Clusters in the image that is checked.
    #[arg(long, default_value_t = 1_000_000)]
    clusters: u64,
    /// Writes every sample, median and ratio to this file.
    #[arg(long)]
    json: Option<PathBuf>,
    /// Only these programs.
    #[arg(long, value_delimiter = ',')]
    rows: Vec<String>,
    /// Only these tasks.
    #[arg(long, value_delimiter = ',')]
    tasks: Vec<String>,
    /// Measures the millpond that is there instead of building it first.
    #[arg(long)]
    no_build: bool,
}

/// Where images lie while it runs.
const FOLDER: &str = "target/bench-qcow2";

/// Measures; returns whether we did all that was asked for.
pub(super) fn run(root: &Path, options: &Options) -> Result<bool, String> {
    let rows = super::selected("row", ROWS, &options.rows, |row| row.name)?;
    let tasks = super::selected("task", TASKS, &options.tasks, |task| task.name)?;
    if !options.no_build && rows.iter().any(|row| row.name == rows::OURS) {
        super::build(root)?;
    }
    rows::find("qemu-img").map_err(|reason| format!("no image can be made: {reason}"))?;
    let folder = Folder::make(root.join(FOLDER))?;
    let images = Images::new(folder.path(), options.data_mib, options.clusters);
    let mut report = Report::new(options.rounds);
    for task in tasks {
        images.make(task.image)?;
        for round in 0..options.rounds {
            for turn in 0..rows.len() {
                let row = rows[(round + turn) % rows.len()];
                if row.does(task) {
                    measure(root, &images, round, task, row, &mut report);
                }
            }
        }
    }
    report.print();
    options.json.as_ref().map_or(Ok(()), |path| report.write_json(path))?;
    Ok(!report.skipped.lacks(rows::OURS))
}

fn measure(root: &Path, images: &Images, round: usize, task: &'static Task, row: &Row, report: &mut Report) {
    match work::measure(root, images, task, row) {
        Ok(figures) => {
            let sample = Sample { round, task: task.name, row: row.name, figures };
            eprintln!("{sample}");
            report.add(sample);
        }
        Err(error) => report.skipped.note(row.name, &format!("{}: {error}", task.name)),
    }
}
