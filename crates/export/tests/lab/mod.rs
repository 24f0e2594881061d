//! What the tests of the NBD server have in common: a node to export, a server, clients that ask at random.

#![allow(dead_code, unreachable_pub, reason = "each test uses its part")]
#![allow(clippy::unwrap_used, reason = "a test may panic")]

pub mod client;
pub mod garbage;
pub mod player;
pub mod stage;
pub mod store;
