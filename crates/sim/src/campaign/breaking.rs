//! Playing a table with a rule broken on purpose: something must be wrong then, or the table proves nothing.
//!
//! Invariant: what is broken stays broken, so that happens in a process of its own alone.

use std::fs::OpenOptions;
use std::io::Write;
use std::process::Command;

use super::{Budgets, Scenario, play};

/// The variable that names the rule.
const BREAK: &str = "MILLPOND_CRASH_BREAK";
/// The variable that names the file which gets a line for each table that was played: its crash points.
const POINTS_LOG: &str = "MILLPOND_POINTS_LOG";

/// Plays a table ([`play`]) in its test, which is called `scenarios`; where [`must_fail_without`] has started this
/// process, `break_rule` first breaks the rule of that name, and the first failure ends it all. A table that was played
/// whole says its crash points in the file that `MILLPOND_POINTS_LOG` names, if it names one.
#[track_caller]
pub fn play_or_break(table: &[Box<dyn Scenario>], budgets: &Budgets, break_rule: fn(&str)) {
    let broken = std::env::var(BREAK).ok();
    if let Some(rule) = &broken {
        break_rule(rule);
    }
    let points = play(table, budgets, broken.is_some());
    if let (None, Some(log)) = (broken, std::env::var_os(POINTS_LOG)) {
        let log = OpenOptions::new().create(true).append(true).open(&log);
        // One write: tables of other programs end at the same time.
        let written =
            log.and_then(|mut log| log.write_all(format!("{points} {}\n", table_name(table)).as_bytes()));
        written.expect("the file that MILLPOND_POINTS_LOG names can be written");
    }
}

/// What a table is called in a summary: its first scenario, and how many others there are.
fn table_name(table: &[Box<dyn Scenario>]) -> String {
    match table {
        [] => "nothing".to_owned(),
        [only] => format!("'{}'", only.name()),
        [first, others @ ..] => format!("'{}' and {} others", first.name(), others.len()),
    }
}

/// Plays one scenario of this program's table in a process of its own without `rule`, until the first failure or to the
/// end of a long run.
///
/// Panics when nothing was wrong with it.
#[track_caller]
pub fn must_fail_without(rule: &str, scenario: &str) {
    let program = std::env::current_exe().expect("a test knows its program");
    let mut command = Command::new(program);
    command.args(["scenarios", "--exact", "--nocapture"]).env("MILLPOND_TEST_FULL", "1");
    let output = command.env(BREAK, rule).env("MILLPOND_SIM_SCENARIO", scenario).output();
    let output = output.expect("a program can run itself");
    assert!(!output.status.success(), "without {rule} nothing was wrong with '{scenario}'");
    let said =
        [output.stdout, output.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).concat();
    let found = said.lines().find(|line| line.starts_with("FAILED: "));
    println!("without {rule}: {}", found.unwrap_or_else(|| panic!("without {rule}: {said}")));
}
