//! The power goes while a broken image is repaired, by a check or because it is opened and marked dirty. What is left
//! is no worse than it was, reads the same, and can be repaired; when it is said to be mended, it is, durably.

use flow::{Repair, Role};
use qcow2::check;
use serde_json::json;
use sim::campaign::{Look, Scenario, rng_of};
use sim::{Counts, CrashPoint, Options, Rng, SimDisk, SimWorld};

use crate::checking::{self, Outcome};
use crate::lab::reader;
use crate::lab::{Lab, qcow2 as images};
use crate::row::header_of;
use crate::table::{filled, fresh};

/// Clusters of a fresh image that hold its own tables.
const TABLES: usize = 4;

/// A broken image whose data is all there.
pub struct Mended {
    name: &'static str,
    image: Vec<u8>,
    /// It is marked dirty, and opened for writing; else it is checked.
    is_opened: bool,
}

/// All of them. Their names are theirs alone among all tables of the project.
pub fn all() -> Vec<Mended> {
    let of = |name, image| Mended { name, image, is_opened: false };
    let shared = |bits| images::with_snapshot(filled(&fresh(bits)));
    let uncounted = |bits| without_counts(filled(&fresh(bits)));
    vec![
        of("a repair of counts in place", uncounted(9)),
        of("a repair with a snapshot", without_counts(shared(10))),
        of("a repair with a new snapshot table", without_disk_sizes(shared(10))),
        of("a repair of counts with a new snapshot table", without_counts(without_disk_sizes(shared(9)))),
        of("a repair of leaks", images::crowded(&fresh(9))),
        of("a repair that makes refcounts anew", without_blocks(filled(&fresh(9)))),
        of("a repair that makes refcounts anew with a snapshot", without_blocks(shared(12))),
        Mended { is_opened: true, ..of("a dirty image is opened", dirty(uncounted(9))) },
        Mended { is_opened: true, ..of("a dirty image without blocks", dirty(without_blocks(shared(9)))) },
    ]
}

/// The offset of the first refcount block, and of the table.
fn refcounts(file: &[u8]) -> (usize, usize) {
    let table = header_of(file).refcount_table.offset.0 as usize;
    (u64::from_be_bytes(file[table..table + 8].try_into().unwrap()) as usize, table)
}

/// The same file; what is behind its first tables is not counted, as lazy refcounts may leave it.
fn without_counts(mut file: Vec<u8>) -> Vec<u8> {
    let (block, cluster) = (refcounts(&file).0, 1 << header_of(&file).cluster_bits);
    file[block + 2 * TABLES..block + cluster].fill(0);
    file
}

/// The same file; its snapshot does not say how large the disk was, which has to be made up for.
fn without_disk_sizes(mut file: Vec<u8>) -> Vec<u8> {
    let at = header_of(&file).snapshots.offset.0 as usize;
    let number = |at: usize, len| file[at..at + len].iter().fold(0, |n, byte| n << 8 | usize::from(*byte));
    let (extra, names) = (at + 40 + number(at + 36, 4), number(at + 12, 2) + number(at + 14, 2));
    file.copy_within(extra..extra + names, at + 40);
    file[at + 36..at + 40].fill(0);
    file
}

/// The same file; its refcount table points to nowhere.
fn without_blocks(mut file: Vec<u8>) -> Vec<u8> {
    let table = refcounts(&file).1;
    file[table..table + 8].copy_from_slice(&(1u64 << 40).to_be_bytes());
    file
}

fn dirty(mut file: Vec<u8>) -> Vec<u8> {
    file[79] |= 1;
    file
}

impl Scenario for Mended {
    fn name(&self) -> &'static str {
        self.name
    }

    fn whole(&self, seed: u64) -> Result<Counts, String> {
        let world = self.world(seed);
        world.run(self.work(&world));
        // It is mended also where the power goes now.
        let left = world.disk().crash(&mut Rng::new(seed)).bytes("disk").unwrap();
        let found = checking::check(&mut left.clone(), check::Repair::Nothing).map_err(|e| e.to_string())?;
        let wrong = found.found.corruptions + found.found.leaks + found.found.check_errors;
        if wrong > 0 || header_of(&left).features.dirty() {
            return Err(format!("it is not mended: {:?}", found.lines));
        }
        self.judge(&world.disk())?;
        Ok(world.disk().counts())
    }

    fn cut(&self, seed: u64, point: CrashPoint, look: Look) -> Result<(), String> {
        let world = self.world(seed);
        assert!(world.run_until_crash(point, self.work(&world)).is_none(), "{point:?} was not reached");
        let mut rng = rng_of(seed, point);
        for _ in 0..2 {
            let left = world.disk().crash(&mut rng);
            self.judge(&left)?;
            if look.go_on {
                let again = SimWorld::with_disk(seed, Options::default(), left);
                again.run(self.work(&again));
                self.judge(&again.disk()).map_err(|wrong| format!("repaired again: {wrong}"))?;
            }
        }
        Ok(())
    }
}

impl Mended {
    fn world(&self, seed: u64) -> SimWorld {
        let disk = SimDisk::new();
        disk.put("disk", &self.image);
        SimWorld::with_disk(seed, Options::default(), disk)
    }

    async fn work(&self, world: &SimWorld) {
        let lab = Lab::new(world);
        if self.is_opened {
            lab.open_qcow2("disk", json!({}), None).await;
            return;
        }
        let (file, _) = lab.file("disk").await;
        let tree = lab.open("qcow2", json!({"check-only": true}), &[(Role::File, &file)]).await;
        let view = tree.view();
        let check = view.root().powers().check.unwrap();
        let report = check.check(Repair::All, &mut |_| (), view.next()).await.unwrap();
        assert_eq!(report.leaks + report.corruptions + report.errors, 0, "{report:?}");
    }

    /// What is wrong with what is left.
    fn judge(&self, disk: &SimDisk) -> Result<(), String> {
        let left = disk.bytes("disk").unwrap();
        let found = checking::check(&mut left.clone(), check::Repair::Nothing);
        let found = found.map_err(|error| format!("it cannot be checked any more: {error}"))?;
        let before = checking::check(&mut self.image.clone(), check::Repair::Nothing).unwrap();
        let (now, before) = (harm(&found), harm(&before));
        if now > before {
            return Err(format!("{before} wrong before, now {now}: {:#?}", found.lines));
        }
        if self.is_opened && !header_of(&left).features.dirty() && now > 0 {
            return Err(format!("it is not marked dirty any more: {:#?}", found.lines));
        }
        if reader::read(disk)? != reader::read(&self.world(0).disk())? {
            return Err("it reads otherwise".to_owned());
        }
        let mended = checking::check(&mut left.clone(), check::Repair::All);
        let mended = mended.map_err(|error| format!("it cannot be repaired any more: {error}"))?.found;
        match mended.corruptions + mended.leaks + mended.check_errors {
            0 => Ok(()),
            left => Err(format!("a repair leaves {left} wrong")),
        }
    }
}

/// How many lines tell of more than a leak, a flag that says otherwise than a count, or a count that cannot be read.
fn harm(outcome: &Outcome) -> usize {
    let harmless = ["OFLAG_COPIED", "Can't get refcount", "Leaked"];
    outcome.all.iter().filter(|line| !harmless.iter().any(|word| line.contains(word))).count()
}
