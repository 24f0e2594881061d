//! One life of the host: from opening the pond until its clones need it no more, unless the power goes before.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use block::ByteRange;
use futures_util::future::{join, join_all};
use io::Moment;
use pond::{ImageInfo, Mode, Pond, State};
use sim::{Link, OpKind, Options, Rng, SimDisk, SimWorld, Verdict};

use crate::cache_file;
use crate::scene::{self, GRANULE, Master, SIZE, Vm};

/// What is stored is durable after this long: the commit clock, and a flush on a disk whose operations take up to
/// half a millisecond.
const WINDOW: Duration = Duration::from_millis(1200);
/// VMs of the host.
const VMS: [&str; 2] = ["a", "b"];

/// What users were told, and what was stored when: all that must be true in the next life.
#[derive(Clone, Debug, Default)]
pub struct Known {
    /// VMs whose clones were answered.
    pub cloned: Vec<&'static str>,
    /// VMs whose pivots were answered.
    pub pivoted: Vec<&'static str>,
    /// Whether the image was reported complete.
    pub complete: bool,
    /// Granules that earlier lives have left in the cache, at least.
    pub left: u64,
}

/// When the clusters of the cache's file were first written to, by number.
type Stored = Arc<Mutex<BTreeMap<u64, Moment>>>;

/// Notes the writes of data to the cache: those that are longer than what is written of a table at a time.
fn note_stores(disk: &SimDisk) -> Stored {
    let stored = Stored::default();
    let noted = stored.clone();
    disk.set_policy(move |op| {
        if op.kind == OpKind::Write && op.range.len() > 4096 && op.path.starts_with("/pond/images") {
            for cluster in op.range.start() / GRANULE..op.range.end().div_ceil(GRANULE) {
                noted.lock().unwrap().entry(cluster).or_insert_with(io::now);
            }
        }
        Verdict::Go
    });
    stored
}

/// What happens in a life.
pub struct Plan {
    pub seed: u64,
    pub mode: Mode,
    link: Link,
    /// Faults of the network: when, which, for how long.
    faults: Vec<(Duration, usize, Duration)>,
    reads: u64,
}

impl Plan {
    pub fn new(seed: u64, with_faults: bool) -> Self {
        let mut rng = Rng::new(seed);
        let mode = if rng.chance(0.8) { Mode::Complete } else { Mode::WorkingSet };
        let round_trip = Duration::from_millis(1 + rng.below(40));
        let link = Link { round_trip, rate: 100_000 + rng.below(600_000) };
        let count = if with_faults { rng.below(4) } else { 0 };
        let span = |rng: &mut Rng, most: u64| Duration::from_millis(rng.below(most));
        let faults = (0..count).map(|_| (span(&mut rng, 3000), rng.index(3), span(&mut rng, 2500))).collect();
        Self { seed, mode, link, faults, reads: rng.below(12) }
    }

    /// A world for it.
    pub fn world(&self, disk: SimDisk) -> SimWorld {
        let options = Options { turn_cost: Duration::from_micros(1), ..Options::default() };
        let world = SimWorld::with_disk(self.seed, options, disk);
        world.net().set_link(&scene::far(), self.link);
        world
    }
}

/// A life and what is known in it.
pub struct Life<'a> {
    pub world: Arc<SimWorld>,
    pub plan: &'a Plan,
    pub master: &'a Master,
    pub known: RefCell<Known>,
    stored: Stored,
}

impl<'a> Life<'a> {
    pub fn new(plan: &'a Plan, master: &'a Master, disk: SimDisk, known: Known) -> Self {
        let stored = note_stores(&disk);
        Self { world: Arc::new(plan.world(disk)), plan, master, known: RefCell::new(known), stored }
    }

    /// What is known when all stops now.
    pub fn known_after(&self) -> Known {
        let (now, mut known) = (self.world.now(), self.known.borrow().clone());
        let stored = self.stored.lock().unwrap();
        let kept = stored.iter().filter(|(_, since)| now.since(**since) > WINDOW);
        let file = scene::caches(&self.world.disk()).pop().unwrap_or_default();
        let cluster = |number: u64| file.chunks(GRANULE as usize).nth(number as usize).unwrap_or_default();
        // Holes beside data are stored with it.
        let data = kept.filter(|(number, _)| cluster(**number).iter().any(|byte| *byte != 0)).count() as u64;
        // One of them may be an L2 table.
        known.left += data.saturating_sub(1);
        known
    }

