//! The NBD server in the simulated world.

#![allow(unreachable_pub, reason = "modules of one test")]
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod anything;
mod client;
mod leaving;
mod model;
mod replies;
mod sessions;
mod stage;
mod store;
mod waits;
