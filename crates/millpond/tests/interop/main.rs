//! `millpond nbd` against the programs that people use with qemu-nbd, and against what nobody should send it.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

#[path = "../lab/mod.rs"]
mod lab;

mod chains;
mod command_line;
mod daemon;
mod dialogue;
mod ending;
mod fallbacks;
mod hostile;
mod info;
mod library;
mod lifetime;
mod load;
mod pond;
mod refusals;
mod remedies;
mod serve;
mod sharing;
mod snapshots;
mod transfers;
mod wire;
