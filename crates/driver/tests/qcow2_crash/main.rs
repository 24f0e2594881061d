//! The power goes while a qcow2 image is written: at any write and any flush, with what was on its way lost, torn or
//! reordered. Whatever is left opens, has tables that agree, and holds all that was flushed.
//!
//! The scenarios are the rows of `table.rs`, and the repairs of `repair.rs`. A failure prints the `cargo xtask sim`
//! command that plays it again; `MILLPOND_TEST_FULL=1` plays more of them.

#![allow(unreachable_pub, reason = "modules of one test")]
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod amend;
#[allow(dead_code, reason = "the tests of the format use all of it")]
#[path = "../../../qcow2/tests/checking/mod.rs"]
mod checking;
mod fill;
#[path = "../lab/mod.rs"]
mod lab;
mod longer;
mod model;
mod repair;
mod resizing;
mod row;
mod scribble;
mod snapshotting;
mod stage;
mod table;

use flow::sabotage::{Rule, break_named};
use sim::campaign::{self, Budget, Budgets, Scenario};

const BUDGETS: Budgets = Budgets {
    quick: Budget { seeds: 4, points: 24 },
    full: Budget { seeds: 8, points: 40 },
    full_points: 10_000,
};

#[test]
fn scenarios() {
    let rows = table::all().into_iter().map(|row| Box::new(row) as Box<dyn Scenario>);
    let repairs = repair::all().into_iter().map(|repair| Box::new(repair) as Box<dyn Scenario>);
    let all = rows.chain(repairs).chain([Box::new(longer::Longer) as Box<dyn Scenario>]);
    campaign::play_or_break(&all.collect::<Vec<_>>(), &BUDGETS, break_named);
}

/// The scenario that goes wrong without a rule; `None` where it takes no power cut: `contract_broken_*` and
/// `sabotage_*` break those.
fn found_by(rule: Rule) -> Option<&'static str> {
    match rule {
        Rule::Guards | Rule::Generations | Rule::RangeLocks | Rule::Lending => None,
        // Found by `qcow2_bitmaps`.
        Rule::BitmapMark | Rule::BitmapSwitch => None,
        // Found by the verbs (`crates/img/tests/crash`).
        Rule::CommitBarrier => None,
        Rule::DataBarrier => Some("tiny clusters"),
        Rule::RefcountBarrier => Some("a refcount table that is full"),
        Rule::TableMoveBarrier => Some("a refcount table that moves"),
        Rule::PlainBarrier => Some("places for all"),
        Rule::NameBarrier => Some("a cache"),
        Rule::LastBarrier => Some("an overlay"),
        Rule::DurableDrop => Some("tiny clusters and caches"),
        Rule::HeaderBarrier => Some("an old image with an autoclear bit"),
        Rule::DataFileBarrier => Some("a data file"),
        Rule::SwitchBarrier => Some("snapshots"),
        Rule::TablesBarrier => Some("refcounts of other widths"),
        Rule::RepairBarrier => Some("a repair that makes refcounts anew"),
        Rule::CutBarrier => Some("a file that gets shorter"),
        // Not for the loss of power: what was a table once is handed out again. See `contract_broken_structures` too.
        Rule::MovedTables => Some("snapshots"),
    }
}

#[test]
fn removed_barriers_are_found() {
    for rule in Rule::ALL {
        let Some(scenario) = found_by(*rule) else { continue };
        campaign::must_fail_without(rule.name(), scenario);
    }
}
