//! I/O threads: each runs its own tasks and never lends them to another.

use crate::LocalFut;

/// Makes the first future of a task on the thread that will run it.
pub type Start = Box<dyn FnOnce() -> LocalFut<'static, ()> + Send>;

/// A running I/O thread.
pub trait Thread: Send + Sync {
    /// Its name, for people.
    fn name(&self) -> &str;

    /// Runs a task there; returns at once. After [`Thread::stop`] the task is dropped unrun.
    fn run(&self, start: Start);

    /// Drops all its tasks and ends it. Waits until it has ended, unless called from itself.
    fn stop(&self);
}
