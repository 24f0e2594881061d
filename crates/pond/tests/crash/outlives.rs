//! VMs that outlive the daemon: it is killed and started again while they read, also before it is up again. They see
//! neither a wrong byte nor an error, and nothing of another image.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use block::ByteRange;
use futures_util::future::join;
use io::sync::oneshot;
use io::{LocalFut, Thread, World};
use pond::{Mode, Pond, State};
use sim::{Link, Options, Rng, SimWorld};

use crate::cache_file;
use crate::scene::{self, GRANULE, Master, SIZE, Vm};

/// Threads of the world that are one process. Killed, all that runs on them is gone at once.
#[derive(Clone, Default)]
struct Process(Arc<Mutex<Vec<Arc<dyn Thread>>>>);

impl Process {
    /// Starts one.
    fn start(
        world: &Arc<SimWorld>,
        main: impl FnOnce(Self) -> LocalFut<'static, ()> + Send + 'static,
    ) -> Self {
        let (process, thread) = (Self::default(), world.start_thread("main").unwrap());
        process.adopt(std::slice::from_ref(&thread));
        let own = process.clone();
        thread.run(Box::new(move || main(own)));
        process
    }

    fn adopt(&self, threads: &[Arc<dyn Thread>]) {
        self.0.lock().unwrap().extend_from_slice(threads);
    }

    fn kill(self) {
        let threads = std::mem::take(&mut *self.0.lock().unwrap());
        threads.iter().for_each(|thread| thread.stop());
    }
}

/// A daemon, which makes the disk of the VM if it is not there; and its pond, when it is up.
fn daemon(world: &Arc<SimWorld>, mode: Mode) -> (Process, oneshot::Receiver<Arc<Pond>>) {
    let ((ready, up), world) = (oneshot::channel(), world.clone());
    let here = world.clone();
    let main = move |process: Process| -> LocalFut<'static, ()> {
        Box::pin(async move {
            let engine = scene::engine(&here, 2);
            process.adopt(engine.threads());
            let pond = Pond::open(engine, scene::options()).await.unwrap();
            if pond.clones().is_empty() {
                pond.create_clone(&scene::request("a", mode)).await.unwrap();
            }
            // Nobody may be waiting.
            let _ = ready.send(pond);
            std::future::pending().await
        })
    };
    (Process::start(&world, main), up)
}

/// A repository that serves a file as the image; ready when it does.
async fn repository(world: &Arc<SimWorld>, file: &'static str, version: &'static str) -> Process {
    let ((ready, up), here) = (oneshot::channel(), world.clone());
    let main = move |process: Process| -> LocalFut<'static, ()> {
        Box::pin(async move {
            let served = scene::serve(&here, file, version).await;
            process.adopt(served.0.threads());
            ready.send(()).unwrap();
            std::future::pending::<()>().await;
            drop(served);
        })
    };
    let process = Process::start(world, main);
    up.await.unwrap();
    process
}

fn world(seed: u64, master: &Master) -> Arc<SimWorld> {
    let options = Options { turn_cost: Duration::from_micros(1), ..Options::default() };
    let world = SimWorld::with_disk(seed, options, master.disk());
    let link = Link { round_trip: Duration::from_millis(5), rate: 150_000 };
    world.net().set_link(&scene::far(), link);
    Arc::new(world)
}

fn millis(rng: &mut Rng, most: u64) -> Duration {
    Duration::from_millis(rng.below(most))
}

/// Reads here and there, and everything in the end.
async fn reads(vm: &Vm, mut rng: Rng, master: &Master) {
    for _ in 0..30 {
        io::sleep(millis(&mut rng, 400)).await;
        let start = rng.below(SIZE / 512) * 512;
        let range = ByteRange::new(start, 512 * (1 + rng.below(200)));
        vm.check(range.intersection(ByteRange::new(0, SIZE)), &master.bytes).await;
    }
    vm.check_all(&master.bytes).await;
}

async fn outlives(world: &Arc<SimWorld>, seed: u64, master: &Master) {
    let _repository = repository(world, scene::MASTER, scene::VERSION).await;
    let mut rng = Rng::new(seed);
    let mode = if rng.chance(0.7) { Mode::Complete } else { Mode::WorkingSet };
    let (mut process, mut up) = daemon(world, mode);
    // Dropped by whoever asks for it last: a daemon that is killed must leave nothing.
    drop((&mut up).await.unwrap());
    let vm = Vm::start(world, "a").await;
    let reading = reads(&vm, rng.fork(), master);
    let killing = async {
        for _ in 0..3 + rng.below(4) {
            io::sleep(millis(&mut rng, 2500)).await;
            process.kill();
            io::sleep(millis(&mut rng, 4000)).await;
            (process, up) = daemon(world, mode);
            // Often it dies again before it is up.
            let soon = Duration::from_micros(rng.below(3000));
            io::sleep(if rng.chance(0.5) { soon } else { millis(&mut rng, 300) }).await;
        }
        (process, up)
    };
    let ((), (process, up)) = join(reading, killing).await;
    vm.stop().await;
    let pond = up.await.unwrap();
    while mode == Mode::Complete && pond.images()[0].state != Some(State::Complete) {
        io::sleep(Duration::from_millis(50)).await;
    }
    drop(pond);
    process.kill();
    let file = scene::caches(&world.disk()).pop().unwrap();
    let report = cache_file::check(&file, &master.bytes).unwrap();
    assert_eq!(report.linked, mode == Mode::WorkingSet);
}

#[test]
fn a_vm_outlives_its_daemons() {
    let full = std::env::var_os("MILLPOND_TEST_FULL").is_some();
    for seed in 0..if full { 400 } else { 40 } {
        let master = Master::new(seed);
        let world = world(seed, &master);
        world.run(outlives(&world, seed, &master));
    }
}

#[test]
fn an_image_that_changed_meanwhile_is_refused() {
    let master = Master::new(3);
    let world = world(3, &master);
    world.disk().put("/srv/new.raw", &vec![0xee; master.bytes.len()]);
    world.run(async {
        let old = repository(&world, scene::MASTER, scene::VERSION).await;
        let (process, up) = daemon(&world, Mode::WorkingSet);
        drop(up.await.unwrap());
        let vm = Vm::start(&world, "a").await;
        vm.check(ByteRange::new(0, 3 * GRANULE), &master.bytes).await;
        // What was read is durable after a second.
        io::sleep(Duration::from_secs(2)).await;
        process.kill();
        old.kill();
        let _new = repository(&world, "/srv/new.raw", "millpond-id:second").await;
        let (_daemon, up) = daemon(&world, Mode::WorkingSet);
        let pond = up.await.unwrap();
        vm.check(ByteRange::new(0, 3 * GRANULE), &master.bytes).await;
        let rest = vm.read(ByteRange::new(4 * GRANULE, 4 * GRANULE)).await;
        assert!(rest.is_err(), "bytes of another image were answered");
        let image = pond.images().remove(0);
        assert!(image.trouble.as_ref().is_some_and(|why| why.what.contains("another image")), "{image:?}");
        vm.stop().await;
    });
}
