//! Clones: disks of VMs over a cache, each with a socket of its own.
//!
//! Order of making one: record, socket, overlay. So whatever a crash leaves is either served, or has no overlay and is
//! forgotten.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use block::{BlockError, ErrorKind};
use engine::Event;
use io::folders::Owner;

use crate::image::Image;
use crate::layout::short;
use crate::lock::lock;
use crate::overlay;
use crate::pond::{CloneInfo, Pond};
use crate::record::{self, CloneRecord, Holding};
use crate::refusal::{Refusal, Remedy, Result, Trouble};
use crate::served::Served;
use crate::source::Source;

/// What a clone is made like.
#[derive(Clone, Debug)]
pub struct CloneRequest {
    /// What it is a clone of.
    pub source: Source,
    /// The file of the VM's disk; absolute.
    pub overlay: PathBuf,
    /// Virtual size in bytes; that of the image without it.
    pub size: Option<u64>,
    /// Whose the disk shall be, if not the daemon's user's.
    pub owner: Option<Owner>,
    /// Whether an overlay that is there may be overwritten.
    pub force: bool,
    /// How the cache is run, if there is none yet.
    pub holding: Holding,
}

/// A clone of a pond.
pub(crate) struct Clone {
    record: Mutex<CloneRecord>,
    socket: PathBuf,
    /// Why it is not served though it is not pivoted; or how it is.
    served: std::result::Result<Option<Served>, Trouble>,
}

impl Clone {
    pub(crate) fn record(&self) -> CloneRecord {
        lock(&self.record).clone()
    }

    /// Whether it reads the image of that name: its socket is served from it, or its disk reads the cache itself.
    pub(crate) fn needs(&self, image: &str) -> bool {
        self.served.is_ok() && self.record().image == image
    }

    /// Ends its connections and takes its socket away.
    pub(crate) async fn close(&self) -> block::Result<()> {
        match &self.served {
            Ok(Some(served)) => served.close().await,
            _ => Ok(()),
        }
    }

    fn info(&self) -> CloneInfo {
        let record = self.record();
        let served = self.served.as_ref().ok().and_then(Option::as_ref);
        CloneInfo {
            overlay: record.overlay.into(),
            image: record.image,
            size: record.size,
            pivoted: record.pivoted,
            trouble: self.served.as_ref().err().cloned(),
            connections: served.map_or(0, Served::connections),
            socket: self.socket.clone(),
        }
    }
}

impl Pond {
    /// Makes a VM's disk that can be used at once (`clone-create`).
    pub async fn create_clone(self: &Arc<Self>, request: &CloneRequest) -> Result<CloneInfo> {
        let _turn = self.turn().await;
        let overlay = self.checked(request).await?;
        let is_known = self.has_image(&request.source);
        let image = self.image_of(&request.source, request.holding).await?;
        let made = self.clone_of(&image, overlay, request).await;
        if made.is_err() && !is_known {
            // Nobody asked for the image alone. What went wrong first is what counts.
            let _ = self.remove_unused_image(&image.name).await;
        }
        made
    }

    /// The caller has the turn.
    async fn clone_of(
        self: &Arc<Self>,
        image: &Image,
        overlay: String,
        request: &CloneRequest,
    ) -> Result<CloneInfo> {
        let size = request.size.unwrap_or(image.record.size);
        if size < image.record.size {
            let context = format!(
                "a disk of {size} bytes is smaller than the image ({} bytes): a VM would miss its end",
                image.record.size
            );
            return Err(Refusal::new(ErrorKind::Invalid, context, Remedy::Enlarge));
        }
        let id = short(&overlay);
        if let Some(old) = { lock(&self.clones).remove(&id) } {
            old.close().await?;
        }
        let world = &**self.engine.world();
        if request.force {
            // First: after a crash an old overlay must not be found on another image.
            overlay::remove(world, &request.overlay).await?;
        }
        let record = CloneRecord::new(overlay, image.name.clone(), image.record.identity.clone(), size);
        record::save(world, &self.layout.clone_record(&id), &record).await?;
        let made = async {
            let clone = self.serve_clone(&id, record, request.owner).await?;
            overlay::create(world, &request.overlay, size, &self.layout.socket(&id), request.owner).await?;
            Ok(clone.info())
        };
        match made.await {
            Err(error) => {
                self.forget_clone(&id).await;
                Err(error)
            }
            made => made,
        }
    }

