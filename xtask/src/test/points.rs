//! How often the power was cut in simulated scenarios, all tables together.
//!
//! Invariant: a full run that comes to fewer than are promised has failed, whatever each table says of itself.

use super::step::Output;

/// Crash points of a full run, at least.
pub(super) const FULL_MIN: u64 = 10_000;

/// Adds up what the tables have said, lines of a number and a name; fails below `least`.
pub(super) fn count(said: &str, least: u64) -> Output {
    let lines = said.lines().filter_map(|line| line.split_once(' '));
    let tables: Vec<(u64, &str)> =
        lines.filter_map(|(points, name)| Some((points.parse().ok()?, name))).collect();
    tables.iter().for_each(|(points, name)| println!("{points:9} in {name}"));
    let total: u64 = tables.iter().map(|(points, _)| points).sum();
    println!("{total:9} crash points, at least {least} are promised");
    let summary = vec![format!("{total} in {} tables", tables.len())];
    Output { passed: total >= least, summary }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_are_added_up_and_too_few_fail() {
        let said = "6000 'a' and 3 others\n4000 'b'\n";
        let all = count(said, FULL_MIN);
        assert!(all.passed);
        assert_eq!(all.summary, ["10000 in 2 tables"]);
        assert!(!count(said, FULL_MIN + 1).passed && !count("", 1).passed && count("", 0).passed);
    }
}
