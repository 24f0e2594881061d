//! What is done to an image and its bitmaps until the power goes.

use std::cell::RefCell;

use block::ByteRange;
use flow::{BitmapChange, seam};
use qcow2::{Header, NewImage};
use serde_json::{Value, json};
use sim::campaign::{Look, Scenario, rng_of};
use sim::{Counts, CrashPoint, Options, Rng, SimDisk, SimWorld};

use crate::lab::{Lab, qcow2 as images};
use crate::left;
use crate::model::{Model, SECTOR};
use crate::work::{Fate, Worker};

/// Bytes of the disks.
const SIZE: u64 = 192 << 10;
pub const SECTORS: u64 = SIZE / SECTOR;

/// A kind of image.
pub struct Row {
    name: &'static str,
    image: Vec<u8>,
    options: Value,
    /// How often the disk fails to write, to flush, and (once it is open) to read.
    errors: Errors,
    /// Whether the disk grows and shrinks.
    resizes: bool,
}

#[derive(Clone, Copy)]
pub struct Errors {
    write: f64,
    flush: f64,
    read: f64,
}

const NONE: Errors = Errors { write: 0.0, flush: 0.0, read: 0.0 };
/// Where a flush has failed nobody knows what is on disk, and the image is not opened again.
const FAILING: Errors = Errors { write: 0.01, flush: 0.005, read: 0.0 };
const REFUSING: Errors = Errors { write: 0.02, flush: 0.0, read: 0.02 };

impl Errors {
    /// Whether anything may fail, and whether the image is opened again then.
    fn fate(self) -> Fate {
        match self {
            Self { write: 0.0, .. } => Fate::Well,
            Self { flush: 0.0, .. } => Fate::Again,
            _ => Fate::Fails,
        }
    }
}

pub fn all() -> Vec<Row> {
    let of = |name, bits, options| {
        let image = images::file_of(&NewImage::new(SIZE, bits));
        Row { name, image, options, errors: NONE, resizes: false }
    };
    let given_back = json!({"pass-discard-other": true});
    vec![
        of("bitmaps in clusters of 4 KiB", 12, json!({})),
        of("bitmaps in tiny clusters", 9, images::tiny()),
        of("bitmaps in clusters that are given back", 10, given_back.clone()),
        of("bitmaps in large clusters", 16, json!({})),
        Row { resizes: true, ..of("bitmaps of a disk that grows and shrinks", 12, json!({})) },
        Row { resizes: true, ..of("tiny bitmaps of a disk that grows and shrinks", 9, given_back.clone()) },
        Row { errors: FAILING, ..of("bitmaps on a disk that fails", 12, json!({})) },
        Row { errors: FAILING, ..of("bitmaps in tiny clusters on a disk that fails", 9, images::tiny()) },
        Row { errors: REFUSING, ..of("bitmaps on a disk that refuses", 12, json!({})) },
        Row { errors: REFUSING, ..of("bitmaps in tiny clusters on a disk that refuses", 9, given_back) },
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
        let mut options = Options::default();
        (options.disk.write_errors, options.disk.flush_errors) = (self.errors.write, self.errors.flush);
        let world = SimWorld::with_disk(seed, options, disk);
        let model = RefCell::new(Model::of(SECTORS));
        let work = async {
            let lab = Lab::new(&world);
            let worker = Worker {
                lab: &lab,
                options: &self.options,
                model: &model,
                rng: Rng::new(seed),
                fate: self.errors.fate(),
                read_errors: self.errors.read,
                resizes: self.resizes,
                tree: None,
            };
            worker.work().await;
        };
        match point {
            None => world.run(work),
            Some(point) => assert!(world.run_until_crash(point, work).is_none(), "{point:?} was not reached"),
        }
        (world, model.into_inner())
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
        seam::read(&view, ByteRange::new(0, view.size())).await.unwrap().to_vec()
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
