//! The closing summary: steps with durations, what was skipped and why, the runners' own counts last.

use super::peers::Peer;
use super::step::Output;
use std::time::Duration;

struct Line {
    name: &'static str,
    took: Duration,
    passed: bool,
}

/// What the steps of one run left.
#[derive(Default)]
pub(super) struct Report {
    lines: Vec<Line>,
    summaries: Vec<(&'static str, Vec<String>)>,
}

impl Report {
    /// Notes the end of a step; a step that could not run has failed, and says why at once.
    pub(super) fn add(&mut self, name: &'static str, took: Duration, outcome: Result<Output, String>) {
        let output = outcome.unwrap_or_else(|error| {
            eprintln!("{name}: {error}");
            Output::default()
        });
        self.lines.push(Line { name, took, passed: output.passed });
        if !output.summary.is_empty() {
            self.summaries.push((name, output.summary));
        }
    }

    /// Whether every step passed.
    pub(super) fn passed(&self) -> bool {
        self.lines.iter().all(|line| line.passed)
    }

    /// Prints it all; `skipped` is what the tests wrote to the skip log.
    pub(super) fn print(&self, missing: &[&Peer], skipped: &str) {
        println!("\n==> summary");
        for Line { name, took, passed } in &self.lines {
            let verdict = if *passed { "ok" } else { "FAILED" };
            println!("{name:14}{:8.1} s  {verdict}", took.as_secs_f64());
        }
        for peer in missing {
            println!("missing peer: {peer}; its tests were skipped");
        }
        let mut skipped: Vec<_> = skipped.lines().filter(|line| !line.is_empty()).collect();
        skipped.sort_unstable();
        skipped.dedup();
        skipped.iter().for_each(|line| println!("skipped: {line}"));
        // The workspace's own tests are what the reader looks for: their count comes last.
        for (name, lines) in self.summaries.iter().rev() {
            println!("{name}:");
            condensed(lines).iter().for_each(|line| println!("{line}"));
        }
    }
}

/// Adds up the `test result` lines of the built-in runner; leaves another runner's lines as they are.
fn condensed(lines: &[String]) -> Vec<String> {
    let results: Vec<_> = lines.iter().filter_map(|line| line.strip_prefix("test result:")).collect();
    if results.len() != lines.len() {
        return lines.to_vec();
    }
    let count = |word: &str| results.iter().filter_map(|result| number_before(result, word)).sum::<u64>();
    let failed = count("failed");
    let verdict = if failed == 0 { "ok" } else { "FAILED" };
    let (passed, ignored) = (count("passed"), count("ignored"));
    vec![format!("test result: {verdict}. {passed} passed; {failed} failed; {ignored} ignored")]
}

fn number_before(text: &str, word: &str) -> Option<u64> {
    let before = text.split(word).next()?;
    before.split_whitespace().next_back()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_of_many_test_programs_add_up() {
        let lines = [
            "test result: ok. 12 passed; 0 failed; 1 ignored; 0 measured",
            "test result: FAILED. 3 passed; 2 failed; 0 ignored",
        ];
        let sum = condensed(&lines.map(str::to_owned));
        assert_eq!(sum, ["test result: FAILED. 15 passed; 2 failed; 1 ignored"]);
    }

    #[test]
    fn one_failed_step_fails_the_run() {
        let mut report = Report::default();
        report.add("a", Duration::ZERO, Ok(Output::of(true)));
        assert!(report.passed());
        report.add("b", Duration::ZERO, Err("not there".to_owned()));
        assert!(!report.passed());
    }
}
