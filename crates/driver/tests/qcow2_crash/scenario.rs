//! What is done to an image until the power goes, and what must be true then.

use std::cell::RefCell;
use std::ops::Range;

use block::ByteRange;
use flow::{Flags, Op, Request, Role, View, seam};
use futures_util::future::join_all;
use io::Lease;
use qcow2::{Header, NewImage};
use serde_json::{Value, json};
use sim::{CrashPoint, Options, Rng, SimDisk, SimWorld};

use crate::lab::{Lab, Tree, qcow2 as images};
use crate::model::{Kind, Model, SECTOR, bytes_of};
use crate::reader;

/// Bytes of the disks.
pub const SIZE: u64 = 192 << 10;
const SECTORS: u64 = SIZE / SECTOR as u64;

/// A kind of image and of work.
pub struct Scenario {
    pub name: &'static str,
    pub work: Work,
    /// The file of the image, and options of its node.
    pub image: Vec<u8>,
    pub options: Value,
    /// The bytes of its backing image; empty: it has none.
    pub base: Vec<u8>,
    /// Its data file, if it has one.
    pub data: Option<Vec<u8>>,
    /// How often the disk fails.
    pub errors: f64,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Work {
    /// Writes, zeroing, discards and flushes of several clients.
    Scribble,
    /// The same, half of the writes being compressed ones.
    Compress,
    /// Reads and fetches through copy-on-read until all is there; then the source is forgotten.
    Fill,
}

/// An autoclear bit that nobody knows.
pub const UNKNOWN_AUTOCLEAR: u64 = 1 << 40;

/// All scenarios.
pub fn all() -> Vec<Scenario> {
    let mut all = usual();
    all.extend(unusual());
    all
}

/// Work on an image without backing image.
fn scribble(name: &'static str, image: Vec<u8>, options: Value) -> Scenario {
    let (base, data, errors) = (vec![], None, 0.0);
    Scenario { name, work: Work::Scribble, image, options, base, data, errors }
}

/// The same over a backing image.
fn overlay(name: &'static str, image: Vec<u8>, options: Value) -> Scenario {
    Scenario { base: crate::lab::oracle::initial(SIZE), ..scribble(name, image, options) }
}

fn fresh(bits: u32) -> NewImage {
    NewImage::new(SIZE, bits)
}

fn file(bits: u32) -> Vec<u8> {
    images::file_of(&fresh(bits))
}

fn over(bits: u32) -> Vec<u8> {
    images::file_of(&fresh(bits).over("base", "raw"))
}

fn plain() -> Value {
    json!({})
}

fn usual() -> Vec<Scenario> {
    let short = crate::lab::oracle::initial(SIZE / 3);
    vec![
        scribble("tiny clusters", file(9), plain()),
        scribble("tiny clusters and caches", file(9), images::tiny()),
        overlay("an overlay", over(12), plain()),
        Scenario { base: short, ..scribble("an overlay of a short image", over(11), images::tiny()) },
        overlay("large clusters", over(16), plain()),
        scribble("an old image with an autoclear bit", marked(filled(&fresh(12))), plain()),
        scribble("a refcount table that is full", images::crowded(&fresh(9)), plain()),
        Scenario { work: Work::Fill, ..overlay("a cache", over(12), plain()) },
        Scenario { errors: 0.02, ..overlay("a disk that fails", over(11), plain()) },
    ]
}

/// Images that have what few have.
fn unusual() -> Vec<Scenario> {
    let shared = |bits| images::with_snapshot(filled(&fresh(bits)));
    let shared_v2 = images::with_snapshot(images::version_2(filled(&fresh(12))));
    let apart = |name, raw| Scenario {
        data: Some(vec![]),
        ..scribble(name, images::with_data_file(&fresh(12), raw), plain())
    };
    vec![
        scribble("version 2", images::version_2(images::crowded(&fresh(9))), plain()),
        overlay("an overlay of version 2", images::version_2(over(12)), plain()),
        scribble("a snapshot", shared(12), plain()),
        scribble("a snapshot and tiny clusters", shared(9), images::tiny()),
        scribble("a snapshot of version 2", shared_v2, plain()),
        scribble("subclusters", images::with_subclusters(file(14)), plain()),
        overlay("an overlay with subclusters", images::with_subclusters(over(14)), images::tiny()),
        Scenario { work: Work::Compress, ..scribble("compressed writes", file(9), plain()) },
        Scenario {
            work: Work::Compress,
            ..scribble("compressed writes and a snapshot", shared(9), json!({"pass-discard-other": true}))
        },
        scribble("discards that keep their clusters", file(12), json!({"discard-no-unref": true})),
        scribble("all that is dropped leaves the file", shared(11), json!({"pass-discard-other": true})),
        apart("a data file", false),
        apart("a raw data file", true),
        Scenario { errors: 0.02, ..scribble("a disk that fails with a snapshot", shared(11), plain()) },
    ]
}

/// An image that holds data, written by us.
fn filled(image: &NewImage) -> Vec<u8> {
    let world = SimWorld::new(7, Options::calm());
    world.run(async {
        let view = Lab::new(&world).qcow2("disk", image, json!({}), None).await.view();
        seam::write(&view, 0, &crate::lab::oracle::initial(SIZE / 2)).await.unwrap();
        flush(&view).await;
    });
    world.disk().bytes("disk").unwrap()
}

/// The same with an autoclear bit that nobody knows.
fn marked(mut bytes: Vec<u8>) -> Vec<u8> {
    bytes[88..96].copy_from_slice(&UNKNOWN_AUTOCLEAR.to_be_bytes());
    bytes
}

impl Scenario {
    /// A disk with the image on it.
    pub fn disk(&self) -> SimDisk {
        let disk = SimDisk::new();
        disk.put("disk", &self.image);
        disk.put("base", &self.base);
        if let Some(data) = &self.data {
            disk.put("data", data);
        }
        disk
    }

