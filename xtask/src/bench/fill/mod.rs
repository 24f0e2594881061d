//! `cargo xtask bench fill`: how long it takes to bring an image here over a long line, until it is durable: our fill
//! beside a plain copy and QEMU's storage daemon, interleaved.
//!
//! nbdkit serves the image, [`link`] is the line. Nobody reads the image meanwhile.
//!
//! Invariants: one way runs at a time, with nothing of the others left; the order rotates from round to round; ratios
//! are taken within a round; what was brought is compared with the image in the first round of each line; nothing is
//! left behind, neither a process nor a file.

mod image;
mod link;
mod qmp;
mod report;
mod ways;

use super::folder::Folder;
use super::images::naming;
use super::process::Process;
use super::{cpu, rows};
use image::Image;
use link::{Link, Shape};
use report::{Figures, Report, Sample};
use std::path::{Path, PathBuf};
use std::time::Duration;
use ways::{Task, WAYS, Way};

/// Options of `cargo xtask bench fill`.
#[derive(clap::Args)]
pub(crate) struct Options {
    /// Round trips of the line, in milliseconds.
    #[arg(long, value_delimiter = ',', default_value = "0,1,10,20")]
    round_trips: Vec<u64>,
    /// What the line carries in each direction, in 10^6 bits per second; 0: no limit.
    #[arg(long, default_value_t = 1000)]
    mbits: u64,
    /// How often each way is measured on each line.
    #[arg(long, default_value_t = 3)]
    rounds: usize,
    /// Size of the image.
    #[arg(long, default_value_t = 512)]
    image_mib: u64,
    /// Data in it; the rest is holes.
    #[arg(long, default_value_t = 256)]
    data_mib: u64,
    /// Writes every sample, median and ratio to this file.
    #[arg(long)]
    json: Option<PathBuf>,
    /// Only these ways.
    #[arg(long, value_delimiter = ',')]
    rows: Vec<String>,
    /// Measures the millpond that is there instead of building it first.
    #[arg(long)]
    no_build: bool,
}

/// Where the image, and what is brought, lies while it runs.
const FOLDER: &str = "target/bench-fill";

/// Measures; returns whether our way could be, if it was asked for.
pub(super) fn run(root: &Path, options: &Options) -> Result<bool, String> {
    if options.data_mib == 0 || options.data_mib > options.image_mib {
        return Err("--data-mib is to be more than 0, and at most --image-mib".to_owned());
    }
    let ways = super::selected("row", WAYS, &options.rows, |way| way.name)?;
    if !options.no_build && ways.iter().any(|way| way.name == rows::OURS) {
        super::build(root)?;
    }
    let server = rows::find("nbdkit").map_err(|reason| format!("nothing can be measured: {reason}"))?;
    let folder = Folder::make(root.join(FOLDER))?;
    let image =
        Image::make(folder.path().join("image.raw"), options.image_mib << 20, options.data_mib << 20)?;
    let mut report = Report::new(options, &image);
    let ways: Vec<_> =
        ways.into_iter().filter(|way| report.skipped.keep_if(way.name, way.is_here(root))).collect();
    let far = folder.path().join("far.sock");
    let arguments =
        ["-f", "-r", "-t", "64", "-U", &far.to_string_lossy(), "file", &image.path.to_string_lossy()];
    let _server =
        Process::start(&server, &arguments.map(str::to_owned), folder.path())?.until_it_listens(&far)?;
    for &round_trip in &options.round_trips {
        let rate = (options.mbits > 0).then_some(options.mbits * 1_000_000 / 8);
        let shape = Shape { round_trip: Duration::from_millis(round_trip), rate };
        let near = folder.path().join(format!("{round_trip}.sock"));
        let link = Link::open(&near, &far, shape).map_err(|error| naming(&near, &error))?;
        let line = Line {
            root,
            folder: folder.path(),
            link,
            round_trip,
            image: &image,
            size: options.image_mib << 20,
        };
        (0..options.rounds).for_each(|round| line.measure_round(round, &ways, &mut report));
    }
    report.print();
    options.json.as_ref().map_or(Ok(()), |path| report.write_json(path))?;
    Ok(!report.skipped.lacks(rows::OURS))
}

/// A line with what comes over it.
struct Line<'a> {
    root: &'a Path,
    folder: &'a Path,
    link: Link,
    /// In milliseconds.
    round_trip: u64,
    image: &'a Image,
    size: u64,
}

impl Line<'_> {
    /// Each way once.
    fn measure_round(&self, round: usize, ways: &[&'static Way], report: &mut Report) {
        for turn in 0..ways.len() {
            let way = ways[(round + turn) % ways.len()];
            match self.measure(round, way) {
                Ok(figures) => {
                    let sample = Sample { round, round_trip: self.round_trip, way: way.name, figures };
                    eprintln!("{sample}");
                    report.add(sample);
                }
                Err(error) => report.skipped.note(way.name, &format!("{} ms: {error}", self.round_trip)),
            }
        }
    }

    fn measure(&self, round: usize, way: &Way) -> Result<Figures, String> {
        let folder = Folder::make(self.folder.join(way.name))?;
        let (root, socket, uri, size) = (self.root, self.link.socket(), self.link.uri(), self.size);
        let (cpu, moved) = (cpu::of_ended_children(), self.link.bytes_down());
        let brought = way.bring(&Task { root, folder: folder.path(), socket, uri, size })?;
        let cpu = cpu::of_ended_children().saturating_sub(cpu);
        let moved = self.link.bytes_down() - moved;
        if round == 0 && rows::find("qemu-img").is_ok() {
            brought.is(self.image)?;
        }
        Ok(Figures { seconds: brought.took.as_secs_f64(), moved: moved as f64, cpu: cpu.as_secs_f64() })
    }
}
