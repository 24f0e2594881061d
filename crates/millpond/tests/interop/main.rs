//! `millpond nbd` against the programs that people use with qemu-nbd, and against what nobody should send it.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

#[path = "../lab/mod.rs"]
mod lab;

mod dialogue;
mod hostile;
mod info;
mod load;
mod transfers;
