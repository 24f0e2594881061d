//! Work that blocks, on an OS thread of its own, with a way to call it off.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;

use block::{BlockError, ErrorKind, Result};
use io::sync::oneshot;

/// Tells the work that nobody wants it any more.
#[derive(Clone, Default)]
pub(super) struct CallOff(Arc<AtomicBool>);

impl CallOff {
    /// An error once the work was called off.
    pub(super) fn check(&self) -> Result<()> {
        match self.0.load(Ordering::Relaxed) {
            true => Err(BlockError::new(ErrorKind::Cancelled, "called off")),
            false => Ok(()),
        }
    }
}

/// Does `work` on a thread. Dropping the future calls it off and waits until it has stopped.
pub(super) async fn run<T: Send + 'static>(
    name: &str,
    work: impl FnOnce(&CallOff) -> Result<T> + Send + 'static,
) -> Result<T> {
    let call_off = CallOff::default();
    let its = call_off.clone();
    let (answer, answered) = oneshot::channel();
    let thread = std::thread::Builder::new().name(name.to_owned()).spawn(move || {
        // Nobody may be waiting any more.
        let _ = answer.send(work(&its));
    });
    let thread = thread.map_err(|e| BlockError::system(format!("cannot start the thread '{name}'"), e))?;
    let _guard = Guard { call_off, thread: Some(thread) };
    let lost = |_| BlockError::new(ErrorKind::Cancelled, format!("the thread '{name}' has ended"));
    answered.await.map_err(lost)?
}

struct Guard {
    call_off: CallOff,
    thread: Option<JoinHandle<()>>,
}

impl Drop for Guard {
    fn drop(&mut self) {
        self.call_off.0.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            // A panic there has been told by the answer that never came.
            let _ = thread.join();
        }
    }
}
