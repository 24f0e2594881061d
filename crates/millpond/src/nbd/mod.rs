//! `millpond nbd`: one image, one export, qemu-nbd's command line.

mod args;
mod image;
mod remedy;

use std::cell::Cell;
use std::process;
use std::sync::Arc;
use std::time::Duration;

use block::{BlockError, ErrorKind, Result};
use engine::{
    Engine, EngineOptions, Event, ExportRequest, ImagePolicy, NbdServer, ServerRequest, Subscription,
};
use export::nbd::{ExportOptions, ServerOptions};
use io::Address;
use io::real::RealWorld;
use io::real::process::Readiness;
use io::select::{Either, race};
use io::sync::Notify;

use crate::ending::Ending;
use crate::{line, output, remedies, service};

pub(crate) use args::Args;

const EXPORT: &str = "nbd0";

/// Serves until told to end, or until the last client has left.
pub(crate) fn run(mut args: Args) -> Result<()> {
    if let Some(text) = args.object.iter().find_map(|option| object::help(option)) {
        output::print(text);
        return Ok(());
    }
    args.check()?;
    // A snapshot is only read.
    args.read_only |= args.load_snapshot.is_some();
    // The process that the service manager meant is this one, not the one in the background.
    let address = address(&args)?;
    let readiness = service::to_background(args.fork)?;
    let world = RealWorld::new();
    let shared: Arc<RealWorld> = Arc::new(world.clone());
    service::run(&world, serve(shared, args, address, readiness))?
}

async fn serve(
    world: Arc<RealWorld>,
    args: Args,
    address: Address,
    readiness: Option<Readiness>,
) -> Result<()> {
    let mut signals = service::signals()?;
    let engine = Engine::new(world, engine_options(&args)?)?;
    let events = engine.events().subscribe();
    let server = match race(set_up(&engine, &args), signals.next()).await {
        Either::First(server) => server?,
        Either::Second(_) => return Ok(()),
    };
    let accepting = accept(&server, &address, |address| tell_ready(&args, address, readiness));
    let serving = race(accepting, until_over(&server, events, &args));
    let outcome = match race(serving, signals.next()).await {
        Either::First(Either::First(listened)) => listened,
        Either::First(Either::Second(())) | Either::Second(_) => Ok(()),
    };
    if args.verbose {
        let kib = engine.remembered() >> 10;
        output::tell_line(format_args!("{kib} KiB were set aside for remembered mappings"));
    }
    let what = format!("'{}'", args.file.as_deref().unwrap_or_default());
    let ending = Ending { what: &what, engine: &engine, verbose: args.verbose, written: !args.read_only };
    outcome.and(ending.carry_out(&mut signals, || engine.under_way(), engine.close_exports()).await)
}

/// Accepts clients until that fails, `ready` included.
async fn accept(
    server: &NbdServer,
    address: &Address,
    ready: impl FnOnce(&Address) -> Result<()>,
) -> Result<()> {
    let (failure, failed) = (Cell::new(Ok(())), Notify::new());
    let listening = server.listen(address, |address| {
        let outcome = ready(address);
        if outcome.is_err() {
            failure.set(outcome);
            failed.notify_one();
        }
    });
    match race(listening, failed.notified()).await {
        Either::First(listened) => listened.map_err(|error| remedies::of_listening_at(error, address, "-b")),
        Either::Second(()) => failure.replace(Ok(())),
    }
}

/// Opens the image and exports it; nothing listens yet.
async fn set_up(engine: &Arc<Engine>, args: &Args) -> Result<NbdServer> {
    for object in &args.object {
        add_object(engine, object).await.map_err(|error| remedies::of_object(error, object))?;
    }
    let node = open(engine, args).await.map_err(|error| remedy::of_image(error, args))?;
    let request = ServerRequest { options: server_options(args) };
    let server = match &args.iothread {
        Some(iothread) => engine.nbd_server_on(iothread, &request)?,
        None => engine.nbd_server(&request),
    };
    let options = ExportOptions {
        name: args.export_name.clone(),
        description: args.description.clone(),
        writable: !args.read_only && !engine.is_read_only(&node)?,
        multi_conn: args.shared != 1,
        writethrough: matches!(args.cache, args::CacheMode::Writethrough | args::CacheMode::Directsync),
    };
    server.add(ExportRequest { id: EXPORT.to_owned(), node, options })?;
    Ok(server)
}

