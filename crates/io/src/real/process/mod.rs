//! What a daemon needs from the system besides files and sockets: to go to the background, to be told to end.

mod background;
mod signals;

pub use background::{Forked, Readiness, fork};
pub use signals::{Signal, Signals};
