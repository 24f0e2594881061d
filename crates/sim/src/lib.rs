//! The traits of io from one seed: a disk that loses and tears, a network that stalls and cuts, threads interleaved on one.

mod clock;
mod core;
mod disk;
mod executor;
mod here;
mod net;
mod ready;
mod rng;
mod thread;
mod trace;
mod world;

use std::sync::{Mutex, MutexGuard, TryLockError};

pub use disk::{Counts, CrashPoint, DiskOptions, Op, OpId, OpKind, Policy, SimDisk, Verdict};
pub use net::{Connection, Link, NetOptions, SimNet};
pub use rng::Rng;
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