async fn add_object(engine: &Engine, option: &str) -> Result<()> {
    engine.add_object(engine::keyval::parse(option, Some("qom-type"))?).await
}

async fn open(engine: &Arc<Engine>, args: &Args) -> Result<String> {
    let options = image::options(engine, args).await?;
    engine.add_node(options).await
}

fn engine_options(args: &Args) -> Result<EngineOptions> {
    let mut options = EngineOptions::default();
    if let Some(threads) = args.threads {
        options.threads = threads.clamp(1, 64);
    }
    options.mappings = args.mappings.saturating_mul(1 << 20);
    if !args.allow_dir.is_empty() {
        options.policy = ImagePolicy::below(args.allow_dir.clone())?;
    }
    Ok(options)
}

fn server_options(args: &Args) -> ServerOptions {
    let limit = (args.handshake_limit > 0).then(|| Duration::from_secs(args.handshake_limit));
    ServerOptions { max_connections: args.shared, handshake_limit: limit }
}

/// Where to listen: a socket that was handed to us, the unix socket, or TCP.
fn address(args: &Args) -> Result<Address> {
    if let Some(inherited) = activated()? {
        let given = [
            ("--socket", args.socket.is_some()),
            ("--bind", args.bind.is_some()),
            ("--port", args.port.is_some()),
        ];
        return match given.iter().find(|(_, given)| *given) {
            None => Ok(inherited),
            Some((option, _)) => {
                let context = format!("a socket was handed over (LISTEN_FDS): leave out '{option}'");
                Err(BlockError::new(ErrorKind::Invalid, context))
            }
        };
    }
    Ok(match &args.socket {
        Some(path) => Address::Unix { path: path.clone() },
        None => Address::Tcp {
            host: args.bind.clone().unwrap_or_else(|| "0.0.0.0".to_owned()),
            port: args.port.unwrap_or(10809),
        },
    })
}

/// The socket of a service manager (LISTEN_PID, LISTEN_FDS), if it handed one to this process.
fn activated() -> Result<Option<Address>> {
    let number = |name| std::env::var(name).ok().and_then(|text| text.parse::<u32>().ok());
    if number("LISTEN_PID") != Some(process::id()) {
        return Ok(None);
    }
    match number("LISTEN_FDS") {
        None | Some(0) => Ok(None),
        Some(1) => Ok(Some(Address::Inherited(3))),
        Some(many) => {
            let context =
                format!("qemu-nbd does not support socket activation with {many} sockets (LISTEN_FDS)");
            Err(BlockError::new(ErrorKind::Unsupported, context))
        }
    }
}

/// The server listens: writes the process id, tells who waits for it.
fn tell_ready(args: &Args, address: &Address, readiness: Option<Readiness>) -> Result<()> {
    if let Some(path) = &args.pid_file {
        service::write_pid(path, "--pid-file")?;
    }
    if args.verbose {
        output::tell_line(format_args!("listening at {}", line::escaped(address)));
    }
    service::up(readiness)
}

/// Ready when the last client has left that had agreed on the export (never, if the server is to persist). Whoever
/// sends garbage, asks for the list, or only looks whether somebody listens does not end the server.
async fn until_over(server: &NbdServer, mut events: Subscription, args: &Args) {
    loop {
        let event = events.next().await;
        if args.verbose {
            service::tell(&event);
        }
        let left = matches!(event, Event::ClientGone { .. } | Event::Missed(_));
        if left && !args.persistent && server.served() > 0 && server.connections() == 0 {
            return;
        }
    }
}
