//! What is done to an image and its bitmaps until the power goes.

use std::cell::RefCell;
use std::ops::Range;

use block::ByteRange;
use flow::{BitmapChange, Flags, Op, Request, View, seam};
use futures_util::future::{join, join_all};
use io::Lease;
use qcow2::{Header, NewImage};
use serde_json::{Value, json};
use sim::campaign::{Look, Scenario, rng_of};
use sim::{Counts, CrashPoint, Options, Rng, SimDisk, SimWorld};

use crate::lab::{Lab, Tree, qcow2 as images};
use crate::left;
use crate::model::{Model, SECTOR, Truth};

/// Bytes of the disks.
const SIZE: u64 = 192 << 10;
const SECTORS: u64 = SIZE / SECTOR;
const NAMES: [&str; 3] = ["a", "b", "another"];

/// A kind of image.
pub struct Row {
    name: &'static str,
    image: Vec<u8>,
    options: Value,
}

pub fn all() -> Vec<Row> {
    let of = |name, bits, options| Row { name, image: images::file_of(&NewImage::new(SIZE, bits)), options };
    vec![
        of("bitmaps in clusters of 4 KiB", 12, json!({})),
        of("bitmaps in tiny clusters", 9, images::tiny()),
        of("bitmaps in clusters that are given back", 10, json!({"pass-discard-other": true})),
        of("bitmaps in large clusters", 16, json!({})),
    ]
}

impl Scenario for Row {
    fn name(&self) -> &'static str {
        self.name
    }

    fn whole(&self, seed: u64) -> Result<Counts, String> {
        let (world, model) = self.run(seed, None);
        let disk = world.disk();
        left::check(&disk, &model).map(|()| disk.counts())
    }

    fn cut(&self, seed: u64, point: CrashPoint, look: Look) -> Result<(), String> {
        let (world, model) = self.run(seed, Some(point));
        let mut rng = rng_of(seed, point);
        for _ in 0..2 {
            let disk = world.disk().crash(&mut rng);
            left::check(&disk, &model)?;
            if look.ask_peer {
                left::ask_qemu(&disk)?;
            }
            if look.go_on {
                go_on(seed, disk).map_err(|wrong| format!("gone on: {wrong}"))?;
            }
        }
        Ok(())
    }
}

impl Row {
    /// Works until the power goes at `point`, or to the end.
    fn run(&self, seed: u64, point: Option<CrashPoint>) -> (SimWorld, Model) {
        let disk = SimDisk::new();
        disk.put("disk", &self.image);
        let world = SimWorld::with_disk(seed, Options::default(), disk);
        let model = RefCell::new(Model::default());
        let work = async {
            let lab = Lab::new(&world);
            let tree = lab.open_qcow2("disk", self.options.clone(), None).await;
            work(&tree, &model, seed).await;
        };
        match point {
            None => world.run(work),
            Some(point) => assert!(world.run_until_crash(point, work).is_none(), "{point:?} was not reached"),
        }
        (world, model.into_inner())
    }
}

async fn work(tree: &Tree, model: &RefCell<Model>, seed: u64) {
    let mut rng = Rng::new(seed);
    for round in 0..6 {
        for _ in 0..1 + rng.below(3) {
            act(&tree.view(), model, &mut rng).await;
        }
        // A view of each round: what is recorded is seen when it is built.
        let view = tree.view();
        let rests = rng.chance(0.4);
        let resting = async {
            if rests {
                rest(&view, model).await;
            }
        };
        let clients = (0..3).map(|number| Client { view: &view, model, rng: rng.fork(), number, round });
        let clients = join_all(clients.map(Client::work));
        join(clients, resting).await;
        if rng.chance(0.6) {
            rest(&view, model).await;
        }
    }
    rest(&tree.view(), model).await;
}

async fn rest(view: &View, model: &RefCell<Model>) {
    model.borrow_mut().begin_rest();
    seam::rest(view).await.unwrap();
    model.borrow_mut().end_rest();
}

/// Something is done with a bitmap while nobody writes.
async fn act(view: &View, model: &RefCell<Model>, rng: &mut Rng) {
    let name = NAMES[rng.index(NAMES.len())];
    let change = |change| async move {
        view.root().powers().bitmaps.unwrap().change(name, change, view.next()).await.unwrap();
    };
    if !model.borrow().bitmaps.contains_key(name) {
        let (granularity, recording) = (512 << rng.below(4), rng.chance(0.7));
        change(BitmapChange::Add { granularity, recording, persistent: true }).await;
        model.borrow_mut().add(name, granularity, recording);
        return;
    }
    match rng.below(6) {
        0 => {
            model.borrow_mut().bitmaps.get_mut(name).unwrap().goes = true;
            change(BitmapChange::Remove).await;
            model.borrow_mut().remove(name);
        }
        1 => {
            change(BitmapChange::Clear).await;
            model
                .borrow_mut()
                .changed(name, |truth| *truth = Truth { recording: truth.recording, ..Truth::default() });
        }
        2 => merge(view, model, rng, name).await,
        _ => {
            let recording = rng.chance(0.6);
            change(BitmapChange::Record(recording)).await;
            model.borrow_mut().changed(name, |truth| truth.recording = recording);
        }
    }
}

