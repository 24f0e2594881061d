//! Named handles: secrets, I/O threads, throttle groups.
//!
//! Invariants: an object's name is unique over all kinds; one that is in use is not deleted.

/// The objects of a process.
#[derive(Default)]
pub struct Objects {}
