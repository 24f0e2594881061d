//! The power goes while bitmaps are made, recorded in, stored, merged and removed: at any write and any flush. Whatever
//! is left has tables that agree, and each bitmap in it is marked as in use, or is what was recorded.
//!
//! A failure prints the `cargo xtask sim` command that plays it again; `MILLPOND_TEST_FULL=1` plays more.

#![allow(unreachable_pub, reason = "modules of one test")]
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod broken;
mod failing;
#[path = "../lab/mod.rs"]
mod lab;
mod left;
mod model;
mod run;
mod work;

use flow::sabotage::{Rule, break_named};
use sim::campaign::{self, Budget, Budgets, Scenario};

const BUDGETS: Budgets = Budgets {
    quick: Budget { seeds: 8, points: 30 },
    full: Budget { seeds: 24, points: 60 },
    full_points: 2_000,
};

/// Rules without which bitmaps are wrong, each with a scenario that finds it.
const RULES: &[(Rule, &str)] = &[
    (Rule::BitmapMark, "bitmaps in clusters of 4 KiB"),
    (Rule::BitmapSwitch, "bitmaps in clusters of 4 KiB"),
    (Rule::PlainBarrier, "bitmaps in clusters of 4 KiB"),
    (Rule::DataBarrier, "bitmaps in tiny clusters"),
];

#[test]
fn scenarios() {
    let rows = run::all().into_iter().map(|row| Box::new(row) as Box<dyn Scenario>);
    campaign::play_or_break(&rows.collect::<Vec<_>>(), &BUDGETS, break_named);
}

#[test]
fn removed_barriers_are_found() {
    for (rule, scenario) in RULES {
        campaign::must_fail_without(rule.name(), scenario);
    }
}
