//! The power goes while a verb works on images: at any write and any flush. Whatever is left opens, has tables that agree,
//! and reads as the disk did before, whether it is called again or not.
//!
//! A failure prints the `cargo xtask sim` command that plays it again; `MILLPOND_TEST_FULL=1` looks at more points.

#![allow(unreachable_pub, reason = "modules of one test")]
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod host;
mod row;
mod table;

use flow::sabotage::{Rule, break_named};
use sim::campaign::{self, Budget, Budgets, Scenario};

const BUDGETS: Budgets = Budgets {
    quick: Budget { seeds: 6, points: 24 },
    full: Budget { seeds: 40, points: 60 },
    full_points: 5_000,
};

/// The rule that is broken on purpose.
const BREAK: &str = "MILLPOND_CRASH_BREAK";

/// Rules without which something is wrong here, and the scenario that shows it.
const FOUND: &[(Rule, &str)] = &[
    (Rule::CommitBarrier, "a commit on a disk that fails"),
    (Rule::LastBarrier, "a commit into a qcow2 image"),
    (Rule::DataBarrier, "a commit into a qcow2 image"),
];

#[test]
fn scenarios() {
    let broken = std::env::var(BREAK).ok();
    if let Some(rule) = &broken {
        break_named(rule);
    }
    let rows = table::all().into_iter().map(|row| Box::new(row) as Box<dyn Scenario>);
    campaign::play(&rows.collect::<Vec<_>>(), &BUDGETS, broken.is_some());
}

/// In processes of their own, since a broken rule stays broken.
#[test]
fn removed_barriers_are_found() {
    for (rule, scenario) in FOUND {
        let name = rule.name();
        let said = campaign::play_apart(&[(BREAK, name), ("MILLPOND_SIM_SCENARIO", scenario)]);
        let Err(said) = said else { panic!("without {name} nothing was wrong with '{scenario}'") };
        let found = said.lines().find(|line| line.starts_with("FAILED: "));
        println!("without {name}: {}", found.unwrap_or_else(|| panic!("without {name}: {said}")));
    }
}
