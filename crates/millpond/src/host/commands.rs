//! The pond's QMP commands: `image-add`, `image-remove`, `query-images`, `clone-create`, `clone-pivot`, `query-clones`.

use std::path::PathBuf;
use std::sync::Arc;

use control::{Failure, Table};
use pond::{CloneInfo, CloneRequest, Holding, ImageInfo, Mode, Pond, Source};
use qmp::schema::Nothing;

use super::remedy;

qmp::enumeration! {
    /// What a cache is to hold.
    pub enum CacheMode {
        /// All of the image.
        Complete = "complete",
        /// What was read.
        WorkingSet = "working-set",
    }
}

impl From<CacheMode> for Mode {
    fn from(mode: CacheMode) -> Self {
        match mode {
            CacheMode::Complete => Self::Complete,
            CacheMode::WorkingSet => Self::WorkingSet,
        }
    }
}

qmp::structure! {
    /// Arguments of `image-add`.
    pub struct ImageAdd {
        /// What to cache: an NBD URI, or an absolute path.
        "source" => source: String,
        /// What to hold of it; complete without it.
        "mode" => mode: Option<CacheMode>,
        /// Most bytes that the cache's file shall take, of a working set.
        "quota" => quota: Option<u64>,
    }
}

qmp::structure! {
    /// Arguments of `image-remove`, and the answer of `image-add`.
    pub struct ImageName {
        /// Its name in the pond.
        "image" => image: String,
    }
}

qmp::structure! {
    /// An image of the pond.
    pub struct Image {
        /// Its name in the pond.
        "image" => image: String,
        /// Where it comes from.
        "source" => source: String,
        /// Where it stands: filling, complete, working-set, lost or damaged.
        "state" => state: String,
        /// What is wrong.
        "trouble" => trouble: Option<String>,
        /// Virtual size in bytes.
        "size" => size: u64,
        /// Bytes that are here, or known to be zeros.
        "done" => done: u64,
        /// Bytes that came from the source since the daemon started.
        "fetched" => fetched: u64,
        /// The version that the repository states; without it only the size is checked.
        "stated" => stated: Option<String>,
        /// Path of the cache.
        "cache" => cache: String,
    }
}

qmp::structure! {
    /// Whose a file is.
    pub struct Owner {
        /// Number of the user.
        "user" => user: u32,
        /// Number of the group.
        "group" => group: u32,
    }
}

impl From<Owner> for io::folders::Owner {
    fn from(owner: Owner) -> Self {
        Self { user: owner.user, group: owner.group }
    }
}

qmp::structure! {
    /// Arguments of `clone-create`.
    pub struct CloneCreate {
        /// What it is a clone of: an NBD URI, or an absolute path.
        "source" => source: String,
        /// Absolute path of the VM's disk.
        "overlay" => overlay: String,
        /// Its virtual size in bytes; the image's without it.
        "size" => size: Option<u64>,
        /// Whose it shall be, if not the daemon's user's.
        "owner" => owner: Option<Owner>,
        /// Whether a file that is there may be overwritten.
        "force" => force: Option<bool>,
        /// What the cache is to hold, if it is not there yet; complete without it.
        "mode" => mode: Option<CacheMode>,
        /// Most bytes that the cache's file shall take, of a working set.
        "quota" => quota: Option<u64>,
    }
}

qmp::structure! {
    /// Arguments of `clone-pivot`.
    pub struct ClonePivot {
        /// Absolute path of the VM's disk.
        "overlay" => overlay: String,
    }
}

qmp::structure! {
    /// A clone of the pond.
    pub struct Clone {
        /// Path of the VM's disk.
        "overlay" => overlay: String,
        /// Name of the image.
        "image" => image: String,
        /// Virtual size in bytes.
        "size" => size: u64,
        /// Whether it needs the daemon no more.
        "pivoted" => pivoted: bool,
        /// Why it is not served.
        "trouble" => trouble: Option<String>,
        /// Connections of VMs.
        "connections" => connections: u64,
        /// The socket that it reads through.
        "socket" => socket: String,
    }
}

impl From<ImageInfo> for Image {
    fn from(info: ImageInfo) -> Self {
        Self {
            image: info.name,
            source: info.source,
            state: info.state.map_or("damaged", pond::State::name).to_owned(),
            trouble: info.trouble.map(remedy::trouble),
            size: info.size,
            done: info.done,
            fetched: info.fetched,
            stated: info.stated,
            cache: info.cache.to_string_lossy().into_owned(),
        }
    }
}

impl From<CloneInfo> for Clone {
    fn from(info: CloneInfo) -> Self {
        Self {
            overlay: info.overlay.to_string_lossy().into_owned(),
            image: info.image,
            size: info.size,
            pivoted: info.pivoted,
            trouble: info.trouble.map(remedy::trouble),
            connections: info.connections as u64,
            socket: info.socket.to_string_lossy().into_owned(),
        }
    }
}

fn holding(mode: Option<CacheMode>, quota: Option<u64>) -> Holding {
    Holding { mode: mode.map_or(Mode::Complete, Mode::from), quota }
}

/// Adds the group.
pub(super) fn add(table: &mut Table, pond: &Arc<Pond>) {
    let here = pond.clone();
    table.command("image-add", move |arguments: ImageAdd| {
        let pond = here.clone();
        async move {
            let holding = holding(arguments.mode, arguments.quota);
            let added = pond.add_image(&source(&arguments.source)?, holding).await;
            let image = added.map_err(remedy::failure)?;
            Ok(ImageName { image })
        }
    });
    let here = pond.clone();
    table.command("image-remove", move |arguments: ImageName| {
        let pond = here.clone();
        async move {
            pond.remove_image(&arguments.image).await.map_err(remedy::failure)?;
            Ok(Nothing {})
        }
    });
    let here = pond.clone();
    table.command("query-images", move |_: Nothing| {
        let pond = here.clone();
        async move {
            pond.counted().await;
            Ok(pond.images().into_iter().map(Image::from).collect::<Vec<_>>())
        }
    });
    add_clones(table, pond);
}

fn add_clones(table: &mut Table, pond: &Arc<Pond>) {
    let here = pond.clone();
    table.command("clone-create", move |arguments: CloneCreate| {
        let pond = here.clone();
        async move {
            let request = CloneRequest {
                source: source(&arguments.source)?,
                overlay: PathBuf::from(arguments.overlay),
                size: arguments.size,
                owner: arguments.owner.map(io::folders::Owner::from),
                force: arguments.force.unwrap_or(false),
                holding: holding(arguments.mode, arguments.quota),
            };
            Ok(Clone::from(pond.create_clone(&request).await.map_err(remedy::failure)?))
        }
    });
    let here = pond.clone();
    table.command("clone-pivot", move |arguments: ClonePivot| {
        let pond = here.clone();
        async move {
            let pivoted = pond.pivot_clone(arguments.overlay.as_ref()).await;
            Ok(Clone::from(pivoted.map_err(remedy::failure)?))
        }
    });
    let here = pond.clone();
    table.command("query-clones", move |_: Nothing| {
        let pond = here.clone();
        async move { Ok(pond.clones().into_iter().map(Clone::from).collect::<Vec<_>>()) }
    });
}

fn source(text: &str) -> Result<Source, Failure> {
    let known = text.contains("://") || text.starts_with('/');
    if !known {
        return Err(Failure::new(format!("source '{text}' is neither an NBD URI nor an absolute path")));
    }
    Ok(Source::parse(text, "/".as_ref())?)
}
