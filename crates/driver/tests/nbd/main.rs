//! The `nbd` driver: in the simulated world against our own server and servers that lie, and on the real machine
//! against the servers of others.

#![allow(unreachable_pub, reason = "modules of one test")]
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod filling;
#[path = "../lab/mod.rs"]
mod lab;
mod lies;
mod outages;
mod peers;
mod reading;
mod script;
mod stage;
mod store;
mod writing;