    /// What the image reads as at first.
    pub fn first(&self) -> Vec<u8> {
        reader::read(&self.disk()).unwrap()
    }

    /// Works until the power goes at `point`, or to the end.
    pub fn run(&self, seed: u64, point: Option<CrashPoint>) -> (SimWorld, Model) {
        let mut options = Options::default();
        (options.disk.write_errors, options.disk.flush_errors) = (self.errors, self.errors);
        let world = SimWorld::with_disk(seed, options, self.disk());
        let model = RefCell::new(Model::new(self.first(), self.errors > 0.0));
        let work = async {
            let lab = Lab::new(&world);
            let tree = self.open(&lab).await;
            match self.work {
                Work::Scribble | Work::Compress => {
                    let (fails, compress) = (self.errors > 0.0, self.work == Work::Compress);
                    work_on(&tree.view(), &model, seed, fails, compress).await;
                }
                Work::Fill => fill(&lab, &tree, &model, seed).await,
            }
        };
        match point {
            None => world.run(work),
            Some(point) => assert!(world.run_until_crash(point, work).is_none(), "{point:?} was not reached"),
        }
        (world, model.into_inner())
    }

    pub async fn open(&self, lab: &Lab) -> Tree {
        let (base, _) = lab.file("base").await;
        let backing = (!self.base.is_empty()).then_some(&base);
        lab.open_qcow2("disk", self.options.clone(), backing).await
    }

    /// What is wrong with the image that a power loss has left.
    pub fn check(&self, model: &Model, disk: &SimDisk) -> Result<(), String> {
        let file = disk.bytes("disk").unwrap();
        images::check(&file)?;
        let bytes = reader::read(disk)?;
        model.check_after_crash(&bytes)?;
        let header = Header::parse(&file[..Header::needed(&file).unwrap()]).unwrap();
        let raw = header.data_file.as_ref().is_some_and(|data| data.raw);
        if raw {
            // It reads as the disk by itself; before it has been written to it may be shorter.
            let mut data = disk.bytes("data").unwrap();
            data.resize(data.len().max(bytes.len()), 0);
            model.check_after_crash(&data)?;
        }
        if header.features.autoclear & !header.features.kept_autoclear() != 0 && model.has_changed(&bytes) {
            return Err(format!("the autoclear bits {:#x} are set", header.features.autoclear));
        }
        self.check_snapshot(&file)
    }

    /// An internal snapshot is what it was.
    fn check_snapshot(&self, file: &[u8]) -> Result<(), String> {
        match reader::snapshot(file)? == reader::snapshot(&self.image)? {
            true => Ok(()),
            false => Err("the snapshot has changed".to_owned()),
        }
    }

    /// Goes on with what a power loss has left: writes all over it, and checks it again.
    pub fn go_on(&self, seed: u64, disk: SimDisk) -> Result<SimDisk, String> {
        let world = SimWorld::with_disk(seed, Options::default(), disk);
        let bytes = bytes_of(1 << 20, 0..SECTORS);
        world.run(async {
            let view = self.open(&Lab::new(&world)).await.view();
            seam::read(&view, ByteRange::new(0, SIZE)).await.unwrap();
            seam::write(&view, 0, &bytes).await.unwrap();
            flush(&view).await;
        });
        let left = world.disk().crash(&mut Rng::new(seed));
        images::check(&left.bytes("disk").unwrap())?;
        self.check_snapshot(&left.bytes("disk").unwrap())?;
        match reader::read(&left)? == bytes {
            true => Ok(left),
            false => Err("what was written after the crash is not there".to_owned()),
        }
    }
}

async fn flush(view: &View) {
    try_flush(view).await.unwrap();
}

async fn try_flush(view: &View) -> block::Result<()> {
    seam::execute(view, Request::flush(), Lease::empty()).await.0
}

/// Several clients: one has the first half for itself, the others take turns of eight sectors in the second half.
async fn work_on(view: &View, model: &RefCell<Model>, seed: u64, fails: bool, compress: bool) {
    let mut rng = Rng::new(seed);
    let clients = (0..4).map(|number| Client { view, model, rng: rng.fork(), number, fails, compress });
    join_all(clients.map(Client::work)).await;
}

struct Client<'a> {
    view: &'a View,
    model: &'a RefCell<Model>,
    rng: Rng,
    number: u64,
    /// Whether the disk may fail.
    fails: bool,
    /// Whether writes may be compressed.
    compress: bool,
}

