//! What was measured: medians, ratios, what was skipped; as a table and as JSON.
//!
//! Invariant: a ratio is the median over rounds of figures of the same round.

use super::super::report::median;
use super::super::skipped::Skipped;
use super::tasks::{TASKS, Task};
use super::work::{REFERENCE, ROWS};
use serde_json::{Map, Value, json};
use std::fmt;
use std::path::Path;

/// What one run gave.
#[derive(Clone, Copy)]
pub(super) struct Figures {
    pub(super) seconds: f64,
    /// Seconds of CPU of the program.
    pub(super) cpu: f64,
    /// The most memory that it has had.
    pub(super) peak_mib: f64,
}

/// One measurement.
pub(super) struct Sample {
    pub(super) round: usize,
    pub(super) task: &'static str,
    pub(super) row: &'static str,
    pub(super) figures: Figures,
}

impl fmt::Display for Sample {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { round, task, row, figures } = self;
        write!(f, "round {} {task:15} {row:9}", round + 1)?;
        METRICS.iter().try_for_each(|metric| write!(f, " {} {:.2}", metric.name, (metric.of)(figures)))
    }
}

/// A column, and the column of its ratios.
struct Metric {
    name: &'static str,
    title: &'static str,
    of: fn(&Figures) -> f64,
}

const METRICS: &[Metric] = &[
    Metric { name: "seconds", title: "seconds", of: |figures| figures.seconds },
    Metric { name: "cpu_seconds", title: "CPU s", of: |figures| figures.cpu },
    Metric { name: "peak_mib", title: "peak MiB", of: |figures| figures.peak_mib },
];

/// Everything measured and skipped in one run.
pub(super) struct Report {
    rounds: usize,
    samples: Vec<Sample>,
    /// What could not be measured, and why.
    pub(super) skipped: Skipped,
}

impl Report {
    pub(super) fn new(rounds: usize) -> Self {
        Self { rounds, samples: Vec::new(), skipped: Skipped::default() }
    }

    pub(super) fn add(&mut self, sample: Sample) {
        self.samples.push(sample);
    }

    /// Prints a table for each task.
    pub(super) fn print(&self) {
        println!("{} rounds, medians; ratios are medians of each round's", self.rounds);
        for task in TASKS.iter().filter(|task| self.samples.iter().any(|sample| sample.task == task.name)) {
            println!("\n{} ({}), at most {} of {REFERENCE}", task.title, task.name, task.goal);
            let titles = METRICS.iter().map(|metric| format!("{:>11}{:>11}", metric.title, "/qemu"));
            println!("{:9}{}", "row", titles.collect::<String>());
            for row in ROWS.iter().filter(|row| self.of(task, row.name).next().is_some()) {
                let columns = METRICS.iter().map(|metric| {
                    let figure = |it: Option<f64>| it.map_or("-".to_owned(), |it| format!("{it:.2}"));
                    let (median, ratio) =
                        (self.median(task, row.name, metric), self.ratio(task, row.name, metric));
                    format!("{:>11}{:>11}", figure(median), figure(ratio))
                });
                println!("{:9}{}", row.name, columns.collect::<String>());
            }
        }
        println!();
        self.skipped.print();
    }

    /// Writes all of it to `path`.
    pub(super) fn write_json(&self, path: &Path) -> Result<(), String> {
        let lines = TASKS.iter().flat_map(|task| ROWS.iter().map(move |row| (task, row.name)));
        let lines = lines.filter(|(task, row)| self.of(task, row).next().is_some());
        let results: Vec<_> = lines.map(|(task, row)| self.json(task, row)).collect();
        let all = [("rounds", json!(self.rounds)), ("results", json!(results))];
        self.skipped.write_json(path, all.map(|(name, value)| (name.to_owned(), value)).into_iter().collect())
    }

    fn json(&self, task: &Task, row: &str) -> Value {
        let each = |of: &dyn Fn(&Metric) -> Value| {
            METRICS.iter().map(|metric| (metric.name.to_owned(), of(metric))).collect::<Map<_, _>>()
        };
        let rounds = self.of(task, row).map(|sample| each(&|metric| json!((metric.of)(&sample.figures))));
        json!({
            "task": task.name,
            "row": row,
            "goal": task.goal,
            "rounds": rounds.collect::<Vec<_>>(),
            "medians": each(&|metric| json!(self.median(task, row, metric))),
            "ratios": each(&|metric| json!(self.ratio(task, row, metric))),
        })
    }

    fn of(&self, task: &Task, row: &str) -> impl Iterator<Item = &Sample> {
        self.samples.iter().filter(move |sample| (sample.task, sample.row) == (task.name, row))
    }

    fn median(&self, task: &Task, row: &str, metric: &Metric) -> Option<f64> {
        median(self.of(task, row).map(|sample| (metric.of)(&sample.figures)).collect())
    }

    fn ratio(&self, task: &Task, row: &str, metric: &Metric) -> Option<f64> {
        let against = |sample: &Sample| {
            let other = self.of(task, REFERENCE).find(|other| other.round == sample.round)?;
            let ratio = (metric.of)(&sample.figures) / (metric.of)(&other.figures);
            ratio.is_finite().then_some(ratio)
        };
        median(self.of(task, row).filter_map(against).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ratios_pair_within_a_round() {
        let mut report = Report::new(3);
        for (round, row, seconds) in [
            (0, "millpond", 2.0),
            (0, REFERENCE, 4.0),
            (1, REFERENCE, 1.0),
            (1, "millpond", 9.0),
            (2, "millpond", 1.0),
        ] {
            let figures = Figures { seconds, cpu: 1.0, peak_mib: 1.0 };
            report.add(Sample { round, task: TASKS[0].name, row, figures });
        }
        let json = report.json(&TASKS[0], "millpond");
        assert_eq!((&json["ratios"]["seconds"], &json["medians"]["seconds"]), (&json!(4.75), &json!(2.0)));
        assert_eq!(json["rounds"][2]["seconds"], 1.0);
    }
}
