//! `iothread`: an I/O thread that exports and jobs are put on by name.

use std::fmt;
use std::sync::Arc;

use block::{BlockError, Result};
use io::{Thread, World};
use serde::Deserialize;

/// Options, as QEMU's. They tune QEMU's event loop and have no effect here.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct IoThreadOptions {
    /// Taken for QEMU's sake, without effect.
    pub aio_max_batch: Option<u64>,
    /// Taken for QEMU's sake, without effect.
    pub thread_pool_min: Option<u64>,
    /// Taken for QEMU's sake, without effect.
    pub thread_pool_max: Option<u64>,
    /// Taken for QEMU's sake, without effect.
    pub poll_max_ns: Option<u64>,
    /// Taken for QEMU's sake, without effect.
    pub poll_grow: Option<u64>,
    /// Taken for QEMU's sake, without effect.
    pub poll_shrink: Option<u64>,
}

/// An I/O thread. Ends, with all its tasks, when it is dropped.
pub struct IoThread {
    thread: Arc<dyn Thread>,
}

impl IoThread {
    /// Starts a thread called `name`.
    pub fn start(name: &str, world: &dyn World) -> Result<Self> {
        let thread = world.start_thread(name);
        let thread =
            thread.map_err(|e| BlockError::system(format!("iothread '{name}': cannot start it"), e))?;
        Ok(Self { thread })
    }

    /// The thread, to run tasks on.
    pub fn thread(&self) -> &Arc<dyn Thread> {
        &self.thread
    }
}

impl Drop for IoThread {
    fn drop(&mut self) {
        self.thread.stop();
    }
}

impl fmt::Debug for IoThread {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "IoThread({})", self.thread.name())
    }
}
