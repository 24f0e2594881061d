//! What was measured: medians, ratios, what was skipped; as a table and as JSON.
//!
//! Invariant: a ratio is the median over rounds of figures of the same round.

use super::fio::{Figures, Test};
use super::images::Kind;
use super::rows::{self, FLOOR, REFERENCE};
use super::skipped::Skipped;
use serde_json::{Map, Value, json};
use std::fmt;
use std::path::Path;

/// One measurement.
pub(super) struct Sample {
    pub(super) round: usize,
    pub(super) image: &'static Kind,
    pub(super) test: Test,
    pub(super) row: &'static str,
    pub(super) figures: Figures,
}

impl fmt::Display for Sample {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { round, image, test, row, figures } = self;
        write!(f, "round {} {:8} {:14} {row:13}", round + 1, image.name, test.name)?;
        METRICS.iter().try_for_each(|metric| write!(f, " {} {:.1}", metric.name, (metric.of)(figures)))
    }
}

/// One figure of a measurement.
struct Metric {
    name: &'static str,
    title: &'static str,
    of: fn(&Figures) -> f64,
}

const IOPS: Metric = Metric { name: "iops", title: "IOPS", of: |figures| figures.iops };
const P50: Metric = Metric { name: "p50_us", title: "p50 us", of: |figures| figures.p50_us };
const CPU: Metric = Metric { name: "cpu_us", title: "CPU us/req", of: |figures| figures.cpu_us };
const METRICS: &[Metric] = &[
    IOPS,
    Metric { name: "mbps", title: "MB/s", of: |figures| figures.mbps },
    P50,
    Metric { name: "p99_us", title: "p99 us", of: |figures| figures.p99_us },
    CPU,
];

/// What a row's figures are divided by.
#[derive(Clone, Copy)]
enum Against {
    /// Another row on the same image.
    Row(&'static str),
    /// The same row on the image that its kind is compared with.
    Image,
}

/// A column of ratios.
struct Ratio {
    metric: Metric,
    against: Against,
}

const RATIOS: &[Ratio] = &[
    Ratio { metric: IOPS, against: Against::Row(REFERENCE) },
    Ratio { metric: CPU, against: Against::Row(REFERENCE) },
    Ratio { metric: IOPS, against: Against::Row(FLOOR) },
    Ratio { metric: CPU, against: Against::Row(FLOOR) },
    Ratio { metric: P50, against: Against::Row(FLOOR) },
    Ratio { metric: IOPS, against: Against::Image },
    Ratio { metric: CPU, against: Against::Image },
];

/// Everything measured and skipped in one run.
pub(super) struct Report {
    seconds: u32,
    rounds: usize,
    image_mib: u64,
    samples: Vec<Sample>,
    /// What could not be measured, and why.
    pub(super) skipped: Skipped,
}

/// One line of a table: all rounds of a row in one test on one image.
#[derive(Clone, Copy, PartialEq)]
struct Line {
    image: &'static str,
    compared_with: Option<&'static str>,
    test: &'static str,
    title: &'static str,
    row: &'static str,
}

impl Report {
    pub(super) fn new(seconds: u32, rounds: usize, image_mib: u64) -> Self {
        Self { seconds, rounds, image_mib, samples: Vec::new(), skipped: Skipped::default() }
    }

    pub(super) fn add(&mut self, sample: Sample) {
        self.samples.push(sample);
    }

    /// Prints a table per image and test.
    pub(super) fn print(&self) {
        println!(
            "{} rounds of {} s, {} MiB, medians; ratios are medians of each round's",
            self.rounds, self.seconds, self.image_mib
        );
        let mut heading = None;
        for line in self.lines() {
            if heading != Some((line.image, line.test)) {
                heading = Some((line.image, line.test));
                println!("\n{}: {} ({})", line.image, line.title, line.test);
                println!("{}", titles(&line));
            }
            println!("{}", self.text(&line));
        }
        println!();
        self.skipped.print();
    }

    /// Writes all of it to `path`.
    pub(super) fn write_json(&self, path: &Path) -> Result<(), String> {
        let results = [
            ("seconds", json!(self.seconds)),
            ("rounds", json!(self.rounds)),
            ("image_mib", json!(self.image_mib)),
            ("results", json!(self.lines().iter().map(|line| self.json(line)).collect::<Vec<_>>())),
        ];
        self.skipped
            .write_json(path, results.map(|(name, value)| (name.to_owned(), value)).into_iter().collect())
    }

    /// The lines, by image and test in the order in which they were measured, rows in the order of the list.
    fn lines(&self) -> Vec<Line> {
        let mut groups: Vec<Line> = Vec::new();
        for Sample { image, test, .. } in &self.samples {
            let compared_with = image.compared_with;
            let group =
                Line { image: image.name, compared_with, test: test.name, title: test.title, row: "" };
            if !groups.contains(&group) {
                groups.push(group);
            }
        }
        let lines = groups
            .into_iter()
            .flat_map(|group| rows::ROWS.iter().map(move |row| Line { row: row.name, ..group }));
        lines.filter(|line| !self.of(line, &IOPS).is_empty()).collect()
    }

    /// The figures of one line with their rounds.
    fn of(&self, line: &Line, metric: &Metric) -> Vec<(usize, f64)> {
        let samples = self.samples.iter().filter(|sample| {
            (sample.image.name, sample.test.name, sample.row) == (line.image, line.test, line.row)
        });
        samples.map(|sample| (sample.round, (metric.of)(&sample.figures))).collect()
    }

