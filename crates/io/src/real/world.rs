//! The door to the machine.

use std::future::Future;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Instant;

use super::pool::Pool;
use super::transient::Left;
use super::{connect, listener, open, ring, thread};
use crate::{Address, File, Folders, Incoming, Listener, LocalFut, OpenOptions, Thread, World};

/// The real world. Clones share everything; when the last one and the last file that it opened are gone, the
/// pool of threads behind them ends.
#[derive(Clone)]
pub struct RealWorld {
    shared: Arc<Shared>,
}

/// What all I/O threads and files of one world share.
pub(super) struct Shared {
    pub(super) began: Instant,
    pub(super) pool: Arc<Pool>,
    /// Whether rings may be used, or why not; asked of the system when first needed.
    rings: OnceLock<Result<(), String>>,
    /// Whether `RWF_DONTCACHE` may be used.
    may_flag: bool,
    /// Pages of closed files that are about to leave the page cache.
    left: Arc<Left>,
    indexes: Mutex<Vec<bool>>,
}

impl RealWorld {
    /// A world whose clock starts now. Starts no thread yet.
    pub fn new() -> Self {
        Self::with(OnceLock::new(), true)
    }

    /// The same without io_uring, as in a container that forbids it: every request that waits goes to the
    /// pool, and asking for [`Engine::Uring`](crate::file::Engine::Uring) is an error.
    pub fn without_io_uring() -> Self {
        Self::with(OnceLock::from(Err("switched off".to_owned())), true)
    }

    /// The same without `RWF_DONTCACHE`, as on an older kernel.
    pub fn without_dontcache() -> Self {
        Self::with(OnceLock::new(), false)
    }

    fn with(rings: OnceLock<Result<(), String>>, may_flag: bool) -> Self {
        let shared = Shared {
            began: Instant::now(),
            pool: Arc::new(Pool::new("io-pool")),
            rings,
            may_flag,
            left: Arc::default(),
            indexes: Mutex::new(Vec::new()),
        };
        Self { shared: Arc::new(shared) }
    }

    /// Makes the calling OS thread an I/O thread until `future` is done, then drops the tasks that are left. Fails
    /// when the system refuses the few descriptors that an event loop needs; panics when the thread is one already.
    pub fn enter<T>(&self, future: impl Future<Output = T>) -> io::Result<T> {
        thread::enter(&self.shared, |runtime| runtime.block_on(future))
    }

    /// [`RealWorld::enter`] where that cannot be refused, or there is nothing to be done about it: panics then.
    pub fn block_on<T>(&self, future: impl Future<Output = T>) -> T {
        self.enter(future).expect("no event loop for the thread")
    }

    /// Waits until all is done that was handed to other threads, whether or not anybody waits for it: files that were
    /// closed may still have to leave the page cache. For the end of a process; blocks.
    pub fn settle(&self) {
        self.shared.pool.settle();
    }
}

impl RealWorld {
    /// Does on the pool with `path` what blocks.
    pub(super) fn in_pool<T: Send + 'static>(
        &self,
        path: &Path,
        job: impl FnOnce(PathBuf) -> T + Send + 'static,
    ) -> LocalFut<'static, T> {
        let path = path.to_owned();
        Box::pin(self.shared.pool.run(move || job(path)))
    }
}

impl Shared {
    fn rings(&self) -> Result<(), String> {
        self.rings.get_or_init(|| ring::probe().map_err(|error| error.to_string())).clone()
    }
}

impl Default for RealWorld {
    fn default() -> Self {
        Self::new()
    }
}

impl World for RealWorld {
    fn open<'a>(&'a self, path: &'a Path, options: OpenOptions) -> LocalFut<'a, io::Result<Arc<dyn File>>> {
        let path = path.to_owned();
        let (rings, may_flag, left) = (self.shared.rings(), self.shared.may_flag, self.shared.left.clone());
        Box::pin(async move {
            let opened =
                self.shared.pool.run(move || open::open(&path, options, rings, may_flag, &left)).await?;
            Ok(Arc::new(opened.into_file(&self.shared)) as Arc<dyn File>)
        })
    }

    fn read_file<'a>(&'a self, path: &'a Path, limit: usize) -> LocalFut<'a, io::Result<Vec<u8>>> {
        self.in_pool(path, move |path| read_whole(&path, limit))
    }

    fn folders(&self) -> &dyn Folders {
        self
    }

    fn listen(&self, address: &Address) -> io::Result<Box<dyn Listener>> {
        listener::listen(address)
    }

    fn connect<'a>(&'a self, address: &'a Address) -> LocalFut<'a, io::Result<Box<dyn Incoming>>> {
        Box::pin(connect::connect(address))
    }

    fn compute(&self, work: Box<dyn FnOnce() + Send>) -> LocalFut<'static, ()> {
        Box::pin(self.shared.pool.run(work))
    }

    fn compute_max(&self) -> usize {
        // Where the system does not tell, one is right.
        std::thread::available_parallelism().map_or(1, std::num::NonZeroUsize::get)
    }

    fn start_thread(&self, name: &str) -> io::Result<Arc<dyn Thread>> {
        thread::start(&self.shared, name)
    }
}

fn read_whole(path: &Path, limit: usize) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    std::fs::File::open(path)?.take(limit as u64 + 1).read_to_end(&mut bytes)?;
    if bytes.len() > limit {
        let message = format!("{}: larger than {limit} bytes", path.display());
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, message));
    }
    Ok(bytes)
}

/// A thread index, taken until dropped.
pub(super) struct Index {
    pub(super) number: usize,
    shared: Arc<Shared>,
}

impl Index {
    /// Takes the smallest number that no running I/O thread of this world has.
    pub(super) fn take(shared: &Arc<Shared>) -> Self {
        // The vector is whole at any point, so a panic elsewhere does not spoil it.
        let mut taken = shared.indexes.lock().unwrap_or_else(PoisonError::into_inner);
        let number = taken.iter().position(|taken| !taken).unwrap_or(taken.len());
        if number == taken.len() {
            taken.push(true);
        } else {
            taken[number] = true;
        }
        Self { number, shared: shared.clone() }
    }
}

impl Drop for Index {
    fn drop(&mut self) {
        self.shared.indexes.lock().unwrap_or_else(PoisonError::into_inner)[self.number] = false;
    }
}
