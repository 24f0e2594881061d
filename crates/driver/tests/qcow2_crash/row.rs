//! A row of the table: an image and what is done to it until the power goes, and what must be true then.

use std::cell::RefCell;
use std::process::Command;

use block::ByteRange;
use flow::seam;
use qcow2::Header;
use qcow2::check::Repair;
use serde_json::Value;
use sim::campaign::{Look, Scenario, rng_of};
use sim::{Counts, CrashPoint, Options, Rng, SimDisk, SimWorld};

use crate::checking;
use crate::lab::reader;
use crate::lab::{Lab, Tree, qcow2 as images};
use crate::model::{Model, SECTOR, bytes_of};
use crate::snapshotting::Kept;
use crate::stage::{Promises, Stage, Work, flush};

/// Bytes of the disks.
pub const SIZE: u64 = 192 << 10;
pub const SECTORS: u64 = SIZE / SECTOR as u64;

/// A kind of image and of work.
pub struct Row {
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

/// Where the work has ended, and what must be true of the image.
struct Ended {
    world: SimWorld,
    model: Model,
    promises: Promises,
}

impl Scenario for Row {
    fn name(&self) -> &'static str {
        self.name
    }

    fn whole(&self, seed: u64) -> Result<Counts, String> {
        let ended = self.run(seed, None);
        let disk = ended.world.disk();
        ended.check(&disk).map(|()| disk.counts())
    }

    fn cut(&self, seed: u64, point: CrashPoint, look: Look) -> Result<(), String> {
        let ended = self.run(seed, Some(point));
        let mut rng = rng_of(seed, point);
        for _ in 0..2 {
            let left = ended.world.disk().crash(&mut rng);
            ended.check(&left)?;
            if look.ask_peer {
                ask_qemu(&left)?;
            }
            if look.go_on {
                let left = self.go_on(seed, left, &ended.promises);
                let left = left.map_err(|wrong| format!("gone on: {wrong}"))?;
                if look.ask_peer {
                    ask_qemu(&left).map_err(|wrong| format!("gone on: {wrong}"))?;
                }
            }
        }
        Ok(())
    }
}

impl Row {
    /// A disk with the image on it.
    fn disk(&self) -> SimDisk {
        let disk = SimDisk::new();
        disk.put("disk", &self.image);
        disk.put("base", &self.base);
        if let Some(data) = &self.data {
            disk.put("data", data);
        }
        disk
    }

    /// Works until the power goes at `point`, or to the end.
    fn run(&self, seed: u64, point: Option<CrashPoint>) -> Ended {
        let mut options = Options::default();
        (options.disk.write_errors, options.disk.flush_errors) = (self.errors, self.errors);
        let world = SimWorld::with_disk(seed, options, self.disk());
        let fails = self.errors > 0.0;
        let mut model = Model::new(reader::read(&self.disk()).unwrap(), fails);
        model.kept = Kept::of(reader::snapshots(&self.disk()).unwrap());
        let (model, promises) = (RefCell::new(model), RefCell::default());
        let work = async {
            let lab = Lab::new(&world);
            let tree = self.open(&lab).await;
            let cluster = 1 << header_of(&self.image).cluster_bits;
            let (lab, tree, model, promises) = (&lab, &tree, &model, &promises);
            let stage = Stage { lab, tree, cluster, seed, model, fails, promises };
            (self.work)(&stage).await;
        };
        match point {
            None => world.run(work),
            Some(point) => assert!(world.run_until_crash(point, work).is_none(), "{point:?} was not reached"),
        }
        Ended { world, model: model.into_inner(), promises: promises.into_inner() }
    }

    async fn open(&self, lab: &Lab) -> Tree {
        let (base, _) = lab.file("base").await;
        let backing = (!self.base.is_empty()).then_some(&base);
        lab.open_qcow2("disk", self.options.clone(), backing).await
    }