    fn ratio(&self, line: &Line, ratio: &Ratio) -> Option<f64> {
        let other = match ratio.against {
            Against::Row(row) => Line { row, ..*line },
            Against::Image => Line { image: line.compared_with?, ..*line },
        };
        let others = self.of(&other, &ratio.metric);
        let paired = self.of(line, &ratio.metric).into_iter().filter_map(|(round, figure)| {
            let (_, divisor) = others.iter().find(|(of, divisor)| *of == round && *divisor > 0.0)?;
            Some(figure / divisor)
        });
        median(paired.collect())
    }

    fn median(&self, line: &Line, metric: &Metric) -> f64 {
        median(self.of(line, metric).into_iter().map(|(_, figure)| figure).collect()).unwrap_or(0.0)
    }

    fn text(&self, line: &Line) -> String {
        let figures = METRICS.iter().map(|metric| format!("{:>11.1}", self.median(line, metric)));
        let ratios = RATIOS.iter().filter(|ratio| is_shown(ratio, line));
        let ratios = ratios.map(|ratio| {
            self.ratio(line, ratio).map_or_else(|| format!("{:>14}", "-"), |value| format!("{value:>14.2}"))
        });
        format!("{:13}{}", line.row, figures.chain(ratios).collect::<String>())
    }

    fn json(&self, line: &Line) -> Value {
        let rounds = self.of(line, &IOPS).into_iter().map(|(round, _)| {
            let figure = |metric: &Metric| {
                self.of(line, metric).into_iter().find(|(of, _)| *of == round).map(|(_, figure)| figure)
            };
            METRICS
                .iter()
                .map(|metric| (metric.name.to_owned(), json!(figure(metric))))
                .collect::<Map<_, _>>()
        });
        let medians = METRICS.iter().map(|metric| (metric.name.to_owned(), json!(self.median(line, metric))));
        let ratios = RATIOS.iter().filter_map(|ratio| {
            let name = format!("{}/{}", ratio.metric.name, divisor(ratio, line)?);
            Some((name, json!(self.ratio(line, ratio)?)))
        });
        json!({
            "image": line.image,
            "test": line.test,
            "title": line.title,
            "row": line.row,
            "rounds": rounds.collect::<Vec<_>>(),
            "medians": medians.collect::<Map<_, _>>(),
            "ratios": ratios.collect::<Map<_, _>>(),
        })
    }
}

fn titles(line: &Line) -> String {
    let figures = METRICS.iter().map(|metric| format!("{:>11}", metric.title));
    let ratios = RATIOS.iter().filter_map(|ratio| {
        let metric = ratio.metric.title.split(' ').next().unwrap_or_default();
        Some(format!("{:>14}", format!("{metric}/{}", divisor(ratio, line)?)))
    });
    format!("{:13}{}", "row", figures.chain(ratios).collect::<String>())
}

/// Name of what a ratio of `line` is taken against.
fn divisor(ratio: &Ratio, line: &Line) -> Option<&'static str> {
    match ratio.against {
        Against::Row(row) => Some(row),
        Against::Image => line.compared_with,
    }
}

fn is_shown(ratio: &Ratio, line: &Line) -> bool {
    divisor(ratio, line).is_some()
}

/// The middle of `figures`.
pub(super) fn median(mut figures: Vec<f64>) -> Option<f64> {
    figures.sort_unstable_by(f64::total_cmp);
    let middle = figures.len() / 2;
    match figures.len() {
        0 => None,
        even if even % 2 == 0 => Some((figures[middle - 1] + figures[middle]) / 2.0),
        _ => Some(figures[middle]),
    }
}

#[cfg(test)]
mod tests {
    use super::super::{fio, images};
    use super::*;

    fn report(samples: &[(usize, usize, &'static str, f64)]) -> Report {
        let mut report = Report::new(1, 3, 1);
        for &(round, image, row, iops) in samples {
            let figures = Figures { iops, ..Figures::default() };
            report.add(Sample { round, image: &images::IMAGES[image], test: fio::TESTS[1], row, figures });
        }
        report
    }

    #[test]
    fn ratios_pair_within_a_round() {
        let report = report(&[
            (0, 0, "millpond", 200.0),
            (0, 0, REFERENCE, 100.0),
            (1, 0, REFERENCE, 10.0),
            (1, 0, "millpond", 30.0),
            (2, 0, "millpond", 1000.0),
            (0, 1, "millpond", 150.0),
        ]);
        let lines = report.lines();
        assert_eq!(
            lines.iter().map(|line| (line.image, line.row)).collect::<Vec<_>>(),
            [("raw", "millpond"), ("raw", REFERENCE), ("qcow2", "millpond")]
        );
        assert_eq!(report.ratio(&lines[0], &RATIOS[0]), Some(2.5));
        assert_eq!(report.ratio(&lines[0], &RATIOS[2]), None);
        assert_eq!(report.ratio(&lines[2], &RATIOS[5]), Some(0.75));
        assert_eq!(report.json(&lines[2])["ratios"]["iops/raw"], 0.75);
    }

    #[test]
    fn medians_of_few_and_none() {
        assert_eq!(median(vec![]), None);
        assert_eq!(median(vec![3.0, 1.0, 2.0]), Some(2.0));
        assert_eq!(median(vec![4.0, 1.0]), Some(2.5));
    }
}
