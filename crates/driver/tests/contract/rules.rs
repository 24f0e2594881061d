//! The scenarios of the rules of the data path, with the rules kept. `contract_broken_*` show that each is needed.

use crate::lab::rules;

#[test]
fn guards_hold_freed_clusters_back() {
    assert_eq!(rules::a_reader_that_waits(), 0, "a reader that waits");
    assert_eq!(rules::a_turn(), 0, "a turn");
    assert_eq!(rules::a_write_that_was_given_up(), 0, "a write that was given up");
}

#[test]
fn generations_make_mappings_forgotten() {
    assert_eq!(rules::a_remembered_mapping(), 0);
}

#[test]
fn range_locks_order_what_overlaps() {
    assert_eq!(rules::two_parts_of_a_block(), 0, "two parts of a block");
    assert_eq!(rules::a_late_store(), 0, "a late store");
}

#[test]
fn random_work_is_right() {
    for layers in [1, 2, 9] {
        assert!(!rules::random_work(0..4, layers), "{layers} layers");
    }
}
