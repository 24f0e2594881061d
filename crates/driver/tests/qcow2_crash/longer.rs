//! A disk that gets so long that its L1 table takes more clusters than a refcount block counts.

use std::cell::Cell;

use block::ByteRange;
use flow::seam;
use qcow2::NewImage;
use sim::campaign::{Look, Scenario, rng_of};
use sim::{Counts, CrashPoint, Options, SimDisk, SimWorld};

use crate::lab::{Lab, qcow2 as images};
use crate::row::{ask_qemu, header_of, nothing_but_leaks};
use crate::stage::flush;

/// Clusters of 512 bytes, of which a block counts 64: as many of the L1 table map 128 MiB.
const BITS: u32 = 9;
const SHORT: u64 = 64 << 10;
const LONG: u64 = 300 << 20;

/// The scenario.
pub struct Longer;

/// How far the work has come: what must be there.
#[derive(Default)]
struct Done {
    written: Cell<bool>,
    longer: Cell<bool>,
    end_written: Cell<bool>,
}

impl Longer {
    fn run(seed: u64, point: Option<CrashPoint>) -> (SimWorld, Done) {
        let disk = SimDisk::new();
        disk.put("disk", &images::file_of(&NewImage { refcount_bits: 64, ..NewImage::new(SHORT, BITS) }));
        let world = SimWorld::with_disk(seed, Options::default(), disk);
        let done = Done::default();
        let work = async {
            let view = Lab::new(&world).open_qcow2("disk", serde_json::json!({}), None).await.view();
            seam::write(&view, 0, &[1; 4096]).await.unwrap();
            flush(&view).await;
            done.written.set(true);
            seam::resize(&view, LONG).await.unwrap();
            done.longer.set(true);
            seam::write(&view, LONG - 4096, &[2; 4096]).await.unwrap();
            flush(&view).await;
            done.end_written.set(true);
        };
        match point {
            None => world.run(work),
            Some(point) => assert!(world.run_until_crash(point, work).is_none(), "{point:?} was not reached"),
        }
        (world, done)
    }

    fn check(disk: &SimDisk, done: &Done, seed: u64) -> Result<(), String> {
        let file = disk.bytes("disk").unwrap();
        nothing_but_leaks(&file)?;
        let size = header_of(&file).virtual_size;
        if size != LONG && (size != SHORT || done.longer.get()) {
            return Err(format!("it is {size} bytes long"));
        }
        let world = SimWorld::with_disk(seed, Options::calm(), disk.clone());
        world.run(async {
            let view = Lab::new(&world).open_qcow2("disk", serde_json::json!({}), None).await.view();
            let holds = async |start, byte, surely: bool| {
                let found = seam::read(&view, ByteRange::new(start, 4096)).await.unwrap();
                let is_right = |found: &u8| *found == byte || !surely && *found == 0;
                found.iter().all(is_right).then_some(()).ok_or(format!("at {start} is something else"))
            };
            holds(0, 1, done.written.get()).await?;
            if size == LONG {
                holds(LONG - 4096, 2, done.end_written.get()).await?;
            }
            Ok(())
        })
    }
}

impl Scenario for Longer {
    fn name(&self) -> &'static str {
        "an L1 table that is longer than a refcount block counts"
    }

    fn whole(&self, seed: u64) -> Result<Counts, String> {
        let (world, done) = Self::run(seed, None);
        // Looking at the disk counts anew.
        let counts = world.disk().counts();
        Self::check(&world.disk(), &done, seed).map(|()| counts)
    }

    fn cut(&self, seed: u64, point: CrashPoint, look: Look) -> Result<(), String> {
        let (world, done) = Self::run(seed, Some(point));
        let left = world.disk().crash(&mut rng_of(seed, point));
        Self::check(&left, &done, seed)?;
        if look.ask_peer { ask_qemu(&left) } else { Ok(()) }
    }
}
