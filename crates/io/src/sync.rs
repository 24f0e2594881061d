//! Waiting for one another. These need no runtime, so they work in the simulated world too.

pub use tokio::sync::{Notify, Semaphore, SemaphorePermit, mpsc, oneshot, watch};
