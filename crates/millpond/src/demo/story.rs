//! The demo itself: what happens, in order.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use block::Result;
use engine::{Engine, EngineOptions};
use io::real::RealWorld;
use serde_json::Value;

use super::args::{Args, Sabotage};
use super::filling::{Figures, Filled};
use super::full_copy::{FullCopy, full_copy};
use super::host::GRANULE;
use super::link::Shape;
use super::live::Live;
use super::machine::Qemu;
use super::process::Process;
use super::reader::{Compared, Kind};
use super::readers::Readers;
use super::report::{Report, Verified};
use super::repository::{self, Shelved};
use super::scratch::Scratch;
use super::source::{Source, study};
use super::{image, sabotage};

/// How long a process may be silent.
pub(super) const SILENCE_MAX: Duration = Duration::from_secs(20);

/// Runs the demo.
pub(super) async fn tell(world: &RealWorld, args: &Args, live: &Live) -> Result<Report> {
    let began = Instant::now();
    let scratch = Scratch::new(args.dir.as_deref())?;
    if args.image.is_none() {
        live.show("making an image from files of this machine");
    }
    let image = image::prepare(args, &scratch).await?;
    let engine =
        Engine::new(Arc::new(world.clone()), EngineOptions { threads: 1, ..EngineOptions::default() })?;
    let source = study(&engine, &image, &scratch, live).await?;
    let kind = match (args.boot, &image.raw) {
        (true, Some(raw)) => Kind::Machine(Qemu::find(raw, &source.reference).await?),
        _ => Kind::Engine(engine.clone()),
    };
    live.say(&headline(args, &kind, &image.description, &source));
    let shape = Shape { round_trip: args.rtt, rate: args.bytes_per_second() };
    let shelved = image.shelved;
    let stage = Stage { world, args, live, engine, kind, source, scratch, shape, shelved };
    let mut repository = stage.start_repository().await?;
    let (full_copy, before) = stage.copy_first(&mut repository).await?;
    let filled = stage.use_and_fill(&mut repository, before).await?;
    let cached = stage.live_without_repository(repository, &filled).await?;
    let Filled { host, readers, figures, .. } = filled;
    let pivoted = stage.live_without_host(host, &readers).await?;
    let verified = Verified { cached, pivoted };
    Ok(stage.report(image.description, full_copy, figures, verified, began.elapsed()))
}

fn headline(args: &Args, kind: &Kind, image: &str, source: &Source) -> String {
    let rate = match args.rate {
        0 => "no limit".to_owned(),
        rate => format!("{} Mbit/s", rate as f64 / 1e6),
    };
    format!(
        "{image}: {} MiB, {} MiB of them data; the link: {} ms, {rate}; {} {}",
        source.size >> 20,
        source.allocated() >> 20,
        args.rtt.as_secs_f64() * 1e3,
        args.readers,
        kind.named()
    )
}

/// What stands while the demo runs. The directory is the last thing to go.
pub(super) struct Stage<'a> {
    pub(super) world: &'a RealWorld,
    pub(super) args: &'a Args,
    pub(super) live: &'a Live,
    pub(super) engine: Arc<Engine>,
    /// What the readers are.
    pub(super) kind: Kind,
    pub(super) source: Source,
    pub(super) shape: Shape,
    pub(super) shelved: Shelved,
    pub(super) scratch: Scratch,
}

impl Stage<'_> {
    pub(super) fn sabotaged(&self, what: Sabotage) -> bool {
        self.args.sabotage == Some(what)
    }

    /// The readers' disks.
    pub(super) fn overlays(&self) -> Vec<PathBuf> {
        (0..self.args.readers).map(|number| self.scratch.path(&format!("vm-{number}.qcow2"))).collect()
    }

    /// How large the readers' disks are, if not as large as the image: guests write behind it.
    pub(super) fn overlay_size(&self) -> Option<u64> {
        matches!(self.kind, Kind::Machine(_)).then_some(self.source.size + GRANULE)
    }

    async fn start_repository(&self) -> Result<Process> {
        let role = repository::Role {
            shelved: self.shelved.clone(),
            origin: self.scratch.path("origin.sock"),
            link: self.scratch.path("link.sock"),
            shape: self.shape,
        };
        let mut process = Process::start("repository", &role.to_json())?;
        process.expect("ready", SILENCE_MAX).await?;
        Ok(process)
    }

    /// The comparison; answers also how many bytes have left the repository by then.
    async fn copy_first(&self, repository: &mut Process) -> Result<(FullCopy, u64)> {
        let (socket, to) = (self.scratch.path("link.sock"), self.scratch.path("full-copy"));
        let from = (&*socket, self.shelved.export());
        let copy = full_copy(&self.engine, &self.source, self.shape, from, &to, self.live).await?;
        Ok((copy, count(repository).await?))
    }

    /// Kills the repository; every reader verifies every byte through its clone.
    async fn live_without_repository(&self, repository: Process, filled: &Filled) -> Result<Vec<Compared>> {
        repository.kill();
        if self.sabotaged(Sabotage::Cache) {
            sabotage::spoil(&filled.cache)?;
        }
        self.live.say("the image is complete, the repository is killed: every reader reads everything");
        filled.readers.compare().await
    }

    /// Pivots the clones and ends the host; every reader verifies every byte of its disk alone.
    async fn live_without_host(&self, mut host: Process, readers: &Readers) -> Result<Vec<Compared>> {
        readers.close().await?;
        host.tell("pivot")?;
        host.expect("pivoted", SILENCE_MAX).await?;
        host.tell("end")?;
        host.ended(SILENCE_MAX).await?;
        self.live.say("the clones are pivoted, the host has ended: every reader reads everything again");
        readers.open(&self.overlays()).await?;
        let compared = readers.compare().await?;
        readers.close().await?;
        Ok(compared)
    }

    fn report(
        &self,
        image: String,
        full_copy: FullCopy,
        figures: Figures,
        verified: Verified,
        took: Duration,
    ) -> Report {
        Report {
            image,
            size: self.source.size,
            allocated: self.source.allocated(),
            allocated_granules: self.source.allocated_granules(),
            shape: self.shape,
            readers: usize::from(self.args.readers),
            machines: self.kind.accelerator(),
            full_copy,
            figures,
            verified,
            took,
        }
    }
}

/// Bytes that have left the repository so far.
pub(super) async fn count(repository: &mut Process) -> Result<u64> {
    repository.tell("count")?;
    let event: Value = repository.expect("count", SILENCE_MAX).await?;
    Ok(event["down"].as_u64().unwrap_or_default())
}
