//! Filters, copy-on-read above all.

#![allow(unreachable_pub, reason = "modules of one test")]
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod fetches;
mod granules;
#[path = "../lab/mod.rs"]
mod lab;
mod quota;
mod seats;
