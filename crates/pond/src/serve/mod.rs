//! The repository: the images in a folder, each an export by its name relative to the folder.
//!
//! Invariants: a name leads to nothing outside of the folder, whatever links and `..` it has; formats come from the
//! name or from the operator, never from content; an image is open while somebody uses it and for a while after that;
//! what is exported is the file that had the name when it was asked for.

mod names;
mod shelf;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use block::{BlockError, Result};
use engine::{Engine, UnderWay};
use export::nbd::{Catalogue, Export, Server, ServerOptions};
use io::LocalFut;

use names::Names;
use shelf::Shelf;

/// How a folder is served.
#[derive(Clone, Debug)]
pub struct RepositoryOptions {
    /// The folder.
    pub folder: PathBuf,
    /// The format of all files; without it their names say it, and only those with such a name are served.
    pub format: Option<String>,
}

/// A folder of images. All of them are read-only.
pub struct Repository {
    names: Names,
    shelf: Shelf,
}

impl Repository {
    /// Serves a folder. The engine's policy should bound what images may name to the same folder.
    pub async fn open(engine: Arc<Engine>, options: RepositoryOptions) -> Result<Arc<Self>> {
        let RepositoryOptions { folder, format } = options;
        let failed = |e| BlockError::system(format!("cannot serve '{}'", folder.display()), e);
        let real = engine.world().folders().resolve(&folder).await.map_err(failed)?;
        if engine.world().folders().about(&real).await.map_err(failed)?.kind != io::folders::Kind::Folder {
            let context = format!("cannot serve '{}': it is no folder", folder.display());
            return Err(BlockError::new(block::ErrorKind::Invalid, context));
        }
        let names = Names::new(engine.world().clone(), real, format)?;
        let shelf = Shelf::new(engine);
        Ok(Arc::new(Self { names, shelf }))
    }

    /// A server for it that listens nowhere yet.
    pub fn server(self: &Arc<Self>, options: ServerOptions) -> Server {
        let engine = self.shelf.engine();
        Server::with_catalogue(options, engine.threads().to_vec(), engine.events().clone(), self.clone())
    }

    /// Closes what nobody uses any more, for ever.
    pub async fn keep_tidy(&self) {
        loop {
            self.shelf.close_idle().await;
            io::sleep(shelf::IDLE).await;
        }
    }

    /// The folder.
    pub fn folder(&self) -> &Path {
        self.names.folder()
    }

    /// Ends the connections of all clients and closes the images. Whoever calls this accepts no more clients.
    pub async fn close(&self) {
        self.shelf.close_all().await;
    }

    /// What clients wait for.
    pub fn under_way(&self) -> UnderWay {
        self.shelf.under_way()
    }

    /// Images that are open now.
    pub fn opened(&self) -> usize {
        self.shelf.len()
    }
}

impl Catalogue for Repository {
    fn open<'a>(&'a self, name: &'a str) -> LocalFut<'a, Result<Option<Arc<Export>>>> {
        Box::pin(async move {
            match self.names.find(name).await? {
                Some(found) => self.shelf.take(name, found).await.map(Some),
                None => Ok(None),
            }
        })
    }

    fn list(&self) -> LocalFut<'_, Vec<(String, String)>> {
        Box::pin(async move {
            let names = self.names.list().await;
            names.into_iter().map(|name| (name, String::new())).collect()
        })
    }
}
