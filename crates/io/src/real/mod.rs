//! The machine: system calls, tokio and io_uring.
//!
//! Invariants:
//! * Each I/O thread has a single-threaded runtime of its own; no task ever changes its thread.
//! * Whatever a system call may still touch (a buffer, a descriptor) is owned by the operation, not by the
//!   future that waits for it.
//! * `unsafe` stands only where the kernel is spoken to directly; modules that need it say so at their top.

mod address;
mod connect;
mod file;
mod flushing;
mod folders;
mod here;
mod inherited;
mod listener;
mod lock;
mod offload;
mod open;
mod pool;
mod probe;
pub mod process;
mod ring;
mod space;
mod stream;
mod thread;
mod transfer;
mod transient;
mod watch;
mod world;
mod writeback;

pub use world::RealWorld;
