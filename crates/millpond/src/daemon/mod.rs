//! `millpond daemon`: qemu-storage-daemon's command line and QMP.
//!
//! Invariant: options are carried out one after the other as their QMP commands are; when one fails, the daemon ends
//! with its error and leaves nothing behind.

mod args;
mod setup;

use std::path::Path;
use std::process;
use std::sync::Arc;
use std::time::Duration;

use block::{BlockError, ErrorKind, Result};
use control::{Control, commands};
use engine::{Engine, EngineOptions};
use io::real::RealWorld;
use io::real::process::{Readiness, Signals};
use io::select::{Either, race};

pub(crate) use args::Args;
use args::Plan;
use setup::Setup;

use crate::service;

/// How long requests may take, once told to end, that cannot be called off.
const GRACE: Duration = Duration::from_secs(5);

/// Serves until a client sends `quit`, or a signal comes.
pub(crate) fn run(args: Args) -> Result<()> {
    let plan = args.plan()?;
    let readiness = service::to_background(plan.daemonize)?;
    let world = RealWorld::new();
    let shared = Arc::new(world.clone());
    let outcome = world.block_on(serve(shared, &plan, readiness));
    if let (Ok(()), Some(path)) = (&outcome, &plan.pidfile) {
        // Somebody else may have taken it away.
        let _ = std::fs::remove_file(path);
    }
    outcome
}

async fn serve(world: Arc<RealWorld>, plan: &Plan, readiness: Option<Readiness>) -> Result<()> {
    let mut signals = service::signals()?;
    let engine = Engine::new(world, EngineOptions::default())?;
    let (table, ending) = commands::standard(&engine);
    let control = Control::new(engine.clone(), table, ending);
    let setting_up = Setup::new(&engine, &control).run(&plan.steps);
    match race(setting_up, signals.next()).await {
        Either::First(done) => done?,
        Either::Second(_) => return Ok(()),
    }
    if let Some(path) = &plan.pidfile {
        service::write_pid(Path::new(path), "--pidfile")?;
    }
    service::up(readiness)?;
    match race(control.ended(), signals.next()).await {
        // `quit` has taken the exports away.
        Either::First(()) => Ok(()),
        Either::Second(_) => end(&engine, &mut signals).await,
    }
}

/// Takes the exports away; what waits is called off, and nobody waits for ever.
async fn end(engine: &Engine, signals: &mut Signals) -> Result<()> {
    let too_long = async {
        engine.call_off();
        race(signals.next(), io::sleep(GRACE)).await
    };
    match race(engine.remove_exports(), too_long).await {
        Either::First(removed) => removed,
        Either::Second(_) => {
            let context =
                "requests were still under way when the daemon ended: see what its storage is doing";
            crate::complain(&BlockError::new(ErrorKind::Cancelled, context));
            // What hangs would hang whoever waits for its thread.
            process::exit(1)
        }
    }
}
