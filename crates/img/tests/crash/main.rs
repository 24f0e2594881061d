//! The power goes while a verb works on images: at any write and any flush. Whatever is left opens, has tables that
//! agree, and reads as the disk did before, whether it is called again or not.
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
    full: Budget { seeds: 16, points: 48 },
    full_points: 2_000,
};

/// Rules without which something is wrong here, and the scenario that shows it.
const FOUND: &[(Rule, &str)] = &[
    (Rule::CommitBarrier, "a commit on a disk that fails"),
    (Rule::LastBarrier, "a commit into a qcow2 image"),
    (Rule::DataBarrier, "a commit into a qcow2 image"),
];

#[test]
fn scenarios() {
    let rows = table::all().into_iter().map(|row| Box::new(row) as Box<dyn Scenario>);
    campaign::play_or_break(&rows.collect::<Vec<_>>(), &BUDGETS, break_named);
}

#[test]
fn removed_barriers_are_found() {
    for (rule, scenario) in FOUND {
        campaign::must_fail_without(rule.name(), scenario);
    }
}
