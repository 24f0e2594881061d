//! What programs need from the system besides files and sockets: to go to the background, to be told to end, to have
//! programs of their own.

mod background;
mod child;
mod pid_file;
mod signals;

pub use background::{Forked, Readiness, fork};
pub use child::end_with_thread;
pub use pid_file::PidFile;
pub use signals::{Signal, Signals, outlive_file_size_limit};
