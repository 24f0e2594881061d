//! Clones: disks of VMs over a cache, each with a socket of its own.
//!
//! Order of making one: record, socket, overlay. So whatever a crash leaves is either served, or has no overlay and is
//! forgotten.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use block::{BlockError, ErrorKind, Result};
use engine::{ExportRequest, NbdServer, ServerRequest};
use export::nbd::ExportOptions;
use io::Address;
use io::select::race;
use io::sync::Notify;

use crate::image::Image;
use crate::layout::short;
use crate::lock::lock;
use crate::overlay;
use crate::pond::{CloneInfo, Pond};
use crate::record::{self, CloneRecord, Mode};
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
    /// Whether an overlay that is there may be overwritten.
    pub force: bool,
    /// How the cache is run, if there is none yet.
    pub mode: Mode,
}

/// A clone of a pond.
pub(crate) struct Clone {
    record: Mutex<CloneRecord>,
    socket: PathBuf,
    served: Option<Served>,
}

struct Served {
    /// Id of the one export of its server, among all of the engine.
    export: String,
    server: Arc<NbdServer>,
    stop: Arc<Notify>,
    ended: Arc<Notify>,
}

impl Clone {
    pub(crate) fn record(&self) -> CloneRecord {
        lock(&self.record).clone()
    }

    /// Ends its connections and takes its socket away.
    pub(crate) async fn close(&self) -> Result<()> {
        let Some(served) = &self.served else { return Ok(()) };
        let ended = served.ended.notified();
        served.stop.notify_one();
        ended.await;
        match served.server.remove(&served.export).await {
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
            outcome => outcome,
        }
    }

    fn info(&self) -> CloneInfo {
        let record = self.record();
        CloneInfo {
            overlay: record.overlay.into(),
            image: record.image,
            size: record.size,
            pivoted: record.pivoted,
            connections: self.served.as_ref().map_or(0, |served| served.server.connections()),
            socket: self.socket.clone(),
        }
    }
}

impl Pond {
    /// Makes a VM's disk that can be used at once (`clone-create`).
    pub async fn create_clone(self: &Arc<Self>, request: &CloneRequest) -> Result<CloneInfo> {
        let _turn = self.turn().await;
        let overlay = self.checked(request).await?;
        let image = self.image_of(&request.source, request.mode).await?;
        let size = request.size.unwrap_or(image.record.size);
        if size < image.record.size {
            let context = format!(
                "--size {size} is smaller than the image ({} bytes): a VM would miss its end",
                image.record.size
            );
            return Err(BlockError::new(ErrorKind::Invalid, context));
        }
        let id = short(&overlay);
        if let Some(old) = { lock(&self.clones).remove(&id) } {
            old.close().await?;
        }
        if request.force {
            // First: after a crash an old overlay must not be found on another image.
            overlay::remove(&**self.engine.world(), &request.overlay).await?;
        }
        let record = CloneRecord::new(overlay, image.name.clone(), image.record.identity.clone(), size);
        let path = self.layout.clone_record(&id);
        record::save(&**self.engine.world(), &path, &record).await?;
        let made = async {
            self.serve_clone(id.clone(), record).await?;
            let socket = self.layout.socket(&id);
            overlay::create(&**self.engine.world(), &request.overlay, size, &socket).await
        };
        if let Err(error) = made.await {
            self.forget_clone(&id).await;
            return Err(error);
        }
        let clone = lock(&self.clones).get(&id).cloned();
        clone.map(|clone| clone.info()).ok_or_else(|| gone(&request.overlay))
    }

    /// What can be said against a request before anything is made; answers the overlay's path as text.
    async fn checked(&self, request: &CloneRequest) -> Result<String> {
        let path = request.overlay.display();
        let invalid = |context: String| Err(BlockError::new(ErrorKind::Invalid, context));
        let Some(text) = request.overlay.to_str().filter(|_| request.overlay.is_absolute()) else {
            return invalid(format!("the path of the overlay, '{path}', is not absolute or not UTF-8"));
        };
        let there = self.engine.world().folders().about(&request.overlay).await;
        if there.is_ok() && !request.force {
            let context = format!("'{path}' exists: name another file, or say --force to overwrite it");
            return Err(BlockError::new(ErrorKind::Exists, context));
        }
        if there.is_ok() {
            // Nobody's running disk is pulled from under him.
            drop(overlay::open_alone(&**self.engine.world(), &request.overlay).await?);
        }
        Ok(text.to_owned())
    }

