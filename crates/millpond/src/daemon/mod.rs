//! `millpond daemon`: qemu-storage-daemon's command line and QMP.
//!
//! Invariant: options are carried out one after the other as their QMP commands are; when one fails, the daemon ends
//! with its error and leaves nothing behind.

mod args;
mod pond;
mod remedy;
mod setup;

use std::path::Path;
use std::sync::Arc;

use block::Result;
use control::{Control, commands};
use engine::{Engine, EngineOptions};
use io::real::RealWorld;
use io::real::process::Readiness;
use io::select::{Either, race};

pub(crate) use args::Args;
use args::Plan;
use setup::Setup;

use crate::ending::Ending;
use crate::host::{Host, HostOptions};
use crate::{output, service};

/// Serves until a client sends `quit`, or a signal comes.
pub(crate) fn run(args: Args) -> Result<()> {
    let plan = args.plan()?;
    if let Some(text) = plan.help() {
        output::print(text);
        return Ok(());
    }
    // Paths are meant as whoever starts it sees them.
    let pond = plan.pond.as_deref().map(pond::options).transpose()?;
    let readiness = service::to_background(plan.daemonize)?;
    let world = RealWorld::new();
    let shared = Arc::new(world.clone());
    let outcome = service::run(&world, serve(shared, &plan, pond, readiness));
    service::remove_pid();
    outcome?
}

async fn serve(
    world: Arc<RealWorld>,
    plan: &Plan,
    pond: Option<HostOptions>,
    readiness: Option<Readiness>,
) -> Result<()> {
    let mut signals = service::signals()?;
    let engine = Engine::new(world, EngineOptions::default())?;
    let (mut table, ending) = commands::standard(&engine);
    let opening = async {
        match pond {
            Some(options) => Host::open(&engine, options, &mut table).await.map(Some),
            None => Ok(None),
        }
    };
    let host = match race(opening, signals.next()).await {
        Either::First(host) => host?,
        Either::Second(_) => return Ok(()),
    };
    let control = Control::new(engine.clone(), table, ending);
    let serving = until_quit(&engine, &control, host.as_ref(), plan, readiness);
    let outcome = match race(serving, signals.next()).await {
        Either::First(outcome) => outcome,
        Either::Second(_) => Ok(()),
    };
    let closing = async {
        let closed = match &host {
            Some(host) => host.close().await,
            None => Ok(()),
        };
        let closed = closed.and(engine.close_exports().await);
        engine.jobs().end().await;
        closed
    };
    let ending = Ending { what: "the daemon", engine: &engine, verbose: false, written: true };
    outcome.and(ending.carry_out(&mut signals, || engine.under_way(), closing).await)
}

/// Carries out the options, and serves until a client sends `quit`.
async fn until_quit(
    engine: &Arc<Engine>,
    control: &Control,
    host: Option<&Host>,
    plan: &Plan,
    readiness: Option<Readiness>,
) -> Result<()> {
    Setup::new(engine, control).run(&plan.steps).await?;
    if let Some(host) = host {
        host.listen(control).await?;
    }
    if let Some(path) = &plan.pidfile {
        service::write_pid(Path::new(path), "--pidfile")?;
    }
    service::up(readiness)?;
    control.ended().await;
    Ok(())
}
