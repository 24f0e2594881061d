//! `millpond up`: the host daemon.

use std::sync::Arc;
use std::time::Duration;

use block::{BlockError, Result};
use control::Control;
use engine::{Engine, EngineOptions, ImagePolicy};
use io::real::RealWorld;
use io::real::process::{Readiness, Signals};
use io::select::{Either, race};
use io::{Address, World};
use pond::{Pond, PondOptions};

use super::args::UpArgs;
use super::commands;
use super::places::Places;
use crate::service;

/// Runs until told to end.
pub(crate) fn up(args: UpArgs) -> Result<()> {
    let places = Places::of(&args.which)?;
    let readiness = service::to_background(args.fork)?;
    let world = RealWorld::new();
    let shared: Arc<RealWorld> = Arc::new(world.clone());
    world.block_on(run(shared, args, places, readiness))
}

async fn run(
    world: Arc<RealWorld>,
    args: UpArgs,
    places: Places,
    readiness: Option<Readiness>,
) -> Result<()> {
    let mut signals = service::signals()?;
    let policy = ImagePolicy::below(args.allow_dir.clone())?;
    let engine = Engine::new(world.clone(), EngineOptions { policy, ..EngineOptions::default() })?;
    let options = PondOptions {
        folder: places.pond.clone(),
        sockets: places.sockets(),
        source_timeout: Duration::from_secs(args.source_timeout),
    };
    let pond = Pond::open(engine.clone(), options).await?;
    let (mut table, ending) = control::commands::standard(&engine);
    commands::add(&mut table, &pond);
    let control = Control::new(engine, table, ending);
    let ready = || tell_ready(&args, &places, readiness);
    let outcome = serve(&control, &world, &places, ready, &mut signals).await;
    // A second signal ends it at once: what was fetched is durable but for the last second.
    match race(pond.close(), signals.next()).await {
        Either::First(closed) => outcome.and(closed),
        Either::Second(_) => outcome,
    }
}

async fn serve(
    control: &Control,
    world: &RealWorld,
    places: &Places,
    ready: impl FnOnce() -> Result<()>,
    signals: &mut Signals,
) -> Result<()> {
    let path = places.control();
    let address = Address::Unix { path: path.clone() };
    let up = io::sync::Notify::new();
    let listening = control.listen(&address, |_| up.notify_one());
    let readied = async {
        up.notified().await;
        let mode = world.folders().set_mode(&path, 0o600).await;
        mode.map_err(|e| BlockError::system(format!("cannot protect '{}'", path.display()), e))?;
        ready()?;
        control.ended().await;
        Ok(())
    };
    match race(race(listening, readied), signals.next()).await {
        Either::First(Either::First(ended) | Either::Second(ended)) => ended,
        Either::Second(_) => Ok(()),
    }
}

fn tell_ready(args: &UpArgs, places: &Places, readiness: Option<Readiness>) -> Result<()> {
    if let Some(path) = &args.pid_file {
        service::write_pid(path, "--pid-file")?;
    }
    println!("pond '{}' is up, commands go to '{}'", places.pond.display(), places.control().display());
    service::up(readiness)
}
