//! Protocols and formats other than qcow2.

#![allow(unreachable_pub, reason = "modules of one test")]
#![allow(clippy::unwrap_used, reason = "a test may panic")]

#[path = "../lab/mod.rs"]
mod lab;
mod lent_and_reopened;
mod memory_format;
mod protocols_and_raw;
