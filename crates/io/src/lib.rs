//! The outside world behind small traits: files, network, clock, random, threads.
//!
//! Upper rooms reach the world in two ways. What has an identity (a file, a socket, a thread) comes from a
//! [`World`] as a trait object. What belongs to the thread one runs on (spawning, sleeping, yielding, the
//! time) is ambient: [`here`] asks the [`Here`] that the thread installed. Both have two implementations:
//! [`real`] (system calls, tokio, io_uring) and the crate `sim` (everything from one seed).
//!
//! Invariants:
//! * This is the only crate that names the runtime or has `unsafe` code.
//! * Nothing named `try_` waits: it does what it can at once or says that it would wait.
//! * A buffer in flight is owned by its operation: dropping the future of a read or a write leaves the
//!   [`Lease`] with the operation until the world has let go of it.

pub mod counting;
pub mod file;
pub mod folders;
pub mod here;
pub mod lease;
pub mod net;
pub mod real;
pub mod select;
pub mod sync;
pub mod thread;
pub mod wall;
pub mod world;

use std::future::Future;
use std::pin::Pin;

pub use file::{File, FileInfo, OpenOptions};
pub use folders::Folders;
pub use here::{
    Here, Moment, defer, now, random, sleep, sleep_until, spawn, thread_index, timeout_at, yield_now,
};
pub use lease::Lease;
pub use net::{Address, Incoming, Listener, Stream};
pub use thread::Thread;
pub use world::World;

/// A future that stays on the thread that made it.
pub type LocalFut<'a, T> = Pin<Box<dyn Future<Output = T> + 'a>>;
