//! What was measured: medians, ratios, what was skipped; as a table and as JSON.
//!
//! Invariant: a ratio is the median over rounds of figures of the same round.

use super::super::report::median;
use super::super::skipped::Skipped;
use super::Options;
use super::image::Image;
use super::ways::{REFERENCE, WAYS};
use serde_json::{Map, Value, json};
use std::fmt;
use std::path::Path;

/// What one run of one way gave.
#[derive(Clone, Copy)]
pub(super) struct Figures {
    pub(super) seconds: f64,
    /// Bytes that came over the line.
    pub(super) moved: f64,
    /// Seconds of CPU of whoever brought it here.
    pub(super) cpu: f64,
}

/// One measurement.
pub(super) struct Sample {
    pub(super) round: usize,
    /// In milliseconds.
    pub(super) round_trip: u64,
    pub(super) way: &'static str,
    pub(super) figures: Figures,
}

impl fmt::Display for Sample {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { round, round_trip, way, figures: Figures { seconds, moved, cpu } } = self;
        let moved = moved / MIB;
        write!(
            f,
            "round {} {round_trip} ms {way:9} {seconds:.2} s, {moved:.1} MiB moved, {cpu:.2} s CPU",
            round + 1
        )
    }
}

const MIB: f64 = 1048576.0;

/// A column.
struct Metric {
    name: &'static str,
    title: &'static str,
    decimals: usize,
    of: fn(&Report, &Sample) -> Option<f64>,
}

const METRICS: &[Metric] = &[
    Metric { name: "seconds", title: "seconds", decimals: 2, of: |_, sample| Some(sample.figures.seconds) },
    Metric {
        name: "mbps",
        title: "MB/s",
        decimals: 1,
        of: |report, sample| Some(report.data / 1e6 / sample.figures.seconds),
    },
    Metric { name: "rate/nbdcopy", title: "/nbdcopy", decimals: 2, of: Report::against_reference },
    Metric {
        name: "moved_mib",
        title: "MiB moved",
        decimals: 1,
        of: |_, sample| Some(sample.figures.moved / MIB),
    },
    Metric {
        name: "moved/allocated",
        title: "/data",
        decimals: 3,
        of: |report, sample| Some(sample.figures.moved / report.data),
    },
    Metric {
        name: "moved/granules",
        title: "/granules",
        decimals: 4,
        of: |report, sample| Some(sample.figures.moved / report.granules),
    },
    Metric { name: "cpu_seconds", title: "CPU s", decimals: 2, of: |_, sample| Some(sample.figures.cpu) },
];

/// Everything measured and skipped in one run.
pub(super) struct Report {
    rounds: usize,
    image_mib: u64,
    mbits: u64,
    /// Bytes of data in the image, and of the granules that hold it.
    data: f64,
    granules: f64,
    samples: Vec<Sample>,
    /// What could not be measured, and why.
    pub(super) skipped: Skipped,
}

