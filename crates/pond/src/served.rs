//! The socket of one clone, and the export behind it.
//!
//! Invariant: it is up and protected, or nothing of it is left.

use std::path::Path;
use std::sync::{Arc, Mutex};

use block::{BlockError, ErrorKind, Result};
use engine::{Engine, ExportRequest, NbdServer, ServerRequest};
use export::nbd::ExportOptions;
use io::folders::Owner;
use io::select::{Either, race};
use io::sync::Notify;
use io::{Address, World};

use crate::image::Image;
use crate::lock::lock;

/// A socket through which a VM reads its image.
pub(crate) struct Served {
    /// Id of the one export of its server, among all of the engine.
    export: String,
    server: Arc<NbdServer>,
    stop: Arc<Notify>,
    ended: Arc<Notify>,
}

impl Served {
    /// Opens `socket`, which is `owner`'s and nobody else's (the daemon's user's without one), with an export whose id
    /// is `export`.
    pub(crate) async fn open(
        engine: &Arc<Engine>,
        image: &Image,
        socket: &Path,
        owner: Option<Owner>,
        export: String,
    ) -> Result<Self> {
        let server = Arc::new(engine.nbd_server(&ServerRequest::default()));
        add(&server, image, &export)?;
        let (stop, ended) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
        let served = Self { export, server, stop, ended };
        let opened = async {
            served.listen(socket).await?;
            protect(&**engine.world(), socket, owner).await
        };
        if let Err(error) = opened.await {
            // What went wrong first is what counts.
            let _ = served.close().await;
            return Err(error);
        }
        Ok(served)
    }

    /// Serves clients until it is stopped; ready when it is listening.
    async fn listen(&self, socket: &Path) -> Result<()> {
        let (up, outcome) = (Arc::new(Notify::new()), Arc::new(Mutex::new(None)));
        let listening = {
            let (server, stop, ended) = (self.server.clone(), self.stop.clone(), self.ended.clone());
            let (up, outcome) = (up.clone(), outcome.clone());
            let address = Address::Unix { path: socket.to_owned() };
            async move {
                let told = up.clone();
                let listened = race(server.listen(&address, |_| told.notify_one()), stop.notified()).await;
                if let Either::First(Err(error)) = listened {
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
        failed.map_or(Ok(()), Err)
    }

    /// Connections of VMs.
    pub(crate) fn connections(&self) -> usize {
        self.server.connections()
    }

    /// Ends its connections and takes the socket away.
    pub(crate) async fn close(&self) -> Result<()> {
        let ended = self.ended.notified();
        self.stop.notify_one();
        ended.await;
        match self.server.remove(&self.export).await {
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
            outcome => outcome,
        }
    }
}

/// Exports the image.
fn add(server: &NbdServer, image: &Image, export: &str) -> Result<()> {
    let description = image.record.stated.clone().unwrap_or_default();
    let options = ExportOptions { description, ..ExportOptions::read_only("") };
    let request =
        |node: &str| ExportRequest { id: export.to_owned(), node: node.to_owned(), options: options.clone() };
    let [top, cache] = image.readable();
    match server.add(request(top)) {
        Err(error) if error.kind() == ErrorKind::NotFound => server.add(request(cache))?,
        added => added?,
    };
    Ok(())
}

/// Lets nobody but its owner connect.
async fn protect(world: &dyn World, socket: &Path, owner: Option<Owner>) -> Result<()> {
    let folders = world.folders();
    let protected = async {
        folders.set_mode(socket, 0o600).await?;
        let given = match owner {
            Some(owner) => folders.set_owner(socket, owner).await,
            None => Ok(()),
        };
        match given {
            // Only root gives things away: the VMs of others are those of the same user.
            Err(error) if error.kind() == std::io::ErrorKind::PermissionDenied => Ok(()),
            given => given,
        }
    };
    let failed = |e| BlockError::system(format!("cannot protect '{}'", socket.display()), e);
    protected.await.map_err(failed)
}
