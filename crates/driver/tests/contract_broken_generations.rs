//! What happens when remembered mappings are used whatever has changed: the scenarios of the rule see wrong bytes.
//!
//! Rules are broken for a whole process, so each has a test binary of its own.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod lab;

use flow::sabotage::{self, Rule};
use lab::rules;

#[test]
fn wrong_bytes_are_seen() {
    sabotage::break_rule(Rule::Generations);
    assert!(rules::a_remembered_mapping() > 0);
    assert!(rules::random_work(0..20, 9), "random work");
}
