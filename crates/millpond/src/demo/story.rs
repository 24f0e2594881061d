//! The demo itself: what happens, in order.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use block::{BlockError, Result};
use engine::{Engine, EngineOptions};
use io::real::RealWorld;
use serde_json::Value;

use super::args::{Args, Sabotage};
use super::full_copy::{FullCopy, full_copy};
use super::link::Shape;
use super::live::Live;
use super::process::Process;
use super::readers::{Compared, Readers, Sample};
use super::report::{Fill, Latency, Report};
use super::scratch::Scratch;
use super::source::{Source, study};
use super::workload::Workload;
use super::{host, image, repository};

/// How long a process may be silent.
const SILENCE_MAX: Duration = Duration::from_secs(20);

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
    live.say(&headline(args, &image.description, &source));
    let shape = Shape { round_trip: args.rtt, rate: args.bytes_per_second() };
    let stage = Stage { world, args, live, engine, source, scratch, shape };
    let mut repository = stage.start_repository(&image.node).await?;
    let (full_copy, before) = stage.copy_first(&mut repository).await?;
    let filled = stage.use_and_fill(&mut repository, before).await?;
    let compared = stage.live_without(repository, &filled).await?;
    Ok(stage.report(image.description, full_copy, filled, compared, began))
}

fn headline(args: &Args, image: &str, source: &Source) -> String {
    let rate = match args.rate {
        0 => "no limit".to_owned(),
        rate => format!("{} Mbit/s", rate as f64 / 1e6),
    };
    format!(
        "{image}: {} MiB, {} MiB of them data; the link: {} ms, {rate}; {} readers",
        source.size >> 20,
        source.allocated() >> 20,
        args.rtt.as_secs_f64() * 1e3,
        args.readers
    )
}

/// What stands while the demo runs. The directory is the last thing to go.
struct Stage<'a> {
    world: &'a RealWorld,
    args: &'a Args,
    live: &'a Live,
    engine: Arc<Engine>,
    source: Source,
    shape: Shape,
    scratch: Scratch,
}

/// The host with a full cache that is cut off, and what was measured until then.
struct Filled {
    // Kept alive.
    _host: Process,
    readers: Readers,
    first_byte: Duration,
    link_bytes: u64,
    payload: u64,
    fill: Fill,
    before: Latency,
    during: Latency,
    wrong: u64,
}

