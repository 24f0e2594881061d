//! What happens when requests that overlap are not ordered: the scenarios of the rule see wrong bytes.
//!
//! Rules are broken for a whole process, so each has a test binary of its own.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod lab;

use flow::sabotage::{self, Rule};
use lab::rules;

#[test]
fn wrong_bytes_are_seen() {
    sabotage::break_rule(Rule::RangeLocks);
    assert!(rules::two_parts_of_a_block() > 0, "two parts of a block");
    assert!(rules::a_late_store() > 0, "a late store");
    assert!(rules::random_work(0..20, 1), "random work");
}