    /// What can be said against a request before anything is made; answers the overlay's path as text.
    async fn checked(&self, request: &CloneRequest) -> Result<String> {
        let path = request.overlay.display();
        let Some(text) = request.overlay.to_str().filter(|_| request.overlay.is_absolute()) else {
            let context = format!("the path of the overlay, '{path}', is not absolute or not UTF-8");
            return Err(BlockError::new(ErrorKind::Invalid, context).into());
        };
        if let Some(owner) = request.owner.filter(|owner| !owner.is_somebody()) {
            let context = format!("'{path}' cannot be for user {}, group {}", owner.user, owner.group);
            return Err(BlockError::new(ErrorKind::Invalid, context).into());
        }
        let there = self.engine.world().folders().about(&request.overlay).await;
        if there.is_ok() && !request.force {
            return Err(overlay::exists(&request.overlay));
        }
        if there.is_ok() {
            // Nobody's running disk is pulled from under him.
            drop(overlay::open_alone(&**self.engine.world(), &request.overlay).await?);
        }
        Ok(text.to_owned())
    }

    /// Opens the socket of a clone if it needs one, and lists the clone.
    async fn serve_clone(
        self: &Arc<Self>,
        id: &str,
        record: CloneRecord,
        owner: Option<Owner>,
    ) -> Result<Arc<Clone>> {
        let socket = self.layout.socket(id);
        let served = match record.pivoted {
            true => None,
            false => {
                let (image, export) = (self.image_below(&record)?, format!("clone-{id}"));
                Some(Served::open(&self.engine, &image, &socket, owner, export).await?)
            }
        };
        Ok(self.list_clone(id, record, Ok(served)))
    }

    fn list_clone(
        &self,
        id: &str,
        record: CloneRecord,
        served: std::result::Result<Option<Served>, Trouble>,
    ) -> Arc<Clone> {
        let clone = Clone { record: Mutex::new(record), socket: self.layout.socket(id), served };
        let clone = Arc::new(clone);
        lock(&self.clones).insert(id.to_owned(), clone.clone());
        clone
    }

    /// The image that a clone was made of.
    fn image_below(&self, record: &CloneRecord) -> Result<Arc<Image>> {
        let within = |refusal: Refusal| refusal.within(format_args!("'{}'", record.overlay));
        let image = self.known_image(&record.image).map_err(within)?;
        if image.record.identity != record.identity {
            let context =
                format!("'{}' was made on another version of image '{}'", record.overlay, record.image);
            return Err(Refusal::new(ErrorKind::Invalid, context, Remedy::NewClone));
        }
        Ok(image)
    }

    /// Finds the clone that the last daemon left in the record at `path`. One that cannot be served is listed all the
    /// same.
    pub(crate) async fn recover_clone(self: &Arc<Self>, id: &str, path: &Path) -> Result<()> {
        let world = self.engine.world();
        let record: CloneRecord = record::load(&**world, path).await?;
        let about = world.folders().about(record.overlay.as_ref()).await;
        if matches!(&about, Err(error) if error.kind() == std::io::ErrorKind::NotFound) {
            // The VM is gone, and its disk with it.
            let removed = world.folders().remove(path).await;
            return Ok(
                removed.map_err(|e| BlockError::system(format!("cannot remove '{}'", path.display()), e))?
            );
        }
        let owner = about.ok().map(|about| about.owner);
        if let Err(refusal) = self.serve_clone(id, record.clone(), owner).await {
            self.engine.events().tell(Event::RequestFailed { error: refusal.to_string() });
            self.list_clone(id, record, Err(Trouble::from(&refusal)));
        }
        Ok(())
    }

