//! The traits of crate `io` from one seed: a disk that loses and tears, a network that stalls and cuts,
//! I/O threads interleaved on one OS thread. Dev only.
//!
//! Invariants: the same seed and the same program give the same run, to the nanosecond of virtual time; there
//! is no real clock, file, socket or thread behind it; whoever hangs is told so, with the seed.
//!
//! # A simulated test
//!
//! The program under test gets its world as `&dyn io::World` (or `Arc<dyn io::World>`) and cannot tell. The
//! test makes a world from a seed, prepares its disk, runs a future on its first I/O thread, and looks at what
//! is left. This one asks whether a pointer can survive a power loss without the data that it points to:
//!
//! ```
//! use std::path::Path;
//!
//! use io::{Lease, OpenOptions, World};
//! use sim::{Options, Rng, SimDisk, SimWorld};
//!
//! /// The program under test: the data, a barrier, what points to it.
//! async fn publish(world: &dyn World) -> std::io::Result<()> {
//!     let file = world.open(Path::new("image"), OpenOptions { write: true, ..Default::default() }).await?;
//!     file.write(4096, Lease::copy_of(&[7; 2048])).await.0?;
//!     file.flush().await?;
//!     file.write(0, Lease::copy_of(&[1; 8])).await.0?;
//!     file.flush().await
//! }
//!
//! fn world(seed: u64) -> SimWorld {
//!     let disk = SimDisk::new();
//!     disk.put("image", &[0; 8192]);
//!     SimWorld::with_disk(seed, Options::default(), disk)
//! }
//!
//! for seed in 0..10 {
//!     // A whole run tells how many writes and flushes there are to crash at.
//!     let whole = world(seed);
//!     whole.run(publish(&whole)).expect("nothing fails by chance unless asked for");
//!     for point in whole.disk().counts().crash_points() {
//!         let cut = world(seed);
//!         assert!(cut.run_until_crash(point, publish(&cut)).is_none());
//!         let left = cut.disk().crash(&mut Rng::new(seed));
//!         let bytes = left.bytes("image").expect("files do not vanish");
//!         assert!(bytes[0] == 0 || bytes[4096..6144] == [7; 2048], "seed {seed}, {point:?}");
//!         // Or go on with it: SimWorld::with_disk(seed, Options::default(), left).run(reopen(..))
//!     }
//! }
//! ```
//!
//! # What to turn
//!
//! * [`Options::default`] is rough: everything that a healthy machine may do happens by chance (short and
//!   refused inline reads, split writes, any order of tasks, pieces of any size on the wire). Faults are off
//!   until their probability is set. [`Options::calm`] leaves nothing to chance.
//! * [`SimWorld::disk`]: prepare and inspect files; [`SimDisk::set_policy`] decides about single operations
//!   (delay, hold, fail), [`SimDisk::release`] and [`SimDisk::fail`] about held ones; [`SimDisk::crash`] and
//!   [`SimDisk::kill`] answer the disk that the next process finds.
//! * [`SimWorld::net`]: [`SimNet::set_link`] gives a line a round trip and a rate; [`SimNet::stall`],
//!   [`SimNet::cut_all`], [`SimNet::refuse`], and the same for one [`Connection`].
//! * To repeat a failure, run its seed. The report shows the last events; [`SimWorld::digest`] tells two runs
//!   apart.
//!
//! # Where a new fault goes
//!
//! | fault | place |
//! |---|---|
//! | of a disk operation, by chance | a probability in `disk/options.rs`, used where `disk/state.rs` judges |
//! | of a disk operation, by order | a [`Verdict`] in `disk/control.rs`, carried out in `disk/flight.rs` |
//! | of a power loss | `disk/crash.rs` |
//! | of the line | `net/link.rs`; of a connection: `net/state.rs`, with a handle in `net/mod.rs` |
//!
//! # Scenarios
//!
//! What is to survive power cuts is a row of a table of [`campaign::Scenario`], played by [`campaign::play`] on all
//! cores: `cargo xtask sim` plays as many seeds of it as one likes.
//!
//! # What it does not show
//!
//! One OS thread runs everything, and a turn of a task is never interrupted: races within a turn and memory
//! orderings need real threads. Creating a file is durable at once. Operations that end while nobody waits
//! drop their lease outside any I/O thread, as a pool of threads may do.

pub mod campaign;
mod clock;
mod core;
mod disk;
mod executor;
mod here;
mod net;
mod ready;
mod rng;
mod skip;
mod thread;
mod trace;
mod world;

use std::sync::{Mutex, MutexGuard, TryLockError};

pub use disk::{Counts, CrashPoint, DiskOptions, Op, OpId, OpKind, Policy, SimDisk, Verdict};
pub use net::{Connection, Link, NetOptions, SimNet};
pub use rng::Rng;
pub use skip::skip;
pub use world::{Options, Order, SimWorld};

/// Locks `mutex`. All of a world runs on one OS thread, so nobody ever waits: who finds it locked came back
/// into the world from inside, and would wait for ever. A panic while it was held is reported as what it is,
/// not as a poisoned lock.
fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    match mutex.try_lock() {
        Ok(guard) => guard,
        Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
        Err(TryLockError::WouldBlock) => {
            panic!("a policy called its disk, or a world runs on two OS threads")
        }
    }
}
