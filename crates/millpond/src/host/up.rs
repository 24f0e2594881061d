//! `millpond up`: the host daemon.

use std::sync::Arc;

use block::Result;
use control::Control;
use engine::{Engine, EngineOptions, ImagePolicy};
use io::real::RealWorld;
use io::real::process::Readiness;
use io::select::{Either, race};

use super::args::UpArgs;
use super::pond::{Host, HostOptions};
use crate::ending::Ending;
use crate::{line, output, service};

/// Runs until told to end.
pub(crate) fn up(args: UpArgs) -> Result<()> {
    let (pond, runtime) = (args.which.pond.as_deref(), args.which.runtime.as_deref());
    let options = HostOptions::new(pond, runtime, args.source_timeout)?;
    let readiness = service::to_background(args.fork)?;
    let world = RealWorld::new();
    let shared: Arc<RealWorld> = Arc::new(world.clone());
    service::run(&world, run(shared, args, options, readiness))?
}

async fn run(
    world: Arc<RealWorld>,
    args: UpArgs,
    options: HostOptions,
    readiness: Option<Readiness>,
) -> Result<()> {
    let mut signals = service::signals()?;
    let policy = ImagePolicy::below(args.allow_dir.clone())?;
    let engine = Engine::new(world, EngineOptions { policy, ..EngineOptions::default() })?;
    let (mut table, ending) = control::commands::standard(&engine);
    let host = match race(Host::open(&engine, options, &mut table), signals.next()).await {
        Either::First(host) => host?,
        Either::Second(_) => return Ok(()),
    };
    let control = Control::new(engine.clone(), table, ending);
    let outcome = match race(serve(&control, &host, &args, readiness), signals.next()).await {
        Either::First(ended) => ended,
        Either::Second(_) => Ok(()),
    };
    let what = format!("pond '{}'", host.places().pond.display());
    let ending = Ending { what: &what, engine: &engine, verbose: false, written: false };
    outcome.and(ending.carry_out(&mut signals, || engine.under_way(), host.close()).await)
}

/// Takes commands until one of them is `quit`.
async fn serve(control: &Control, host: &Host, args: &UpArgs, readiness: Option<Readiness>) -> Result<()> {
    host.listen(control).await?;
    if let Some(path) = &args.pid_file {
        service::write_pid(path, "--pid-file")?;
    }
    let (pond, commands) = (host.places().pond.display(), host.places().control());
    let (pond, commands) = (line::escaped(pond), line::escaped(commands.display()));
    output::line(format_args!("pond '{pond}' is up, commands go to '{commands}'"));
    service::up(readiness)?;
    control.ended().await;
    Ok(())
}
