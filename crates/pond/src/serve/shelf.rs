//! Images that are open, by the name of their export.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use block::{BlockError, ErrorKind, Result};
use engine::{Engine, Exported, UnderWay};
use export::nbd::{Export, ExportOptions};
use graph::{Demand, RootId, User};
use io::Moment;
use io::sync::Semaphore;
use serde_json::json;

use super::names::Found;
use crate::identity;
use crate::image::named;
use crate::lock::lock;

/// How long an image that nobody uses stays open, and how often that is looked at.
pub(super) const IDLE: Duration = Duration::from_secs(5);

/// The open images.
pub(super) struct Shelf {
    engine: Arc<Engine>,
    open: Mutex<HashMap<String, Open>>,
    /// One image is opened or closed at a time: a name is never open twice.
    turn: Semaphore,
    number: AtomicU64,
    /// The repository is ending.
    over: AtomicBool,
}

#[derive(Clone)]
struct Open {
    found: Found,
    /// What was stated of it.
    version: String,
    node: String,
    /// Nobody may change the image while it is open: clients were told which one it is.
    still: RootId,
    exported: Arc<Exported>,
    /// When somebody last asked for it.
    asked: Moment,
}

impl Shelf {
    pub(super) fn new(engine: Arc<Engine>) -> Self {
        Self {
            engine,
            open: Mutex::default(),
            turn: Semaphore::new(1),
            number: AtomicU64::new(0),
            over: AtomicBool::new(false),
        }
    }

    pub(super) fn engine(&self) -> &Arc<Engine> {
        &self.engine
    }

    pub(super) fn len(&self) -> usize {
        self.books().len()
    }

    /// The export of a file, opened if it is not. A file that has changed while nobody used it is opened anew; while
    /// somebody does, it is what it was.
    pub(super) async fn take(&self, name: &str, found: Found) -> Result<Arc<Export>> {
        // Never closed.
        let _turn = self.turn.acquire().await;
        if self.over.load(Ordering::Relaxed) {
            return Err(BlockError::new(ErrorKind::Cancelled, format!("'{name}': the repository is ending")));
        }
        let there = self.books().get(name).cloned();
        if let Some(open) = there {
            if open.found == found && (self.is_current(&open).await || open.exported.export().clients() > 0) {
                if let Some(open) = self.books().get_mut(name) {
                    open.asked = io::now();
                }
                return Ok(open.exported.export().clone());
            }
            self.close(name).await;
        }
        let open = self.open(name, found).await?;
        let export = open.exported.export().clone();
        self.books().insert(name.to_owned(), open);
        Ok(export)
    }

    async fn is_current(&self, open: &Open) -> bool {
        let files = self.engine.files_of(&open.node);
        let now = identity::state(&**self.engine.world(), &files).await;
        now.is_ok_and(|version| version == open.version)
    }

    async fn open(&self, name: &str, found: Found) -> Result<Open> {
        let node = format!("image-{}", self.number.fetch_add(1, Ordering::Relaxed));
        let file = json!({ "driver": "file", "filename": found.path });
        let options = json!({ "driver": found.format, "file": file });
        self.engine.add_node(named(options, &node, true)).await?;
        match self.show(name, found, &node).await {
            Ok(open) => Ok(open),
            Err(error) => {
                // What went wrong first is what counts.
                let _ = self.engine.delete_node(&node).await;
                Err(error)
            }
        }
    }

    /// Keeps the image as it is, and exports it.
    async fn show(&self, name: &str, found: Found, node: &str) -> Result<Open> {
        let (still, _) = self.engine.attach(node, User::named("serve"), Demand::STILL)?;
        match self.export(name, node).await {
            Ok((version, exported)) => {
                let (node, exported) = (node.to_owned(), Arc::new(exported));
                Ok(Open { found, version, node, still, exported, asked: io::now() })
            }
            Err(error) => {
                let _ = self.engine.detach(still).await;
                Err(error)
            }
        }
    }

    async fn export(&self, name: &str, node: &str) -> Result<(String, Exported)> {
        let files = self.engine.files_of(node);
        let version = identity::state(&**self.engine.world(), &files).await?;
        let options = ExportOptions { description: version.clone(), ..ExportOptions::read_only(name) };
        Ok((version, self.engine.export(node, node, options)?))
    }

    /// Closes what nobody has used for a while.
    pub(super) async fn close_idle(&self) {
        let _turn = self.turn.acquire().await;
        let now = io::now();
        let is_idle = |open: &Open| open.exported.export().clients() == 0 && now.since(open.asked) >= IDLE;
        let idle: Vec<_> =
            self.books().iter().filter(|(_, open)| is_idle(open)).map(|(name, _)| name.clone()).collect();
        for name in idle {
            self.close(&name).await;
        }
    }

    /// Closes everything, whoever uses it. From here on nothing is opened any more.
    pub(super) async fn close_all(&self) {
        let _turn = self.turn.acquire().await;
        self.over.store(true, Ordering::Relaxed);
        let names: Vec<_> = self.books().keys().cloned().collect();
        for name in names {
            self.close(&name).await;
        }
    }

    pub(super) fn under_way(&self) -> UnderWay {
        let books = self.books();
        books.values().map(|open| open.exported.under_way()).fold(UnderWay::default(), UnderWay::and)
    }

    /// The caller has the turn.
    async fn close(&self, name: &str) {
        let Some(open) = self.books().remove(name) else { return };
        // None can fail for a node that only we use; if one does, the image stays open under a name that nobody
        // can ask for.
        let _ = open.exported.close(&self.engine).await;
        let _ = self.engine.detach(open.still).await;
        let _ = self.engine.delete_node(&open.node).await;
    }

    fn books(&self) -> MutexGuard<'_, HashMap<String, Open>> {
        lock(&self.open)
    }
}