impl Stage<'_> {
    fn sabotaged(&self, what: Sabotage) -> bool {
        self.args.sabotage == Some(what)
    }

    async fn start_repository(&self, node: &Value) -> Result<Process> {
        let role = repository::Role {
            node: node.clone(),
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
        let copy = full_copy(&self.engine, &self.source, self.shape, &socket, &to, self.live).await?;
        let left = count(repository).await?;
        if self.sabotaged(Sabotage::Link) {
            repository.tell("spoil")?;
        }
        Ok((copy, if self.sabotaged(Sabotage::Twice) { 0 } else { left }))
    }

    /// The main job: readers from the start, the fill beside them, the cut.
    async fn use_and_fill(&self, repository: &mut Process, left_before: u64) -> Result<Filled> {
        let count_of_readers = usize::from(self.args.readers);
        let reference = &self.source.reference;
        let readers = Readers::start(count_of_readers, self.world, &self.engine, reference, self.patience())?;
        let workload = Workload::new(&self.source, count_of_readers);
        let began = Instant::now();
        let mut host = self.start_host().await?;
        readers.open(&self.scratch.path("host.sock")).await?;
        let burst = readers.read(&vec![workload.burst; count_of_readers]).await?;
        let first_byte = burst.iter().map(|sample| sample.ended - began).min().unwrap_or_default();
        self.live.show("cold reads while nothing else is fetched");
        let before = readers.read(&workload.before).await?;
        let left_at_fill = count(repository).await?;
        let fill_began = Instant::now();
        host.tell("fill")?;
        let during = match self.sabotaged(Sabotage::Cut) {
            true => Vec::new(),
            false => self.fill(&mut host, &readers, &workload.during).await?,
        };
        let took = fill_began.elapsed();
        let left = count(repository).await?;
        let payload = self.cut(&mut host).await?;
        let latency = |samples: &[Sample]| Latency::of(samples, self.shape.round_trip);
        Ok(Filled {
            _host: host,
            readers,
            first_byte,
            link_bytes: left - left_before,
            payload,
            fill: Fill { took, link_bytes: left - left_at_fill },
            before: latency(&before),
            during: latency(&during),
            wrong: [burst, before, during].concat().iter().map(|sample| sample.wrong).sum(),
        })
    }

    async fn start_host(&self) -> Result<Process> {
        let role = host::Role {
            source: self.scratch.path("link.sock"),
            cache: self.scratch.path("cache"),
            socket: self.scratch.path("host.sock"),
        };
        let mut process = Process::start("host", &role.to_json())?;
        process.expect("ready", SILENCE_MAX).await?;
        Ok(process)
    }

    /// Reads on while the fill runs, until it has ended.
    async fn fill(
        &self,
        host: &mut Process,
        readers: &Readers,
        lists: &[Vec<block::ByteRange>],
    ) -> Result<Vec<Sample>> {
        let mut reading = std::pin::pin!(readers.read(lists));
        let mut samples = None;
        let filling = async {
            loop {
                let event = host.event(SILENCE_MAX).await?;
                if event["event"] == "filled" {
                    return Ok::<(), BlockError>(());
                }
                self.show_fill(&event);
            }
        };
        let mut filling = std::pin::pin!(filling);
        loop {
            match &samples {
                None => match io::select::race(&mut filling, &mut reading).await {
                    io::select::Either::First(filled) => {
                        filled?;
                        return reading.await;
                    }
                    io::select::Either::Second(read) => samples = Some(read?),
                },
                Some(_) => {
                    filling.await?;
                    return Ok(samples.unwrap_or_default());
                }
            }
        }
    }

    fn show_fill(&self, event: &Value) {
        let number = |key: &str| event[key].as_u64().unwrap_or_default();
        self.live.show(&format!(
            "filling beside {} readers: {} %, {} MiB of data are there, {} KiB may be in flight",
            self.args.readers,
            number("done") * 100 / number("total").max(1),
            number("copied") >> 20,
            number("window") >> 10
        ));
    }

    /// Cuts the cache off; answers the bytes of the image that it has received.
    async fn cut(&self, host: &mut Process) -> Result<u64> {
        host.tell("cut")?;
        loop {
            let event = host.event(SILENCE_MAX).await?;
            if event["event"] == "cut" {
                return Ok(event["source"]["received-bytes"].as_u64().unwrap_or(u64::MAX));
            }
        }
    }

    /// Kills the repository; every reader verifies every byte.
    async fn live_without(&self, repository: Process, filled: &Filled) -> Result<Vec<Compared>> {
        repository.kill();
        if self.sabotaged(Sabotage::Cache) {
            spoil(&self.scratch.path("cache"))?;
        }
        self.live
            .say("the cache is full and cut off, the repository is killed: every reader reads everything");
        filled.readers.compare().await
    }

    /// How long readers may take for one phase.
    fn patience(&self) -> Duration {
        let fill = self.source.allocated_granules() as f64 / self.shape.rate as f64;
        Duration::from_secs_f64(60.0 + 4.0 * fill) + self.shape.round_trip * 1000
    }

    fn report(
        &self,
        image: String,
        full_copy: FullCopy,
        filled: Filled,
        compared: Vec<Compared>,
        began: Instant,
    ) -> Report {
        Report {
            image,
            size: self.source.size,
            allocated: self.source.allocated(),
            allocated_granules: self.source.allocated_granules(),
            round_trip: self.shape.round_trip,
            rate: self.shape.rate,
            readers: usize::from(self.args.readers),
            first_byte: filled.first_byte,
            full_copy,
            link_bytes: filled.link_bytes,
            payload: filled.payload,
            fill: filled.fill,
            before: filled.before,
            during: filled.during,
            wrong_before_cut: filled.wrong,
            compared,
            took: began.elapsed(),
        }
    }
}

/// Bytes that have left the repository so far.
async fn count(repository: &mut Process) -> Result<u64> {
    repository.tell("count")?;
    let event = repository.expect("count", SILENCE_MAX).await?;
    Ok(event["down"].as_u64().unwrap_or_default())
}

/// Changes a byte in the middle of a file.
fn spoil(path: &Path) -> Result<()> {
    let spoilt = || {
        let file = File::options().read(true).write(true).open(path)?;
        let (at, mut byte) = (file.metadata()?.len() / 2, [0]);
        file.read_exact_at(&mut byte, at)?;
        file.write_all_at(&[byte[0] ^ 1], at)
    };
    spoilt().map_err(|e| BlockError::system(format!("cannot spoil '{}'", path.display()), e))
}
