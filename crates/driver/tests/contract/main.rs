//! What the data path promises whatever the driver, against models and with clients side by side.

#![allow(unreachable_pub, reason = "modules of one test")]
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod joins;
#[path = "../lab/mod.rs"]
mod lab;
mod layers;
mod model;
mod remember;
mod rules;
