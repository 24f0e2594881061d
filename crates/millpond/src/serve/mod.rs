//! `millpond serve`: a folder of images as NBD exports.

mod args;
mod remedy;

use std::sync::Arc;

use block::{BlockError, Result};
use engine::{Engine, EngineOptions, ImagePolicy};
use export::nbd::{Server, ServerOptions};
use io::real::RealWorld;
use io::select::{Either, race};
use io::sync::mpsc;
use io::{Listener, World};
use pond::serve::{Repository, RepositoryOptions};

use crate::ending::Ending;
use crate::{line, output, remedies, service};

pub(crate) use args::Args;

/// Serves until told to end.
pub(crate) fn run(args: Args) -> Result<()> {
    let world = RealWorld::new();
    let shared = Arc::new(world.clone());
    service::run(&world, serve(shared, args))?
}

async fn serve(world: Arc<RealWorld>, args: Args) -> Result<()> {
    let mut signals = service::signals()?;
    let policy = policy(&world, &args).await.map_err(remedy::of_folder)?;
    let engine = Engine::new(world, EngineOptions { policy, ..EngineOptions::default() })?;
    let options = RepositoryOptions { folder: args.folder.clone(), format: args.format.clone() };
    let repository = Repository::open(engine.clone(), options).await.map_err(remedy::of_folder)?;
    let limits = ServerOptions { max_connections: args.shared, ..ServerOptions::default() };
    let server = Arc::new(repository.server(limits));
    let listeners = listeners(&engine, &args)?;
    if let Some(path) = &args.pid_file {
        service::write_pid(path, "--pid-file")?;
    }
    tell_ready(&repository, &listeners, &args);
    if args.verbose {
        tell(&engine);
    }
    let serving = race(accept(&server, listeners), repository.keep_tidy());
    let outcome = match race(serving, signals.next()).await {
        Either::First(Either::First(failed)) => failed,
        Either::First(Either::Second(())) | Either::Second(_) => Ok(()),
    };
    let what = format!("folder '{}'", args.folder.display());
    let ending = Ending { what: &what, engine: &engine, verbose: args.verbose, written: false };
    let closing = async {
        repository.close().await;
        Ok(())
    };
    outcome.and(ending.carry_out(&mut signals, || repository.under_way(), closing).await)
}

/// What images may name lies in the folder that they are served from.
async fn policy(world: &RealWorld, args: &Args) -> Result<ImagePolicy> {
    let folder = world.folders().resolve(&args.folder).await;
    let folder =
        folder.map_err(|e| BlockError::system(format!("cannot serve '{}'", args.folder.display()), e))?;
    ImagePolicy::below(vec![folder])
}

/// All of them, or none: nobody is served by half a server.
fn listeners(engine: &Engine, args: &Args) -> Result<Vec<Box<dyn Listener>>> {
    let listen =
        |address| engine.bind(address).map_err(|error| remedies::of_listening_at(error, address, "--listen"));
    args.listen.iter().map(listen).collect()
}

fn tell_ready(repository: &Repository, listeners: &[Box<dyn Listener>], args: &Args) {
    let folder = line::escaped(repository.folder().display());
    for listener in listeners {
        let address = line::escaped(listener.address());
        output::line(format_args!("serving '{folder}' at {address}"));
        if args.verbose {
            output::tell_line(format_args!("listening at {address}"));
        }
    }
}

/// Accepts clients until that fails somewhere. Dropped, it accepts no more; those that are there stay.
async fn accept(server: &Arc<Server>, listeners: Vec<Box<dyn Listener>>) -> Result<()> {
    let (fail, mut failed) = mpsc::unbounded_channel();
    for listener in listeners {
        let (server, fail) = (server.clone(), fail.clone());
        io::spawn(async move {
            if let Either::First(ended) = race(server.listen(listener), fail.closed()).await {
                // Nobody may be waiting any more.
                let _ = fail.send(ended);
            }
        });
    }
    failed.recv().await.unwrap_or(Ok(()))
}

/// Tells of clients and failures, for as long as the process lives.
fn tell(engine: &Arc<Engine>) {
    let mut events = engine.events().subscribe();
    io::spawn(async move {
        loop {
            service::tell(&events.next().await);
        }
    });
}
