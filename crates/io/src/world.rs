//! The door to everything outside the process.

use std::io;
use std::path::Path;
use std::sync::Arc;

use crate::{Address, File, Folders, Incoming, Listener, LocalFut, OpenOptions, Thread};

/// What a process finds around it. Cheap to share; all methods may be called from any I/O thread.
pub trait World: Send + Sync {
    /// Opens (or creates, as the options say) a file. Does not block the calling thread.
    fn open<'a>(&'a self, path: &'a Path, options: OpenOptions) -> LocalFut<'a, io::Result<Arc<dyn File>>>;

    /// Reads a small file whole (configuration, secrets); at most `limit` bytes, else an error.
    fn read_file<'a>(&'a self, path: &'a Path, limit: usize) -> LocalFut<'a, io::Result<Vec<u8>>>;

    /// The names of files.
    fn folders(&self) -> &dyn Folders;

    /// Listens at `address`; the listener belongs to the calling I/O thread.
    fn listen(&self, address: &Address) -> io::Result<Box<dyn Listener>>;

    /// Connects to `address`. The caller attaches the stream on the thread that shall own it.
    fn connect<'a>(&'a self, address: &'a Address) -> LocalFut<'a, io::Result<Box<dyn Incoming>>>;

    /// Carries out long computations (unpacking megabytes) without holding up the calling thread, which may be an
    /// I/O thread. Work that was handed over is done whether or not the future is dropped. A world without other
    /// threads does it at once.
    fn compute(&self, work: Box<dyn FnOnce() + Send>) -> LocalFut<'static, ()> {
        work();
        Box::pin(async {})
    }

    /// How many computations can run at the same time, at least 1.
    fn compute_max(&self) -> usize {
        1
    }

    /// Starts another I/O thread.
    fn start_thread(&self, name: &str) -> io::Result<Arc<dyn Thread>>;
}