/// One line of a table: all rounds of a way at a round trip.
type Line = (u64, &'static str);

impl Report {
    pub(super) fn new(options: &Options, image: &Image) -> Self {
        let &Options { rounds, image_mib, mbits, .. } = options;
        let (data, granules) = (image.data as f64, image.granules as f64);
        Self { rounds, image_mib, mbits, data, granules, samples: Vec::new(), skipped: Skipped::default() }
    }

    pub(super) fn add(&mut self, sample: Sample) {
        self.samples.push(sample);
    }

    /// Prints a table for each round trip.
    pub(super) fn print(&self) {
        println!(
            "{} rounds, {} MiB with {:.1} MiB of data in granules of {:.1} MiB, {} Mbit/s (0: no limit), medians; \
             ratios are medians of each round's",
            self.rounds,
            self.image_mib,
            self.data / MIB,
            self.granules / MIB,
            self.mbits
        );
        let mut heading = None;
        for line in self.lines() {
            if heading != Some(line.0) {
                heading = Some(line.0);
                let titles: String = METRICS.iter().map(|metric| format!("{:>11}", metric.title)).collect();
                println!("\nround trip {} ms\n{:9}{titles}", line.0, "row");
            }
            let figure = |metric: &Metric| {
                let figure = self
                    .median(line, metric)
                    .map_or("-".to_owned(), |it| format!("{it:.*}", metric.decimals));
                format!("{figure:>11}")
            };
            println!("{:9}{}", line.1, METRICS.iter().map(figure).collect::<String>());
        }
        println!();
        WAYS.iter().for_each(|way| println!("{}: {}", way.name, way.title));
        self.skipped.print();
    }

    /// Writes all of it to `path`.
    pub(super) fn write_json(&self, path: &Path) -> Result<(), String> {
        let results = [
            ("rounds", json!(self.rounds)),
            ("image_mib", json!(self.image_mib)),
            ("mbits", json!(self.mbits)),
            ("data_bytes", json!(self.data)),
            ("granule_bytes", json!(self.granules)),
            ("results", json!(self.lines().into_iter().map(|line| self.json(line)).collect::<Vec<_>>())),
        ];
        self.skipped
            .write_json(path, results.map(|(name, value)| (name.to_owned(), value)).into_iter().collect())
    }

    fn json(&self, line: Line) -> Value {
        let rounds = self.of(line).map(|sample| {
            let figures =
                METRICS.iter().map(|metric| (metric.name.to_owned(), json!((metric.of)(self, sample))));
            figures.collect::<Map<_, _>>()
        });
        let medians = METRICS.iter().map(|metric| (metric.name.to_owned(), json!(self.median(line, metric))));
        json!({
            "round_trip_ms": line.0,
            "row": line.1,
            "rounds": rounds.collect::<Vec<_>>(),
            "medians": medians.collect::<Map<_, _>>(),
        })
    }

    /// The lines, by round trip in the order in which they were measured, ways in the order of the list.
    fn lines(&self) -> Vec<Line> {
        let mut round_trips: Vec<u64> = Vec::new();
        for sample in &self.samples {
            if !round_trips.contains(&sample.round_trip) {
                round_trips.push(sample.round_trip);
            }
        }
        let lines =
            round_trips.iter().flat_map(|&round_trip| WAYS.iter().map(move |way| (round_trip, way.name)));
        lines.filter(|&line| self.of(line).next().is_some()).collect()
    }

    fn of(&self, (round_trip, way): Line) -> impl Iterator<Item = &Sample> {
        self.samples.iter().filter(move |sample| (sample.round_trip, sample.way) == (round_trip, way))
    }

    fn median(&self, line: Line, metric: &Metric) -> Option<f64> {
        median(self.of(line).filter_map(|sample| (metric.of)(self, sample)).collect())
    }

    /// Its rate over that of the reference in the same round.
    fn against_reference(&self, sample: &Sample) -> Option<f64> {
        let other = self.of((sample.round_trip, REFERENCE)).find(|other| other.round == sample.round)?;
        Some(other.figures.seconds / sample.figures.seconds)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ratios_pair_within_a_round() {
        let (data, granules) = (100.0, 200.0);
        let mut report = Report {
            rounds: 3,
            image_mib: 1,
            mbits: 0,
            data,
            granules,
            samples: vec![],
            skipped: Skipped::default(),
        };
        for (round, round_trip, way, seconds) in [
            (0, 10, "millpond", 2.0),
            (0, 10, REFERENCE, 1.0),
            (1, 10, REFERENCE, 9.0),
            (1, 10, "millpond", 10.0),
            (2, 10, "millpond", 99.0),
            (0, 0, REFERENCE, 7.0),
        ] {
            let figures = Figures { seconds, moved: 150.0, cpu: 0.0 };
            report.add(Sample { round, round_trip, way, figures });
        }
        assert_eq!(report.lines(), [(10, "millpond"), (10, REFERENCE), (0, REFERENCE)]);
        let json = report.json((10, "millpond"));
        assert_eq!(json["medians"]["rate/nbdcopy"], 0.7);
        assert_eq!(json["medians"]["moved/allocated"], 1.5);
        assert_eq!(json["medians"]["moved/granules"], 0.75);
        assert_eq!(json["rounds"][2]["rate/nbdcopy"], Value::Null);
    }
}
