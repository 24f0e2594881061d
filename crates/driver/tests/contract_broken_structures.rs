//! What happens when nobody knows where tables have moved to: they are written over.
//!
//! Rules are broken for a whole process, so each has a test binary of its own. That the places where tables were are
//! forgotten is looked at in `qcow2_crash`.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod lab;

use flow::sabotage::{self, Rule};
use lab::moved_tables::{Move, write_over};

#[test]
fn tables_are_written_over() {
    sabotage::break_rule(Rule::MovedTables);
    for moved in Move::ALL {
        let refused = write_over(moved);
        assert!(refused.is_none(), "{moved:?}: {refused:?}");
    }
}
