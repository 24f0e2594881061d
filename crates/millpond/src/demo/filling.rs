//! The main act: clones that are used at once, the fill beside them, and the death of the host in the middle of it.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use block::{BlockError, ErrorKind, Result};
use nbd::uri::{Address, NbdUri};
use serde_json::Value;

use super::args::Sabotage;
use super::host;
use super::kept::kept;
use super::latency::Latency;
use super::process::{PROGRESS, Process};
use super::reader::Sample;
use super::readers::{Browsing, Readers};
use super::report::Fill;
use super::restart::{Away, Lately, Restart};
use super::sabotage;
use super::story::{SILENCE_MAX, Stage, count};
use super::workload::Workload;

/// How many percent of the data have come when the host is killed.
const KILLED_AT: u64 = 40;
/// The same where the cache is to lose what it holds: it has to hold something.
const KILLED_AT_LOSS: u64 = 80;
/// Until the repository has noticed that the host is gone.
const NOTICED: Duration = Duration::from_secs(2);
/// How long the source may be in trouble and nothing come.
const TROUBLE_MAX: Duration = Duration::from_secs(10);

/// What stands when the image is complete, and what was measured until then.
pub(super) struct Filled {
    pub(super) host: Process,
    pub(super) readers: Readers,
    pub(super) cache: PathBuf,
    pub(super) figures: Figures,
}

/// What was measured.
#[derive(Clone, Debug)]
pub(super) struct Figures {
    /// From the start of the host until a reader had its first bytes.
    pub(super) first_byte: Duration,
    /// Bytes that left the repository for the host.
    pub(super) link_bytes: u64,
    /// Of the image, bytes that no granule with data holds.
    pub(super) holes: u64,
    pub(super) fill: Fill,
    pub(super) cold: Latency,
    pub(super) restart: Restart,
    /// Wrong bytes that were read.
    pub(super) wrong: u64,
}

/// Readers that use their clones.
struct Started {
    host: Process,
    readers: Readers,
    browsing: Browsing,
    began: Instant,
    /// The first reads of all.
    samples: Vec<Sample>,
}

/// The host after its death, and what that did.
struct Again {
    host: Process,
    away: Away,
    restart: Restart,
    cache: PathBuf,
    /// Bytes of holes that the dead one had fetched.
    holes: u64,
}

