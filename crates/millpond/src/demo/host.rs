//! The host process: the cache of the far image, its readers' server, the fill and the cut.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use block::{BlockError, ErrorKind, Result};
use engine::{Engine, EngineOptions};
use flow::copy::{Policy, Progress};
use io::Address;
use io::real::RealWorld;
use io::select::race;
use serde_json::{Map, Value, json};

use super::process::{self, Parent};
use super::repository::{EXPORT, serve};

/// Bytes of a cluster of the cache: the granule of fetching.
pub(super) const GRANULE: u64 = 64 << 10;

const SOURCE: &str = "source";
const CACHE: &str = "cache";
const TOP: &str = "top";
/// Between two words on how far the fill is.
const TICK: Duration = Duration::from_millis(200);

/// How a host is started.
pub(super) struct Role {
    /// Where the source listens.
    pub(super) source: PathBuf,
    /// The file that holds the cache's clusters; made anew.
    pub(super) cache: PathBuf,
    /// Where readers find the disk.
    pub(super) socket: PathBuf,
}

impl Role {
    pub(super) fn to_json(&self) -> Value {
        json!({ "role": "host", "source": self.source, "cache": self.cache, "socket": self.socket })
    }

    /// The opposite of [`Role::to_json`]; what is missing is empty.
    pub(super) fn from_json(role: &Value) -> Self {
        let path = |key: &str| PathBuf::from(role[key].as_str().unwrap_or_default());
        Self { source: path("source"), cache: path("cache"), socket: path("socket") }
    }
}

/// Serves until the parent is gone.
pub(super) async fn run(world: Arc<RealWorld>, role: Role, mut parent: Parent) -> Result<()> {
    let engine = Engine::new(world, EngineOptions::default())?;
    let size = open(&engine, &role).await?;
    let server = serve(&engine, TOP, &Address::Unix { path: role.socket }).await?;
    process::tell(&json!({ "event": "ready", "size": size }));
    while let Some(command) = parent.command().await {
        let done = match command.as_str() {
            "fill" => fill(&engine),
            "cut" => cut(&engine).await,
            other => Err(BlockError::new(ErrorKind::Invalid, format!("no command '{other}'"))),
        };
        if let Err(error) = done {
            process::tell(&json!({ "failed": error.to_string() }));
        }
    }
    drop(server);
    Ok(())
}

/// Copy-on-read over the cache over the source; answers the size.
async fn open(engine: &Engine, role: &Role) -> Result<u64> {
    let source = json!({
        "driver": "nbd", "node-name": SOURCE, "read-only": true, "export": EXPORT, "reconnect-delay": 10,
        "server": { "type": "unix", "path": role.source },
    });
    add(engine, source).await?;
    let size = engine.nodes().iter().find(|node| node.name == SOURCE).map_or(0, |node| node.size);
    let made = std::fs::File::create_new(&role.cache);
    made.map_err(|e| BlockError::system(format!("cannot make '{}'", role.cache.display()), e))?;
    let cache = json!({
        "driver": "memory-format", "node-name": CACHE, "size": size, "cluster-size": GRANULE,
        "file": { "driver": "file", "filename": role.cache }, "backing": SOURCE,
    });
    add(engine, cache).await?;
    add(engine, json!({ "driver": "copy-on-read", "node-name": TOP, "file": CACHE })).await?;
    Ok(size)
}

async fn add(engine: &Engine, options: Value) -> Result<()> {
    let options: Map<String, Value> = options.as_object().cloned().unwrap_or_default();
    engine.add_node(options).await.map(drop)
}

/// Begins to fill; tells how far it is until it has ended.
fn fill(engine: &Arc<Engine>) -> Result<()> {
    let fill = engine.start_fill("fill", TOP, Policy::default())?;
    let progress = fill.progress().clone();
    let shown = progress.clone();
    io::spawn(async move {
        let ended = async { Some(fill.ended().await) };
        let ticking = async {
            loop {
                io::sleep(TICK).await;
                process::tell(&far("filling", &shown));
            }
        };
        let outcome = match race(ended, ticking).await {
            io::select::Either::First(Some(Ok(()))) => far("filled", &progress),
            io::select::Either::First(Some(Err(error))) => json!({ "failed": error.to_string() }),
            io::select::Either::First(None) | io::select::Either::Second(()) => Value::Null,
        };
        process::tell(&outcome);
    });
    Ok(())
}

fn far(event: &str, progress: &Progress) -> Value {
    json!({
        "event": event,
        "total": progress.total.load(Ordering::Relaxed),
        "done": progress.done.load(Ordering::Relaxed),
        "copied": progress.copied.load(Ordering::Relaxed),
        "window": progress.window.load(Ordering::Relaxed),
    })
}

/// Cuts the cache off, and closes the source.
async fn cut(engine: &Engine) -> Result<()> {
    let (source, top) = (engine.stats(SOURCE)?, engine.stats(TOP)?);
    engine.cut(TOP).await?;
    // Fails if anybody still used it.
    engine.delete_node(SOURCE).await?;
    let object = |stats: Vec<(String, u64)>| Value::from_iter(stats);
    process::tell(&json!({ "event": "cut", "source": object(source), "cache": object(top) }));
    Ok(())
}
