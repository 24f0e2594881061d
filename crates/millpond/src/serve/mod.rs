//! `millpond serve`: a folder of images as NBD exports.

mod args;

use std::sync::Arc;

use block::{BlockError, Result};
use engine::{Engine, EngineOptions, ImagePolicy};
use export::nbd::{Server, ServerOptions};
use io::real::RealWorld;
use io::select::{Either, race};
use io::{Listener, World};
use pond::serve::{Repository, RepositoryOptions};

use crate::{line, service};

pub(crate) use args::Args;

/// Serves until told to end.
pub(crate) fn run(args: Args) -> Result<()> {
    let world = RealWorld::new();
    let shared = Arc::new(world.clone());
    world.block_on(serve(shared, args))
}

async fn serve(world: Arc<RealWorld>, args: Args) -> Result<()> {
    let mut signals = service::signals()?;
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
            eprintln!("listening at {}", line::escaped(listener.address()));
        }
        accept(server.clone(), listener);
    }
    if let Some(path) = &args.pid_file {
        service::write_pid(path, "--pid-file")?;
    }
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
            crate::complain(&error);
        }
    });
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