    /// All of it. Answers how many bytes were fetched.
    pub async fn live(&self) -> u64 {
        let _repository = scene::repository(&self.world).await;
        let pond = scene::open(&self.world).await.unwrap();
        self.find(&pond).await;
        let vms = join_all(VMS.iter().enumerate().map(|(number, vm)| self.run_vm(&pond, vm, number)));
        join(self.faults(), vms).await;
        if self.plan.mode == Mode::Complete {
            self.completes(&pond).await;
        }
        let fetched = info(&pond).fetched;
        if self.plan.mode == Mode::Complete {
            self.pivot(&pond).await;
        }
        pond.close().await.unwrap();
        fetched
    }

    /// What was answered in an earlier life is there.
    async fn find(&self, pond: &Pond) {
        pond.counted().await;
        let known = self.known.borrow();
        let (images, clones) = (pond.images(), pond.clones());
        assert!(images.len() <= 1, "{images:?}");
        for image in &images {
            assert!(image.state.is_some(), "the image cannot be opened: {:?}", image.trouble);
            assert!(!known.complete || image.state == Some(State::Complete), "{images:?}");
            // The last granule is short.
            let here = (known.left * GRANULE).saturating_sub(GRANULE - SIZE % GRANULE);
            assert!((here..=SIZE).contains(&image.done), "{image:?}, and {here} bytes are here");
        }
        for vm in &known.cloned {
            let clone = clones.iter().find(|clone| clone.overlay == scene::overlay(vm));
            let clone = clone.unwrap_or_else(|| panic!("clone '{vm}' is not there: {clones:?}"));
            assert!(clone.pivoted || !known.pivoted.contains(vm), "{clone:?}");
        }
    }

    /// A VM boots, reads here and there and shuts down; its disk is made if it is not there yet.
    async fn run_vm(&self, pond: &Arc<Pond>, vm: &'static str, number: usize) {
        let mut rng = Rng::new(self.plan.seed ^ (number as u64 + 1) << 32);
        io::sleep(Duration::from_millis(rng.below(1500) * number as u64)).await;
        self.clone(pond, vm).await;
        self.known.borrow_mut().cloned.push(vm);
        let disk = Vm::start(&self.world, vm).await;
        for _ in 0..self.plan.reads {
            io::sleep(Duration::from_millis(rng.below(200))).await;
            let start = rng.below(SIZE / 512) * 512;
            let range =
                ByteRange::new(start, 512 * (1 + rng.below(200))).intersection(ByteRange::new(0, SIZE));
            disk.check(range, &self.master.bytes).await;
        }
        disk.check_all(&self.master.bytes).await;
        disk.stop().await;
    }

    /// Makes its disk if it is not there yet. What the network let fail has left nothing behind.
    async fn clone(&self, pond: &Arc<Pond>, vm: &str) {
        let mut failed = Vec::new();
        while !pond.clones().iter().any(|clone| clone.overlay == scene::overlay(vm)) {
            if let Err(error) = pond.create_clone(&scene::request(vm, self.plan.mode)).await {
                assert!(
                    !self.plan.faults.is_empty() && failed.len() < 100,
                    "clone '{vm}': {error}, {failed:?}"
                );
                failed.push(error.to_string());
                io::sleep(Duration::from_millis(100)).await;
            }
        }
    }

    async fn faults(&self) {
        let (net, far) = (self.world.net(), scene::far());
        for (pause, fault, span) in &self.plan.faults {
            io::sleep(*pause).await;
            match fault {
                0 => {
                    net.cut_all(&far);
                }
                1 => net.stall(&far, *span),
                _ => {
                    net.refuse(&far, true);
                    net.cut_all(&far);
                    io::sleep(*span).await;
                    net.refuse(&far, false);
                }
            }
        }
    }

    async fn completes(&self, pond: &Pond) {
        for _ in 0..3000 {
            if info(pond).state == Some(State::Complete) {
                self.known.borrow_mut().complete = true;
                // The cut is durable when it is reported.
                let file = self.world.disk().durable_bytes(info(pond).cache).unwrap();
                let report = cache_file::check(&file, &self.master.bytes).unwrap();
                assert!(!report.linked, "complete, and its header names the source");
                return;
            }
            io::sleep(Duration::from_millis(20)).await;
        }
        panic!("it does not become complete: {:?}", pond.images());
    }

    /// The clones need the pond no more.
    async fn pivot(&self, pond: &Arc<Pond>) {
        for vm in VMS {
            pond.pivot_clone(&scene::overlay(vm))
                .await
                .unwrap_or_else(|error| panic!("pivot of '{vm}': {error}"));
            self.known.borrow_mut().pivoted.push(vm);
        }
    }

    /// With no pond and no repository, the VMs read what they shall.
    pub async fn alone(&self) {
        for vm in VMS {
            let disk = Vm::start(&self.world, vm).await;
            disk.check_all(&self.master.bytes).await;
            disk.stop().await;
        }
    }
}

/// The one image.
pub fn info(pond: &Pond) -> ImageInfo {
    pond.images().remove(0)
}
