//! The repository process: the image's server, as `millpond serve` is one, and the line in front of it.

use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use block::{BlockError, Result};
use engine::{Engine, EngineOptions, ExportRequest, ImagePolicy, ServerRequest};
use export::nbd::{ExportOptions, Server, ServerOptions};
use io::real::RealWorld;
use io::sync::oneshot;
use io::{Address, Listener, World};
use pond::serve::{Repository, RepositoryOptions};
use serde_json::{Value, json};

use super::alarm::Alarm;
use super::link::{Connect, Link, Shape, Sleep};
use super::process::{self, Parent};

/// Name of the export of an image that is in no folder.
const EXPORT: &str = "disk";

/// Distance of bytes that are spoiled on purpose.
const SPOIL_EVERY: u64 = 150_000;

/// What a repository serves.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Shelved {
    /// A file, by its name in its folder.
    File { folder: PathBuf, name: String, format: String },
    /// An image that lies with another server: options of the node that reads it.
    Elsewhere(Value),
}

impl Shelved {
    /// Name of the export.
    pub(super) fn export(&self) -> &str {
        match self {
            Self::File { name, .. } => name,
            Self::Elsewhere(_) => EXPORT,
        }
    }

    fn to_json(&self) -> Value {
        match self {
            Self::File { folder, name, format } => {
                json!({ "folder": folder, "name": name, "format": format })
            }
            Self::Elsewhere(node) => json!({ "node": node }),
        }
    }

    fn from_json(value: &Value) -> Self {
        let text = |key: &str| value[key].as_str().unwrap_or_default().to_owned();
        match &value["node"] {
            Value::Null => {
                Self::File { folder: text("folder").into(), name: text("name"), format: text("format") }
            }
            node => Self::Elsewhere(node.clone()),
        }
    }
}

/// How a repository is started.
pub(super) struct Role {
    /// What it serves.
    pub(super) shelved: Shelved,
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
            "role": "repository", "shelved": self.shelved.to_json(), "origin": self.origin, "link": self.link,
            "round-trip-us": self.shape.round_trip.as_micros() as u64, "rate": self.shape.rate,
        })
    }

    /// The opposite of [`Role::to_json`]; what is missing is empty.
    pub(super) fn from_json(role: &Value) -> Self {
        let number = |key: &str| role[key].as_u64().unwrap_or_default();
        let path = |key: &str| PathBuf::from(role[key].as_str().unwrap_or_default());
        let shape =
            Shape { round_trip: Duration::from_micros(number("round-trip-us")), rate: number("rate") };
        let shelved = Shelved::from_json(&role["shelved"]);
        Self { shelved, origin: path("origin"), link: path("link"), shape }
    }
}

/// Serves until the parent is gone.
pub(super) async fn run(world: Arc<RealWorld>, role: Role, mut parent: Parent) -> Result<()> {
    let origin = Address::Unix { path: role.origin };
    match &role.shelved {
        Shelved::File { folder, format, .. } => serve_folder(&world, folder, format, &origin).await?,
        Shelved::Elsewhere(node) => serve_node(&world, node, &origin).await?,
    }
    let link = Rc::new(line(role.shape)?);
    let (relay, connect) = (link.clone(), connect(world.clone(), origin));
    let listener = listen(&world, &Address::Unix { path: role.link })?;
    io::spawn(async move {
        if let Err(error) = relay.serve(&*listener, connect).await {
            process::tell(&json!({ "failed": error.to_string() }));
        }
    });
    process::tell(&json!({ "event": "ready" }));
    while let Some(command) = parent.command().await {
        match command["do"].as_str().unwrap_or_default() {
            "count" => process::tell(&json!({ "event": "count", "down": link.bytes_down() })),
            "spoil" => link.spoil(SPOIL_EVERY),
            other => process::tell(&json!({ "failed": format!("no command '{other}'") })),
        }
    }
    Ok(())
}

/// Serves a folder as `millpond serve FOLDER --format FORMAT` does.
async fn serve_folder(world: &Arc<RealWorld>, folder: &Path, format: &str, at: &Address) -> Result<()> {
    let policy = ImagePolicy::below(vec![folder.to_owned()])?;
    let engine =
        Engine::new(world.clone(), EngineOptions { threads: 1, policy, ..EngineOptions::default() })?;
    let options = RepositoryOptions { folder: folder.to_owned(), format: Some(format.to_owned()) };
    let repository = Repository::open(engine, options).await?;
    let server: Server = repository.server(ServerOptions { max_connections: 0, ..ServerOptions::default() });
    let listener = listen(world, at)?;
    io::spawn(async move {
        if let Err(error) = server.listen(listener).await {
            process::tell(&json!({ "failed": error.to_string() }));
        }
    });
    io::spawn(async move { repository.keep_tidy().await });
    Ok(())
}

/// Exports a node read-only, to any number of clients. Ready when it listens.
async fn serve_node(world: &Arc<RealWorld>, node: &Value, at: &Address) -> Result<()> {
    let engine = Engine::new(world.clone(), EngineOptions { threads: 1, ..EngineOptions::default() })?;
    let node = engine.add_node(node.as_object().cloned().unwrap_or_default()).await?;
    let limits = ServerOptions { max_connections: 0, handshake_limit: Some(Duration::from_secs(60)) };
    let server = engine.nbd_server(&ServerRequest { options: limits });
    let options =
        ExportOptions { description: "millpond demo".to_owned(), ..ExportOptions::read_only(EXPORT) };
    server.add(ExportRequest { id: EXPORT.to_owned(), node, options })?;
    let (ready, listening) = oneshot::channel();
    let address = at.clone();
    io::spawn(async move {
        let told = |_: &Address| {
            // Whoever waited may be gone.
            let _ = ready.send(());
        };
        if let Err(error) = server.listen(&address, told).await {
            process::tell(&json!({ "failed": error.to_string() }));
        }
    });
    // Else it has failed and said so.
    let _ = listening.await;
    Ok(())
}

fn listen(world: &RealWorld, at: &Address) -> Result<Box<dyn Listener>> {
    world.listen(at).map_err(|e| BlockError::system(format!("cannot listen at {at}"), e))
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_served_survives_the_command_line() {
        let file = Shelved::File { folder: "/f".into(), name: "n.raw".to_owned(), format: "raw".to_owned() };
        let node = Shelved::Elsewhere(json!({ "driver": "raw" }));
        for shelved in [file, node] {
            assert_eq!(Shelved::from_json(&shelved.to_json()), shelved);
        }
    }
}
