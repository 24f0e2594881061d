//! A row of the table: images, a verb, and what must be true of them while it works and when it has ended.

use sim::campaign::{Look, Scenario, rng_of};
use sim::{Counts, CrashPoint, Options, Rng, SimDisk, SimWorld};

use crate::host::{self, Command};

/// The image that the verb is about; others are `base`, and `other` and `data` where they are.
pub const TOP: &str = "top.qcow2";

/// A verb at work.
pub struct Row {
    pub name: &'static str,
    pub command: fn() -> Command,
    /// Images and what they hold, from the seed.
    pub disk: fn(&mut Rng) -> SimDisk,
    /// The qcow2 images among them.
    pub images: &'static [&'static str],
    /// What must be true of the disk when the verb has ended; `before` is what [`TOP`] read as.
    pub after: fn(disk: SimDisk, before: &[u8]) -> Result<(), String>,
    /// Sizes that [`TOP`] may come to have, its first one apart: it then reads the same as far as it goes, and zeros.
    pub sizes: &'static [u64],
    /// What it may say, and fail, when it is called again and there is nothing left to do; empty: it never fails.
    pub is_done: &'static str,
    /// How often the disk fails: then it may fail, too.
    pub errors: f64,
}

impl Scenario for Row {
    fn name(&self) -> &'static str {
        self.name
    }

    fn whole(&self, seed: u64) -> Result<Counts, String> {
        let (disk, before) = self.start(seed);
        let world = self.world(seed, disk);
        let ended = self.end_well(&world);
        let counts = world.disk().counts();
        self.look_at(seed, world.disk(), &before)?;
        if self.errors > 0.0 && ended.is_err() {
            return Ok(counts);
        }
        ended?;
        (self.after)(world.disk(), &before)?;
        Ok(counts)
    }

    fn cut(&self, seed: u64, point: CrashPoint, look: Look) -> Result<(), String> {
        let (disk, before) = self.start(seed);
        let world = self.world(seed, disk);
        let ended = world.run_until_crash(point, async { (self.command)().run(&world).await });
        assert!(ended.is_none(), "{point:?} was not reached");
        let mut rng = rng_of(seed, point);
        for _ in 0..2 {
            let left = world.disk().crash(&mut rng);
            let left = self.look_at(seed, left, &before)?;
            if look.ask_peer {
                self.ask_qemu(&left)?;
            }
            if look.go_on {
                let again = SimWorld::with_disk(seed, Options::default(), left);
                self.end_well(&again).map_err(|wrong| format!("called again: {wrong}"))?;
                self.look_at(seed, again.disk(), &before)
                    .map_err(|wrong| format!("called again: {wrong}"))?;
                (self.after)(again.disk(), &before).map_err(|wrong| format!("called again: {wrong}"))?;
            }
        }
        Ok(())
    }
}

impl Row {
    /// The images before the verb, all durable, and what the one that it is about reads as.
    fn start(&self, seed: u64) -> (SimDisk, Vec<u8>) {
        let disk = (self.disk)(&mut Rng::new(seed));
        let world = SimWorld::with_disk(seed, Options::calm(), disk);
        let before = world.run(host::read(&world, TOP, "qcow2")).unwrap();
        (world.disk().crash(&mut Rng::new(seed)), before)
    }

    fn world(&self, seed: u64, disk: SimDisk) -> SimWorld {
        let mut options = Options::default();
        (options.disk.write_errors, options.disk.flush_errors) = (self.errors / 4.0, self.errors);
        SimWorld::with_disk(seed, options, disk)
    }

    fn end_well(&self, world: &SimWorld) -> Result<(), String> {
        match world.run(async { (self.command)().run(world).await }) {
            (0, _) => Ok(()),
            (_, said) if !self.is_done.is_empty() && said == self.is_done => Ok(()),
            (status, said) => Err(format!("exit status {status}: {said}")),
        }
    }

    /// Looks at what is on a disk; answers it as it is.
    fn look_at(&self, seed: u64, disk: SimDisk, before: &[u8]) -> Result<SimDisk, String> {
        let world = SimWorld::with_disk(seed, Options::calm(), disk);
        world.run(async {
            for image in self.images {
                host::check(&world, image).await?;
            }
            let found = host::read(&world, TOP, "qcow2").await?;
            let mut wanted = before.to_vec();
            if found.len() != before.len() {
                if !self.sizes.contains(&(found.len() as u64)) {
                    return Err(format!("it is {} bytes long", found.len()));
                }
                wanted.resize(found.len(), 0);
            }
            match found.iter().zip(&wanted).position(|(found, wanted)| found != wanted) {
                Some(at) => Err(format!("byte {at} is {:#x}, and was {:#x}", found[at], wanted[at])),
                None => Ok(()),
            }
        })?;
        Ok(world.disk())
    }

    /// Nothing worse than leaks, says QEMU.
    fn ask_qemu(&self, disk: &SimDisk) -> Result<(), String> {
        let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        for name in ["base", "other", "data", TOP] {
            if let Some(bytes) = disk.bytes(name) {
                std::fs::write(folder.path().join(name), bytes).unwrap();
            }
        }
        for image in self.images {
            let mut check = std::process::Command::new("qemu-img");
            check.args(["check", "-q", "-f", "qcow2", image]).current_dir(folder.path());
            let Ok(output) = check.output() else { return Ok(()) };
            if !matches!(output.status.code(), Some(0 | 3)) {
                let said = String::from_utf8_lossy(&output.stderr).into_owned();
                return Err(format!("qemu-img check of {image}: {:?}: {said}", output.status.code()));
            }
        }
        Ok(())
    }
}
