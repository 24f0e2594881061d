//! The repository process: the image's server, and the line in front of it.

use std::path::PathBuf;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use block::{BlockError, Result};
use engine::{Engine, EngineOptions, ExportRequest, NbdServer, ServerRequest};
use export::nbd::{ExportOptions, ServerOptions};
use io::real::RealWorld;
use io::sync::oneshot;
use io::{Address, World};
use serde_json::{Value, json};

use super::alarm::Alarm;
use super::link::{Connect, Link, Shape, Sleep};
use super::process::{self, Parent};

/// Name of every export in a demo.
pub(super) const EXPORT: &str = "disk";

/// Distance of bytes that are spoiled on purpose.
const SPOIL_EVERY: u64 = 150_000;

/// How a repository is started.
pub(super) struct Role {
    /// Options of the node that it serves.
    pub(super) node: Value,
    /// Where the server listens.
    pub(super) origin: PathBuf,
    /// Where the far end of the line listens.
    pub(super) link: PathBuf,
    /// What the line is like.
    pub(super) shape: Shape,
}

impl Role {
    pub(super) fn to_json(&self) -> Value {
        json!({
            "role": "repository", "node": self.node, "origin": self.origin, "link": self.link,
            "round-trip-us": self.shape.round_trip.as_micros() as u64, "rate": self.shape.rate,
        })
    }

    /// The opposite of [`Role::to_json`]; what is missing is empty.
    pub(super) fn from_json(role: &Value) -> Self {
        let number = |key: &str| role[key].as_u64().unwrap_or_default();
        let path = |key: &str| PathBuf::from(role[key].as_str().unwrap_or_default());
        let shape =
            Shape { round_trip: Duration::from_micros(number("round-trip-us")), rate: number("rate") };
        Self { node: role["node"].clone(), origin: path("origin"), link: path("link"), shape }
    }
}

/// Serves until the parent is gone.
pub(super) async fn run(world: Arc<RealWorld>, role: Role, mut parent: Parent) -> Result<()> {
    let engine = Engine::new(world.clone(), EngineOptions { threads: 1, ..EngineOptions::default() })?;
    let node = match &role.node {
        Value::Object(options) => engine.add_node(options.clone()).await?,
        _ => String::new(),
    };
    let origin = Address::Unix { path: role.origin };
    serve(&engine, &node, &origin).await?;
    let near = Address::Unix { path: role.link };
    let link = Rc::new(line(role.shape)?);
    let listener =
        world.listen(&near).map_err(|e| BlockError::system(format!("cannot listen at {near}"), e))?;
    let (relay, connect) = (link.clone(), connect(world, origin));
    io::spawn(async move {
        if let Err(error) = relay.serve(&*listener, connect).await {
            process::tell(&json!({ "failed": error.to_string() }));
        }
    });
    process::tell(&json!({ "event": "ready" }));
    while let Some(command) = parent.command().await {
        match command.as_str() {
            "count" => process::tell(&json!({ "event": "count", "down": link.bytes_down() })),
            "spoil" => link.spoil(SPOIL_EVERY),
            other => process::tell(&json!({ "failed": format!("no command '{other}'") })),
        }
    }
    Ok(())
}

/// Exports `node` read-only at `address`, to any number of clients. Ready when it listens.
pub(super) async fn serve(engine: &Arc<Engine>, node: &str, address: &Address) -> Result<Arc<NbdServer>> {
    let limits = ServerOptions { max_connections: 0, handshake_limit: Some(Duration::from_secs(60)) };
    let server = Arc::new(engine.nbd_server(&ServerRequest { options: limits }));
    let options = ExportOptions {
        name: EXPORT.to_owned(),
        description: "millpond demo".to_owned(),
        writable: false,
        multi_conn: true,
        writethrough: false,
    };
    server.add(ExportRequest { id: EXPORT.to_owned(), node: node.to_owned(), options })?;
    let (ready, listening) = oneshot::channel();
    let (accepting, address) = (server.clone(), address.clone());
    io::spawn(async move {
        let listened = accepting
            .listen(&address, |_| {
                let _ = ready.send(());
            })
            .await;
        if let Err(error) = listened {
            process::tell(&json!({ "failed": error.to_string() }));
        }
    });
    // Else it has failed and said so.
    let _ = listening.await;
    Ok(server)
}

fn line(shape: Shape) -> Result<Link> {
    let alarm = Alarm::start().map_err(|e| BlockError::system("cannot start the link's clock", e))?;
    let sleep: Sleep = Rc::new(move |when| alarm.sleep_until(when));
    Ok(Link::new(shape, sleep))
}

fn connect(world: Arc<RealWorld>, origin: Address) -> Connect {
    Rc::new(move || {
        let (world, origin) = (world.clone(), origin.clone());
        Box::pin(async move { world.connect(&origin).await?.attach() })
    })
}