async fn merge(view: &View, model: &RefCell<Model>, rng: &mut Rng, name: &str) {
    let other = NAMES[rng.index(NAMES.len())];
    let Some(source) = model.borrow().bitmaps.get(other).cloned() else { return };
    let power = view.root().powers().bitmaps.unwrap();
    let content = power.content(other, view.next()).await.unwrap();
    power.change(name, BitmapChange::Merge(content.clone()), view.next()).await.unwrap();
    assert!(source.now.must.iter().all(|sector| content.is_dirty(ByteRange::new(sector * SECTOR, SECTOR))));
    let sectors: Vec<_> =
        content.dirty().flat_map(|run| run.start() / SECTOR..run.end().div_ceil(SECTOR)).collect();
    model.borrow_mut().changed(name, |truth| {
        truth.must.extend(sectors.clone());
        truth.may.extend(sectors);
    });
}

struct Client<'a> {
    view: &'a View,
    model: &'a RefCell<Model>,
    rng: Rng,
    number: u64,
    round: u64,
}

impl Client<'_> {
    async fn work(mut self) {
        for step in 0..self.rng.below(4) {
            // Each has every third stretch of eight sectors for itself.
            let start = self.rng.below(SECTORS / 24) * 24 + self.number * 8 + self.rng.below(8);
            let end = (start + 1 + self.rng.below(8)).min(start.next_multiple_of(8).max(start + 1));
            let number = self.round << 16 | self.number << 8 | step | 1 << 32;
            match self.rng.below(10) {
                0..6 => self.write(start..end, number).await,
                6 => self.change(Op::WriteZeroes, start..end).await,
                7 => self.change(Op::Discard, start..end).await,
                _ => {
                    let flushed = seam::execute(self.view, Request::flush(), Lease::empty()).await.0;
                    flushed.unwrap();
                }
            }
        }
    }

    async fn write(&mut self, sectors: Range<u64>, number: u64) {
        let bytes: Vec<_> = sectors.clone().flat_map(|sector| word(number, sector).repeat(64)).collect();
        let began = self.model.borrow_mut().begin(sectors.clone(), Some(number));
        seam::write(self.view, sectors.start * SECTOR, &bytes).await.unwrap();
        self.model.borrow_mut().end(began, sectors);
    }

    async fn change(&mut self, op: Op, sectors: Range<u64>) {
        let began = self.model.borrow_mut().begin(sectors.clone(), None);
        let range = ByteRange::between(sectors.start * SECTOR, sectors.end * SECTOR);
        let rq = Request::new(op, range).with_flags(Flags::MAY_UNMAP);
        seam::execute(self.view, rq, Lease::empty()).await.0.unwrap();
        self.model.borrow_mut().end(began, sectors);
    }
}

/// What a write of that number leaves in a sector, again and again.
pub fn word(number: u64, sector: u64) -> [u8; 8] {
    (number << 16 | sector).to_be_bytes()
}

/// What the image reads as.
pub fn read(disk: &SimDisk) -> Vec<u8> {
    let copy = SimDisk::new();
    copy.put("disk", &disk.bytes("disk").unwrap());
    let world = SimWorld::with_disk(1, Options::calm(), copy);
    world.run(async {
        let view = Lab::new(&world).open_qcow2("disk", json!({}), None).await.view();
        seam::read(&view, ByteRange::new(0, SIZE)).await.unwrap().to_vec()
    })
}

/// Goes on with what a power loss has left: those that are lost are removed, all is written and stored.
fn go_on(seed: u64, disk: SimDisk) -> Result<(), String> {
    let world = SimWorld::with_disk(seed, Options::default(), disk);
    let expected = world.run(async {
        let tree = Lab::new(&world).open_qcow2("disk", json!({}), None).await;
        let view = tree.view();
        let power = view.root().powers().bitmaps.unwrap();
        let mut kept = Vec::new();
        for bitmap in power.list(view.next()).await.unwrap() {
            if bitmap.inconsistent {
                assert!(power.change(&bitmap.name, BitmapChange::Clear, view.next()).await.is_err());
                power.change(&bitmap.name, BitmapChange::Remove, view.next()).await.unwrap();
            } else {
                kept.push((
                    bitmap.name.clone(),
                    power.content(&bitmap.name, view.next()).await.unwrap(),
                    bitmap.recording,
                ));
            }
        }
        seam::write(&tree.view(), 4096, &[7; 4096]).await.unwrap();
        seam::rest(&tree.view()).await.unwrap();
        for (_, bits, recording) in &mut kept {
            if *recording {
                bits.set(ByteRange::new(4096, 4096));
            }
        }
        kept
    });
    let file = world.disk().crash(&mut Rng::new(seed)).bytes("disk").unwrap();
    let header = Header::parse(&file[..Header::needed(&file).unwrap()]).unwrap();
    let found = left::directory(&file, &header)?;
    if found.len() != expected.len() {
        return Err(format!("{} bitmaps instead of {}", found.len(), expected.len()));
    }
    for (entry, (name, bits, recording)) in found.iter().zip(&expected) {
        let same = entry.name == name.as_bytes() && entry.is_auto() == *recording && !entry.is_in_use();
        if !same || left::bits(&file, &header, entry)? != *bits {
            return Err(format!("bitmap {name} is not what it was: {entry:?}"));
        }
    }
    Ok(())
}
