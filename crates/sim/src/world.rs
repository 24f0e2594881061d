//! The world: everything that a simulated process finds around it, and the door for the test that drives it.

use std::future::Future;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use ::io::{Address, File, Folders, Incoming, Listener, LocalFut, Moment, OpenOptions, Thread, World};

use crate::core::Core;
use crate::disk::{CrashPoint, DiskOptions, SimDisk};
use crate::executor;
use crate::net::{NetOptions, SimNet};
use crate::rng::Rng;
use crate::thread::SimThread;

/// In which order ready tasks run.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Order {
    /// As the seed decides.
    #[default]
    Random,
    /// As they became ready.
    Fifo,
}

/// What a world is like.
#[derive(Clone, Debug)]
pub struct Options {
    /// In which order ready tasks run.
    pub order: Order,
    /// Virtual time that a turn of a task takes. With zero (the default) a task that waits for time to pass
    /// by yielding waits for ever.
    pub turn_cost: Duration,
    /// Turns after which a run counts as a live-lock.
    pub max_turns: u64,
    /// The disk.
    pub disk: DiskOptions,
    /// The network.
    pub net: NetOptions,
}

impl Options {
    /// Nothing by chance: for tests that are about something else, or that compute exact times.
    pub fn calm() -> Self {
        Self { order: Order::Fifo, disk: DiskOptions::calm(), net: NetOptions::calm(), ..Self::default() }
    }
}

impl Default for Options {
    fn default() -> Self {
        Self {
            order: Order::Random,
            turn_cost: Duration::ZERO,
            max_turns: 20_000_000,
            disk: DiskOptions::rough(),
            net: NetOptions::rough(),
        }
    }
}

/// A simulated world. Clones are the same world.
#[derive(Clone)]
pub struct SimWorld(Arc<Inner>);

struct Inner {
    core: Arc<Core>,
    disk: SimDisk,
    net: SimNet,
}

impl Drop for Inner {
    fn drop(&mut self) {
        // What is in flight refers to the disk, which refers to what is in flight.
        drop(self.core.clock.clear());
        self.disk.abandon();
    }
}

impl SimWorld {
    /// A world with an empty disk in which `seed` decides everything.
    pub fn new(seed: u64, options: Options) -> Self {
        Self::with_disk(seed, options, SimDisk::new())
    }

    /// A world with a disk that was prepared, or that is left of another world.
    pub fn with_disk(seed: u64, options: Options, disk: SimDisk) -> Self {
        let mut rng = Rng::new(seed);
        let core = Core::new(seed, &options, &mut rng);
        disk.mount(core.clone(), options.disk, rng.fork());
        let net = SimNet::new(core.clone(), options.net, rng.fork());
        Self(Arc::new(Inner { core, disk, net }))
    }

    /// Runs `main` on I/O thread 0 until it is done; then all other tasks are dropped. Operations in flight
    /// go on when the world runs again.
    ///
    /// Panics with the seed when nothing is ready and nothing will happen any more, and after
    /// [`Options::max_turns`]. Any panic inside prints the seed and the last events.
    pub fn run<T>(&self, main: impl Future<Output = T>) -> T {
        self.0.disk.crash_at(None);
        self.run_or_die(main).expect("the power went in an earlier run")
    }

    /// Runs `main` as [`SimWorld::run`] does, unless the power goes at `point`: then everything stops there,
    /// all tasks are dropped, nothing changes the disk any more, and the answer is `None`.
    pub fn run_until_crash<T>(&self, point: CrashPoint, main: impl Future<Output = T>) -> Option<T> {
        self.0.disk.crash_at(Some(point));
        self.run_or_die(main)
    }

    fn run_or_die<T>(&self, main: impl Future<Output = T>) -> Option<T> {
        executor::run(&self.0.core, &|| self.describe(), main)
    }

    fn describe(&self) -> String {
        let held: Vec<_> = self.0.disk.held().into_iter().map(|(_, op)| format!("{op:?}")).collect();
        format!("held operations: [{}]", held.join(", "))
    }

    /// The seed.
    pub fn seed(&self) -> u64 {
        self.0.core.seed
    }

    /// The disk.
    pub fn disk(&self) -> SimDisk {
        self.0.disk.clone()
    }

    /// The network.
    pub fn net(&self) -> SimNet {
        self.0.net.clone()
    }

    /// The time, also between runs.
    pub fn now(&self) -> Moment {
        self.0.core.clock.now()
    }

    /// A number that stands for everything that happened so far: equal for equal runs.
    pub fn digest(&self) -> u64 {
        self.0.core.trace.digest()
    }
}

impl World for SimWorld {
    fn open<'a>(&'a self, path: &'a Path, options: OpenOptions) -> LocalFut<'a, io::Result<Arc<dyn File>>> {
        Box::pin(self.0.disk.open(path, options))
    }

    fn read_file<'a>(&'a self, path: &'a Path, limit: usize) -> LocalFut<'a, io::Result<Vec<u8>>> {
        Box::pin(self.0.disk.read_file(path, limit))
    }

    fn folders(&self) -> &dyn Folders {
        &self.0.disk
    }

    fn listen(&self, address: &Address) -> io::Result<Box<dyn Listener>> {
        self.0.net.listen(address)
    }

    fn connect<'a>(&'a self, address: &'a Address) -> LocalFut<'a, io::Result<Box<dyn Incoming>>> {
        Box::pin(self.0.net.connect(address))
    }

    fn start_thread(&self, name: &str) -> io::Result<Arc<dyn Thread>> {
        Ok(SimThread::start(self.0.core.clone(), name))
    }
}