    /// Serves the clones of an image that was not there when they were found.
    pub(crate) async fn serve_again(self: &Arc<Self>, image: &str) {
        let all: Vec<_> = lock(&self.clones).iter().map(|(id, clone)| (id.clone(), clone.clone())).collect();
        for (id, clone) in all {
            let record = clone.record();
            if clone.served.is_ok() || record.image != image {
                continue;
            }
            let owner = self.engine.world().folders().about(record.overlay.as_ref()).await;
            let owner = owner.ok().map(|about| about.owner);
            if let Err(refusal) = self.serve_clone(&id, record.clone(), owner).await {
                self.list_clone(&id, record, Err(Trouble::from(&refusal)));
            }
        }
    }

    /// Takes back a clone that could not be made, or whose overlay is gone.
    async fn forget_clone(&self, id: &str) {
        let clone = { lock(&self.clones).remove(id) };
        if let Some(clone) = clone {
            let _ = clone.close().await;
        }
        // What is left is found without its overlay by the next daemon, and forgotten then.
        let _ = self.engine.world().folders().remove(&self.layout.clone_record(id)).await;
    }

    /// Forgets the clones whose overlays were removed.
    pub(crate) async fn forget_gone_clones(&self) {
        let all: Vec<_> =
            lock(&self.clones).iter().map(|(id, clone)| (id.clone(), clone.record().overlay)).collect();
        for (id, overlay) in all {
            let there = self.engine.world().folders().about(Path::new(&overlay)).await;
            if matches!(&there, Err(error) if error.kind() == std::io::ErrorKind::NotFound) {
                self.forget_clone(&id).await;
            }
        }
    }

    /// Makes a disk that no VM uses read the cache itself: from then on it needs no daemon (`clone-pivot`). Done again,
    /// it follows a disk that has another owner now.
    pub async fn pivot_clone(self: &Arc<Self>, overlay: &Path) -> Result<CloneInfo> {
        let _turn = self.turn().await;
        let id = short(&overlay.to_string_lossy());
        let clone = { lock(&self.clones).get(&id).cloned() };
        let Some(clone) = clone else {
            let context = format!("'{}' is no clone of this pond", overlay.display());
            return Err(Refusal::new(ErrorKind::NotFound, context, Remedy::SeeList));
        };
        let mut record = clone.record();
        let image = self.image_below(&record)?;
        if !image.is_settled() {
            return Err(not_complete(overlay, &image));
        }
        let world = &**self.engine.world();
        let about = world.folders().about(overlay).await;
        let about =
            about.map_err(|e| BlockError::system(format!("cannot look at '{}'", overlay.display()), e))?;
        let cache = self.grant(&image.name, about.owner).await?;
        let socket = overlay::backing_name(&clone.socket);
        let is_ours = |name: &str| name == socket || self.layout.is_reading(name.as_ref(), &image.name);
        overlay::pivot(world, overlay, &cache, is_ours).await?;
        if record.pivoted {
            return Ok(clone.info());
        }
        record.pivoted = true;
        record::save(world, &self.layout.clone_record(&id), &record).await?;
        clone.close().await?;
        Ok(self.list_clone(&id, record, Ok(None)).info())
    }

    /// All clones, by overlay (`query-clones`).
    pub fn clones(&self) -> Vec<CloneInfo> {
        let mut infos: Vec<_> = lock(&self.clones).values().map(|clone| clone.info()).collect();
        infos.sort_by(|a, b| a.overlay.cmp(&b.overlay));
        infos
    }
}

fn not_complete(overlay: &Path, image: &Image) -> Refusal {
    let context = format!(
        "'{}' needs the daemon until image '{}' is complete ({} of {} bytes)",
        overlay.display(),
        image.name,
        image.done(),
        image.record.size,
    );
    Refusal::new(ErrorKind::Busy, context, Remedy::AwaitComplete)
}
