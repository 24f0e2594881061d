//! What happens when freed clusters do not wait for their readers: the scenarios of the rule see wrong bytes.
//!
//! Rules are broken for a whole process, so each has a test binary of its own.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod lab;

use flow::sabotage::{self, Rule};
use lab::rules;

#[test]
fn wrong_bytes_are_seen() {
    sabotage::break_rule(Rule::Guards);
    assert!(rules::a_reader_that_waits() > 0, "a reader that waits");
    assert!(rules::a_turn() > 0, "a turn");
    assert!(rules::a_write_that_was_given_up() > 0, "a write that was given up");
    assert!(rules::random_work(0..20, 2), "random work");
}
