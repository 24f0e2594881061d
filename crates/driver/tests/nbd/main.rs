//! The `nbd` driver in the simulated world: against our own server, and against servers that lie.

#![allow(unreachable_pub, reason = "modules of one test")]
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod filling;
#[path = "../lab/mod.rs"]
mod lab;
mod lies;
mod outages;
mod reading;
mod script;
mod stage;
mod store;
mod writing;
