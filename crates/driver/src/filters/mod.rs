//! The filters, one file each.

pub mod copy_on_read;
pub mod delay;
pub mod fault;
pub mod throttle;

use flow::{Limits, View};

/// Limits of a filter that changes nothing about requests: those of its child are met below it.
fn limits_above(child: &View) -> Limits {
    Limits { zeroing: child.limits().zeroing, ..Limits::NONE }
}
