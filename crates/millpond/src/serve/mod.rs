//! `millpond serve`: a folder of images as NBD exports.

mod args;

use std::sync::Arc;

use block::{BlockError, Result};
use engine::{Engine, EngineOptions, Event, ImagePolicy};
use export::nbd::{Server, ServerOptions};
use io::real::RealWorld;
use io::real::process::{Signal, Signals};
use io::select::{Either, race};
use io::{Listener, World};
use pond::serve::{Repository, RepositoryOptions};

pub(crate) use args::Args;

/// Serves until told to end.
pub(crate) fn run(args: Args) -> Result<()> {
    let world = RealWorld::new();
    let shared = Arc::new(world.clone());
    world.block_on(serve(shared, args))
}

async fn serve(world: Arc<RealWorld>, args: Args) -> Result<()> {
    let mut signals = Signals::watch(&[Signal::Terminate, Signal::Interrupt, Signal::HangUp])
        .map_err(|e| BlockError::system("cannot watch signals", e))?;
    let failed = |e| BlockError::system(format!("cannot serve '{}'", args.folder.display()), e);
    let folder = world.folders().resolve(&args.folder).await.map_err(failed)?;
    let options =
        EngineOptions { policy: ImagePolicy::below(vec![folder.clone()])?, ..EngineOptions::default() };
    let engine = Engine::new(world.clone(), options)?;
    let repository =
        Repository::open(engine.clone(), RepositoryOptions { folder, format: args.format.clone() }).await?;
    let options = ServerOptions { max_connections: args.shared, ..ServerOptions::default() };
    let server = Arc::new(repository.server(options));
    // All of them, or none: nobody is served by half a server.
    let listeners = args.listen.iter().map(|address| {
        world.listen(address).map_err(|e| BlockError::system(format!("Failed to listen at '{address}'"), e))
    });
    for listener in listeners.collect::<Result<Vec<_>>>()? {
        println!("serving '{}' at {}", repository.folder().display(), listener.address());
        if args.verbose {
            eprintln!("listening at {}", listener.address());
        }
        accept(server.clone(), listener);
    }
    write_pid(&args)?;
    if args.verbose {
        tell(&engine);
    }
    match race(repository.keep_tidy(), signals.next()).await {
        Either::First(()) | Either::Second(_) => Ok(()),
    }
}

fn accept(server: Arc<Server>, listener: Box<dyn Listener>) {
    io::spawn(async move {
        if let Err(error) = server.listen(listener).await {
            eprintln!("millpond: {error}");
        }
    });
}

fn write_pid(args: &Args) -> Result<()> {
    let Some(path) = &args.pid_file else { return Ok(()) };
    let failed = |e| {
        BlockError::system(format!("cannot write the process id to '{}' (--pid-file)", path.display()), e)
    };
    std::fs::write(path, format!("{}\n", std::process::id())).map_err(failed)
}

/// Tells of clients and failures, for as long as the process lives.
fn tell(engine: &Arc<Engine>) {
    let mut events = engine.events().subscribe();
    io::spawn(async move {
        loop {
            match events.next().await {
                Event::ClientConnected => eprintln!("a client has connected"),
                Event::ClientGone { error: Some(error), .. } => eprintln!("a client has left: {error}"),
                Event::RequestFailed { error } => eprintln!("a request has failed: {error}"),
                Event::NodeOpened { node, how } => eprintln!("node '{node}': {how}"),
                _ => {}
            }
        }
    });
}
