//! The host process: a pond, as `millpond up` has one, driven by the demo.
//!
//! Invariant: it may be killed at any moment; one that is started with the same role goes on where it was.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use block::{BlockError, ErrorKind, Result};
use engine::{Engine, EngineOptions};
use io::real::RealWorld;
use pond::{CloneRequest, Holding, ImageInfo, Pond, PondOptions, Source, State};
use serde_json::{Value, json};

use super::process::{self, PROGRESS, Parent};

/// Bytes of a cluster of the cache: the granule of fetching.
pub(super) const GRANULE: u64 = 64 << 10;

/// Between two words on how far the fill is.
const TICK: Duration = Duration::from_millis(20);
/// How long a read waits for a source that is lost.
const SOURCE_TIMEOUT: Duration = Duration::from_secs(60);

/// How a host is started.
pub(super) struct Role {
    /// Where the image comes from, as `millpond clone` takes it.
    pub(super) source: String,
    /// The pond.
    pub(super) pond: PathBuf,
    /// The sockets of clones.
    pub(super) sockets: PathBuf,
    /// The disks of the readers.
    pub(super) overlays: Vec<PathBuf>,
    /// How large they are, in bytes; as large as the image without it.
    pub(super) size: Option<u64>,
}

impl Role {
    pub(super) fn to_json(&self) -> Value {
        json!({
            "role": "host", "source": self.source, "pond": self.pond, "sockets": self.sockets,
            "overlays": self.overlays, "size": self.size,
        })
    }

    /// The opposite of [`Role::to_json`]; what is missing is empty.
    pub(super) fn from_json(role: &Value) -> Self {
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        Self {
            source: text(&role["source"]),
            pond: text(&role["pond"]).into(),
            sockets: text(&role["sockets"]).into(),
            overlays: role["overlays"].as_array().into_iter().flatten().map(|o| text(o).into()).collect(),
            size: role["size"].as_u64(),
        }
    }
}

/// Serves until it is told to end, or the parent is gone.
pub(super) async fn run(world: Arc<RealWorld>, role: Role, mut parent: Parent) -> Result<()> {
    let engine = Engine::new(world, EngineOptions::default())?;
    let options = PondOptions {
        folder: role.pond.clone(),
        sockets: role.sockets.clone(),
        source_timeout: SOURCE_TIMEOUT,
    };
    let pond = Pond::open(engine, options).await?;
    process::tell(&json!({ "event": "ready" }));
    let watched = pond.clone();
    io::spawn(async move { watch(&watched).await });
    while let Some(command) = parent.command().await {
        let done = match command["do"].as_str().unwrap_or_default() {
            "clone" => clone(&pond, &role).await,
            "pivot" => pivot(&pond, &role).await,
            "end" => return pond.close().await,
            other => Err(BlockError::new(ErrorKind::Invalid, format!("no command '{other}'"))),
        };
        if let Err(error) = done {
            process::tell(&json!({ "failed": error.to_string() }));
        }
    }
    Ok(())
}

/// Makes the disks.
async fn clone(pond: &Arc<Pond>, role: &Role) -> Result<()> {
    for overlay in &role.overlays {
        let source = Source::parse(&role.source, &role.pond)?;
        let overlay = overlay.clone();
        let (size, owner, force, holding) = (role.size, None, false, Holding::COMPLETE);
        let request = CloneRequest { source, overlay, size, owner, force, holding };
        pond.create_clone(&request).await?;
    }
    process::tell(&json!({ "event": "cloned" }));
    Ok(())
}

/// Makes the disks independent of this process.
async fn pivot(pond: &Arc<Pond>, role: &Role) -> Result<()> {
    for overlay in &role.overlays {
        pond.pivot_clone(overlay).await?;
    }
    process::tell(&json!({ "event": "pivoted" }));
    Ok(())
}

/// Tells how far the image is, until it is complete.
async fn watch(pond: &Pond) {
    loop {
        io::sleep(TICK).await;
        let Some(image) = pond.images().into_iter().next() else { continue };
        if image.state == Some(State::Complete) {
            return process::tell(&far("complete", &image));
        }
        process::tell(&far(PROGRESS, &image));
    }
}

fn far(event: &str, image: &ImageInfo) -> Value {
    json!({
        "event": event, "cache": image.cache, "fetched": image.fetched,
        "trouble": image.trouble.as_ref().map(|trouble| &trouble.what),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_role_survives_the_command_line() {
        let role = Role {
            source: "nbd://h/x".to_owned(),
            pond: "/p".into(),
            sockets: "/s".into(),
            overlays: vec!["/a".into(), "/b".into()],
            size: Some(1 << 30),
        };
        assert_eq!(Role::from_json(&role.to_json()).to_json(), role.to_json());
    }
}
