//! What was played so far, said now and then and at the end.

use std::time::{Duration, Instant};

use super::wishes::{Wishes, point_text};
use super::{Failure, Scenario, seconds};

/// How often progress is told.
const TELL_EACH: Duration = Duration::from_secs(10);

struct Row {
    name: &'static str,
    seeds: u64,
    points: u64,
    /// Of one core.
    took: Duration,
    failure: Option<Failure>,
}

pub(super) struct Report {
    rows: Vec<Row>,
    /// Runs that there will be.
    runs: u64,
    begun: Instant,
    told: Instant,
}

impl Report {
    pub(super) fn new(wanted: &[&dyn Scenario], wishes: &Wishes) -> Self {
        let row = |scenario: &&dyn Scenario| Row {
            name: scenario.name(),
            seeds: 0,
            points: 0,
            took: Duration::ZERO,
            failure: None,
        };
        let runs = wanted.len() as u64 * (wishes.seeds.end.saturating_sub(wishes.seeds.start));
        let now = Instant::now();
        Self { rows: wanted.iter().map(row).collect(), runs, begun: now, told: now }
    }

    /// Whether nothing more is played of a scenario.
    pub(super) fn is_over(&self, name: &str, stop_early: bool) -> bool {
        self.rows.iter().any(|row| row.failure.is_some() && (stop_early || row.name == name))
    }

    pub(super) fn note(&mut self, name: &str, played: (u64, Option<Failure>), took: Duration) {
        let Some(row) = self.rows.iter_mut().find(|row| row.name == name) else { return };
        let (points, failure) = played;
        row.seeds += 1;
        row.points += points;
        row.took += took;
        if let Some(failure) = failure {
            println!("{}", told(name, &failure));
            row.failure = row.failure.take().or(Some(failure));
        }
        if self.told.elapsed() >= TELL_EACH {
            self.told = Instant::now();
            let runs: u64 = self.rows.iter().map(|row| row.seeds).sum();
            println!(
                "sim: {runs} of {} runs, {} crash points, {}",
                self.runs,
                self.points(),
                seconds(self.begun.elapsed())
            );
        }
    }

    fn points(&self) -> u64 {
        self.rows.iter().map(|row| row.points).sum()
    }

    /// The summary. Panics when anything was wrong; answers the crash points.
    #[track_caller]
    pub(super) fn close(self) -> u64 {
        for row in &self.rows {
            let verdict = if row.failure.is_some() { "FAILED" } else { "ok" };
            println!(
                "sim: {:48} {:6} seeds {:9} crash points {:>10}  {verdict}",
                row.name,
                row.seeds,
                row.points,
                seconds(row.took)
            );
        }
        let (points, scenarios) = (self.points(), self.rows.len());
        println!("sim: {points} crash points, {scenarios} scenarios, {}", seconds(self.begun.elapsed()));
        let failed = self.rows.iter().filter_map(|row| Some(told(row.name, row.failure.as_ref()?)));
        let failed: Vec<_> = failed.collect();
        assert!(failed.is_empty(), "{}", failed.join("\n"));
        points
    }
}

/// A failure, and how to see it again.
fn told(name: &str, failure: &Failure) -> String {
    let Failure { seed, point, wrong } = failure;
    let (place, option) = match point {
        Some(point) => {
            let point = point_text(*point);
            (format!("power cut at {point}"), format!(" --point {point}"))
        }
        None => ("not cut".to_owned(), String::new()),
    };
    format!(
        "FAILED: {name}, seed {seed}, {place}: {wrong}\n\
         replay: cargo xtask sim --scenario '{name}' --first {seed} --seeds 1{option}"
    )
}