    /// Goes on with what a power loss has left: writes all over it, and checks it again.
    fn go_on(&self, seed: u64, disk: SimDisk, promises: &Promises) -> Result<SimDisk, String> {
        let snapshots = reader::snapshots(&disk)?;
        let world = SimWorld::with_disk(seed, Options::default(), disk);
        let bytes = world.run(async {
            let view = self.open(&Lab::new(&world)).await.view();
            let bytes = bytes_of(1 << 20, 0..view.size() / SECTOR as u64);
            seam::read(&view, ByteRange::new(0, view.size())).await.unwrap();
            seam::write(&view, 0, &bytes).await.unwrap();
            flush(&view).await;
            bytes
        });
        let left = world.disk().crash(&mut Rng::new(seed));
        nothing_but_leaks(&left.bytes("disk").unwrap())?;
        promises.values().try_for_each(|promise| promise(&left))?;
        if reader::snapshots(&left)? != snapshots {
            return Err("a snapshot has changed".to_owned());
        }
        match reader::read(&left)? == bytes {
            true => Ok(left),
            false => Err("what was written after the crash is not there".to_owned()),
        }
    }
}

impl Ended {
    /// What is wrong with the image on `disk`, which is what is left.
    fn check(&self, disk: &SimDisk) -> Result<(), String> {
        let file = disk.bytes("disk").unwrap();
        nothing_but_leaks(&file)?;
        let bytes = reader::read(disk)?;
        self.model.check_after_crash(&bytes)?;
        let header = header_of(&file);
        let raw = header.data_file.as_ref().is_some_and(|data| data.raw);
        if raw {
            // It reads as the disk by itself; before it has been written to it may be shorter.
            let mut data = disk.bytes("data").unwrap();
            data.resize(data.len().max(bytes.len()), 0);
            self.model.check_after_crash(&data)?;
        }
        let foreign = header.features.autoclear & !header.features.kept_autoclear();
        if foreign != 0 && self.model.has_changed(&bytes) {
            return Err(format!("the autoclear bits {:#x} are set", header.features.autoclear));
        }
        self.model.check_snapshots(&reader::snapshots(disk)?)?;
        if header.features.lazy_refcounts() && !header.features.dirty() && self.model.has_changed(&bytes) {
            return Err("it is not marked dirty".to_owned());
        }
        self.promises.values().try_for_each(|promise| promise(disk))
    }
}

/// The header of an image that has a sound one.
pub fn header_of(file: &[u8]) -> Header {
    Header::parse(&file[..Header::needed(file).unwrap()]).unwrap()
}

/// Nothing worse than leaks, say a check that knows nothing of the driver, and our own.
pub fn nothing_but_leaks(file: &[u8]) -> Result<(), String> {
    images::check(file)?;
    let ours = checking::check(&mut file.to_vec(), Repair::Nothing).map_err(|error| error.to_string())?;
    match ours.found.corruptions + ours.found.check_errors {
        0 => Ok(()),
        _ => Err(format!("our check: {}", ours.lines.join("; "))),
    }
}

/// Nothing worse than leaks, says QEMU.
pub fn ask_qemu(disk: &SimDisk) -> Result<(), String> {
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    std::fs::write(folder.path().join("base"), [0; 512]).unwrap();
    for (name, path) in [("disk", "disk.qcow2"), ("data", "data")] {
        if let Some(bytes) = disk.bytes(name) {
            std::fs::write(folder.path().join(path), bytes).unwrap();
        }
    }
    let mut check = Command::new("qemu-img");
    check.args(["check", "-q", "-f", "qcow2", "disk.qcow2"]).current_dir(folder.path());
    let Ok(output) = check.output() else {
        sim::skip("driver qcow2_crash, each fortieth image", "qemu-img");
        return Ok(());
    };
    match output.status.code() {
        Some(0 | 3) => Ok(()),
        code => Err(format!(
            "qemu-img check: {code:?}: {}",
            String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
        )),
    }
}
