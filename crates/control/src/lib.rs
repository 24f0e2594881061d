//! The QMP server: QEMU's monitor protocol, for any number of clients at once.
//!
//! A [`Table`] has the commands and events, group by group; [`commands::standard`] fills it with those of
//! `qemu-storage-daemon`, and whoever wires the program adds groups of its own. A [`Control`] serves clients with it.
//!
//! Invariants: a command translates its arguments into engine verbs and nothing else; what a command takes and
//! answers is described by the types that parse and write it; an event that a command caused reaches every client
//! before the command's reply does; a client that does not read is not read from, and costs bounded memory.

pub mod commands;
mod control;
mod failure;
mod outbox;
mod session;
mod table;
pub mod types;

pub use control::{Bound, Control, VERSION};
pub use failure::Failure;
pub use table::Table;
