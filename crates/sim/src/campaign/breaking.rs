//! Playing a table with a rule broken on purpose: something must be wrong then, or the table proves nothing.
//!
//! Invariant: what is broken stays broken, so that happens in a process of its own alone.

use std::process::Command;

use super::{Budgets, Scenario, play};

/// The variable that names the rule.
const BREAK: &str = "MILLPOND_CRASH_BREAK";

/// Plays a table ([`play`]) in its test, which is called `scenarios`; where [`must_fail_without`] has started this process,
/// `break_rule` first breaks the rule of that name, and the first failure ends it all.
#[track_caller]
pub fn play_or_break(table: &[Box<dyn Scenario>], budgets: &Budgets, break_rule: fn(&str)) {
    let broken = std::env::var(BREAK).ok();
    if let Some(rule) = &broken {
        break_rule(rule);
    }
    play(table, budgets, broken.is_some());
}

/// Plays one scenario of this program's table in a process of its own without `rule`, until the first failure or to the
/// end of the full test.
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