impl Client<'_> {
    async fn work(mut self) {
        for _ in 0..12 {
            let sectors = self.sectors();
            match self.rng.below(20) {
                0..9 => self.write(sectors).await,
                9..12 => self.change(Op::WriteZeroes, Kind::Zeros, sectors).await,
                12..15 => self.change(Op::Discard, Kind::Discard, sectors).await,
                15..17 => self.read(sectors).await,
                _ => self.flush().await,
            }
        }
    }

    fn sectors(&mut self) -> Range<u64> {
        let half = SECTORS / 2;
        let (from, len) = match self.number {
            0 => (0, half),
            number => {
                let turns = half / 24;
                (half + self.rng.below(turns) * 24 + (number - 1) * 8, 8)
            }
        };
        let start = self.rng.below(len);
        let longest = if self.rng.chance(0.2) { len } else { 12 };
        let count = 1 + self.rng.below(longest.min(len - start));
        from + start..from + start + count
    }

    async fn write(&mut self, sectors: Range<u64>) {
        let number = self.model.borrow_mut().next_write();
        self.model.borrow_mut().begin(sectors.clone(), Kind::Write(number));
        let bytes = bytes_of(number, sectors.clone());
        let at = sectors.start * SECTOR as u64;
        let written = match self.compress && self.rng.chance(0.5) {
            true => seam::write_compressed(self.view, at, Lease::copy_of(&bytes)).await,
            false => seam::write(self.view, at, &bytes).await,
        };
        self.ended(sectors, written);
    }

    fn ended(&self, sectors: Range<u64>, outcome: block::Result<()>) {
        match outcome {
            Ok(()) => self.model.borrow_mut().end(sectors),
            Err(_) if self.fails => self.model.borrow_mut().fail(sectors),
            Err(error) => panic!("{error}"),
        }
    }

    async fn change(&mut self, op: Op, kind: Kind, sectors: Range<u64>) {
        self.model.borrow_mut().begin(sectors.clone(), kind);
        let flags = if self.rng.chance(0.5) { Flags::MAY_UNMAP } else { Flags::NONE };
        let rq = Request::new(op, bytes(&sectors)).with_flags(flags);
        let changed = seam::execute(self.view, rq, Lease::empty()).await.0;
        self.ended(sectors, changed);
    }

    async fn read(&mut self, sectors: Range<u64>) {
        let found = seam::read(self.view, bytes(&sectors)).await.unwrap();
        self.model.borrow().check_now(sectors, &found).unwrap();
    }

    async fn flush(&mut self) {
        let covered = self.model.borrow().begin_flush();
        match try_flush(self.view).await {
            Ok(()) => self.model.borrow_mut().end_flush(&covered),
            Err(_) if self.fails => {}
            Err(error) => panic!("{error}"),
        }
    }
}

fn bytes(sectors: &Range<u64>) -> ByteRange {
    ByteRange::between(sectors.start * SECTOR as u64, sectors.end * SECTOR as u64)
}

/// Fetches all through copy-on-read, flushing now and then; then the image forgets its source.
async fn fill(lab: &Lab, cache: &Tree, model: &RefCell<Model>, seed: u64) {
    let filter = lab.open("copy-on-read", json!({}), &[(Role::Filtered, cache)]).await;
    let view = filter.view();
    let mut rng = Rng::new(seed);
    let clients = (0..3).map(|_| {
        let (view, mut rng) = (&view, rng.fork());
        async move {
            for _ in 0..8 {
                let start = rng.below(SECTORS);
                let sectors = start..(start + 1 + rng.below(60)).min(SECTORS);
                match rng.below(8) {
                    0 => flush(view).await,
                    1..4 => {
                        let rq = Request::new(Op::Cache, bytes(&sectors));
                        seam::execute(view, rq, Lease::empty()).await.0.unwrap();
                    }
                    _ => {
                        let found = seam::read(view, bytes(&sectors)).await.unwrap();
                        model.borrow().check_now(sectors, &found).unwrap();
                    }
                }
            }
        }
    });
    join_all(clients).await;
    let whole = Request::new(Op::Cache, ByteRange::new(0, SIZE));
    seam::execute(&view, whole, Lease::empty()).await.0.unwrap();
    flush(&view).await;
    let below = cache.view();
    below.root().powers().backing.unwrap().set_backing(None, below.next()).await.unwrap();
}