impl Stage<'_> {
    /// From the start of the host until the image is complete. `before` bytes had left the repository.
    pub(super) async fn use_and_fill(&self, repository: &mut Process, before: u64) -> Result<Filled> {
        let Started { host, readers, browsing, began, mut samples } = self.use_at_once().await?;
        let first_byte = samples.iter().map(|sample| sample.ended - began).min().unwrap_or_default();
        let Again { mut host, away, mut restart, cache, holes } =
            self.kill_in_the_middle(host, repository, before).await?;
        let complete = self.until(&mut host, restart.kept, None, &mut Lately::default()).await?;
        let took = began.elapsed();
        let browsed = browsing.stop().await?;
        let before = if self.sabotaged(Sabotage::Twice) { 0 } else { before };
        let link_bytes = count(repository).await? - before;
        restart.served = away.served(&browsed);
        let undisturbed = browsed.iter().filter(|sample| !away.delayed(sample));
        let cold = Latency::of(undisturbed, self.shape.round_trip);
        samples.extend(browsed);
        let figures = Figures {
            first_byte,
            link_bytes,
            holes: holes + self.beyond(&restart, &complete),
            fill: Fill { took, link_bytes },
            cold,
            restart,
            wrong: samples.iter().map(|sample| sample.wrong).sum(),
        };
        Ok(Filled { host, readers, cache, figures })
    }

    /// Starts a host, makes a clone for each reader, and lets them read.
    async fn use_at_once(&self) -> Result<Started> {
        let count = usize::from(self.args.readers);
        let readers = Readers::start(count, self.world, &self.kind, &self.source, self.patience())?;
        let workload = Workload::new(&self.source, count);
        let began = Instant::now();
        let mut host = self.start_host().await?;
        host.tell("clone")?;
        host.expect("cloned", SILENCE_MAX).await?;
        readers.open(&self.overlays()).await?;
        let samples = readers.read(&workload.burst).await?;
        let browsing = readers.browse(&workload.during)?;
        Ok(Started { host, readers, browsing, began, samples })
    }

    async fn start_host(&self) -> Result<Process> {
        let source = NbdUri {
            address: Address::Unix(self.scratch.path("link.sock").into_os_string().into_encoded_bytes()),
            export: self.shelved.export().to_owned(),
        };
        let role = host::Role {
            source: source.to_string(),
            pond: self.scratch.path("pond"),
            sockets: self.scratch.path("run"),
            overlays: self.overlays(),
            size: self.overlay_size(),
        };
        let mut process = Process::start("host", &role.to_json())?;
        process.expect("ready", SILENCE_MAX).await?;
        Ok(process)
    }

    /// Kills the host when a part of the image is there, and starts it again at once.
    async fn kill_in_the_middle(
        &self,
        mut host: Process,
        repository: &mut Process,
        before: u64,
    ) -> Result<Again> {
        let mut lately = Lately::default();
        let enough = if self.sabotaged(Sabotage::Loss) { KILLED_AT_LOSS } else { KILLED_AT };
        let event = self.until(&mut host, 0, Some(enough), &mut lately).await?;
        if self.sabotaged(Sabotage::Pivot) {
            host.tell("pivot")?;
            host.expect("pivoted", SILENCE_MAX).await?;
        }
        let from = Instant::now();
        host.kill();
        let cache = PathBuf::from(event["cache"].as_str().unwrap_or_default());
        let kept = kept(&self.engine, &self.source, &cache).await?;
        let left = count(repository).await? - before;
        match self.args.sabotage {
            // Not before: what the dead host had is fetched again in part, and right.
            Some(Sabotage::Link) => repository.tell("spoil")?,
            Some(Sabotage::Loss) => sabotage::forget(&cache)?,
            Some(Sabotage::Source) => {
                sabotage::touch(&self.shelved)?;
                // While the repository still serves the dead host, the image stays what it was.
                io::sleep(NOTICED).await;
            }
            _ => {}
        }
        let away = Away { from, to: Instant::now() };
        let host = self.start_host().await?;
        self.live.say("the host is killed in the middle of the fill, and started again: the readers go on");
        let (percent, last_second) = (self.percent(number(&event, "fetched")), lately.second());
        let restart = Restart { percent, left, kept: kept.data, last_second, served: None };
        Ok(Again { host, away, restart, cache, holes: kept.holes })
    }

    /// Waits until the image is complete, or so many percent of its data have come; answers the event that says so.
    /// So many bytes were there when the host was started.
    async fn until(
        &self,
        host: &mut Process,
        there: u64,
        enough: Option<u64>,
        lately: &mut Lately,
    ) -> Result<Value> {
        let mut sound = (Instant::now(), 0);
        loop {
            let event = host.event(SILENCE_MAX).await?;
            let fetched = number(&event, "fetched");
            lately.note(fetched);
            let percent = self.percent(there + fetched);
            if event["event"] != PROGRESS || enough.is_some_and(|enough| percent >= enough) {
                return Ok(event);
            }
            self.show(percent, there + fetched);
            let Some(trouble) = event["trouble"].as_str().filter(|_| fetched == sound.1) else {
                sound = (Instant::now(), fetched);
                continue;
            };
            if sound.0.elapsed() > TROUBLE_MAX {
                return Err(BlockError::new(ErrorKind::Disconnected, format!("the fill stands: {trouble}")));
            }
        }
    }

    fn show(&self, percent: u64, bytes: u64) {
        let (readers, named) = (self.args.readers, self.kind.named());
        self.live.show(&format!("filling beside {readers} {named}: {percent} %, {} MiB", bytes >> 20));
    }

    /// What part of the data so many bytes are.
    fn percent(&self, bytes: u64) -> u64 {
        (bytes * 100 / self.source.allocated_granules().max(1)).min(100)
    }

    /// Bytes that the second host fetched beyond what the first had left to fetch.
    fn beyond(&self, restart: &Restart, complete: &Value) -> u64 {
        let missing = self.source.allocated_granules().saturating_sub(restart.kept);
        number(complete, "fetched").saturating_sub(missing)
    }

    /// How long readers may take for one phase.
    fn patience(&self) -> Duration {
        let fill = self.source.allocated_granules() as f64 / self.shape.rate as f64;
        Duration::from_secs_f64(60.0 + 4.0 * fill) + self.shape.round_trip * 1000
    }
}

fn number(event: &Value, key: &str) -> u64 {
    event[key].as_u64().unwrap_or_default()
}
