//! qcow2 images as nodes: what they promise, against models and QEMU's tools.

#![allow(unreachable_pub, reason = "modules of one test")]
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod allocation;
mod bitmaps_qemu;
mod check;
mod corruption;
mod empty;
mod idle;
#[path = "../lab/mod.rs"]
mod lab;
mod model;
mod qemu;
mod resize;
mod rules;
mod snapshots;