    /// Opens the socket of a clone, and lists it.
    pub(crate) async fn serve_clone(self: &Arc<Self>, id: String, record: CloneRecord) -> Result<()> {
        let socket = self.layout.socket(&id);
        let served = match record.pivoted {
            true => None,
            false => {
                let image = self.image(&record.image).ok_or_else(|| {
                    let context =
                        format!("'{}' needs image '{}', which is not there", record.overlay, record.image);
                    BlockError::new(ErrorKind::NotFound, context)
                })?;
                if image.record.identity != record.identity {
                    let context = format!(
                        "'{}' was made on another version of image '{}': make a new clone",
                        record.overlay, record.image
                    );
                    return Err(BlockError::new(ErrorKind::Invalid, context));
                }
                Some(self.serve(&image, &socket, format!("clone-{id}")).await?)
            }
        };
        let clone = Clone { record: Mutex::new(record), socket, served };
        lock(&self.clones).insert(id, Arc::new(clone));
        Ok(())
    }

    async fn serve(&self, image: &Image, socket: &Path, export: String) -> Result<Served> {
        let server = Arc::new(self.engine.nbd_server(&ServerRequest::default()));
        let options = ExportOptions {
            name: String::new(),
            description: image.record.stated.clone().unwrap_or_default(),
            writable: false,
            multi_conn: true,
            writethrough: false,
        };
        let request = |node: &str| ExportRequest {
            id: export.clone(),
            node: node.to_owned(),
            options: options.clone(),
        };
        let [top, cache] = image.readable();
        match server.add(request(top)) {
            Err(error) if error.kind() == ErrorKind::NotFound => server.add(request(cache))?,
            added => added?,
        };
        let (stop, ended, up) = (Arc::new(Notify::new()), Arc::new(Notify::new()), Arc::new(Notify::new()));
        let outcome = Arc::new(Mutex::new(None));
        let listening = {
            let (server, stop, ended, up) = (server.clone(), stop.clone(), ended.clone(), up.clone());
            let (outcome, address) = (outcome.clone(), Address::Unix { path: socket.to_owned() });
            async move {
                let told = up.clone();
                let listened = race(server.listen(&address, |_| told.notify_one()), stop.notified()).await;
                if let io::select::Either::First(Err(error)) = listened {
                    *lock(&outcome) = Some(error);
                }
                up.notify_one();
                ended.notify_waiters();
                ended.notify_one();
            }
        };
        io::spawn(listening);
        up.notified().await;
        let failed = lock(&outcome).take();
        if let Some(error) = failed {
            server.remove(&export).await?;
            return Err(error);
        }
        let mode = self.engine.world().folders().set_mode(socket, 0o600).await;
        mode.map_err(|e| BlockError::system(format!("cannot protect '{}'", socket.display()), e))?;
        Ok(Served { export, server, stop, ended })
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

    /// Makes a disk that no VM uses read the cache itself: from then on it needs no daemon (`clone-pivot`).
    pub async fn pivot_clone(self: &Arc<Self>, overlay: &Path) -> Result<CloneInfo> {
        let _turn = self.turn().await;
        let id = short(&overlay.to_string_lossy());
        let clone = { lock(&self.clones).get(&id).cloned() }.ok_or_else(|| gone(overlay))?;
        let mut record = clone.record();
        if record.pivoted {
            return Ok(clone.info());
        }
        let image = self.image(&record.image).ok_or_else(|| gone(overlay))?;
        if !image.is_complete() {
            let context = format!(
                "image '{}' is not complete yet ({} of {} bytes): '{}' needs the daemon until it is",
                image.name,
                image.done(),
                record.size.min(image.record.size),
                overlay.display()
            );
            return Err(BlockError::new(ErrorKind::Busy, context));
        }
        let world = &**self.engine.world();
        overlay::pivot(world, overlay, &clone.socket, &self.layout.cache(&image.name)).await?;
        record.pivoted = true;
        record::save(world, &self.layout.clone_record(&id), &record).await?;
        clone.close().await?;
        self.serve_clone(id.clone(), record).await?;
        let clone = { lock(&self.clones).get(&id).cloned() };
        clone.map(|clone| clone.info()).ok_or_else(|| gone(overlay))
    }

    /// All clones, by overlay (`query-clones`).
    pub fn clones(&self) -> Vec<CloneInfo> {
        let mut infos: Vec<_> = lock(&self.clones).values().map(|clone| clone.info()).collect();
        infos.sort_by(|a, b| a.overlay.cmp(&b.overlay));
        infos
    }
}

#[cold]
fn gone(overlay: &Path) -> BlockError {
    BlockError::new(ErrorKind::NotFound, format!("'{}' is no clone of this pond", overlay.display()))
}
