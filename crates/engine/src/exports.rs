//! Verbs on exports: start a server, export a node, take it away.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use block::{BlockError, ErrorKind, Result};
use export::nbd::{Export, ExportOptions, Server, ServerOptions};
use flow::{Body, Node, Request, Root, View, seam};
use graph::{Demand, Edit, RootId, User};
use io::{Address, Lease};

use crate::engine::Engine;
use flow::events::Event;

/// How an NBD server is started.
#[derive(Clone, Debug, Default)]
pub struct ServerRequest {
    /// Bounds on clients.
    pub options: ServerOptions,
}

/// What is exported, and how.
#[derive(Clone, Debug)]
pub struct ExportRequest {
    /// Its id among all exports.
    pub id: String,
    /// Node-name of what is exported.
    pub node: String,
    /// How clients see it.
    pub options: ExportOptions,
}

/// A server with its exports.
pub struct NbdServer {
    engine: Arc<Engine>,
    server: Server,
    exports: Mutex<BTreeMap<String, Exported>>,
}

/// A node that is exported; some server offers it, or none yet.
pub struct Exported {
    root: RootId,
    export: Arc<Export>,
}

impl Exported {
    /// What servers offer.
    pub fn export(&self) -> &Arc<Export> {
        &self.export
    }

    /// Ends its connections and lets go of the node. Ready when nothing of it is left.
    pub async fn close(&self, engine: &Engine) -> Result<()> {
        self.export.close().await;
        engine.detach(self.root).await
    }
}

impl Engine {
    /// A server without exports that listens nowhere yet.
    pub fn nbd_server(self: &Arc<Self>, request: &ServerRequest) -> NbdServer {
        let server = Server::new(request.options, self.threads.clone(), self.events.clone());
        NbdServer { engine: self.clone(), server, exports: Mutex::default() }
    }

    /// Exports a node; whoever wants clients for it offers it through a server.
    pub fn export(&self, id: &str, node: &str, options: ExportOptions) -> Result<Exported> {
        let demand = if options.writable { Demand::WRITE } else { Demand::READ };
        let (root, entry) = self.attach(node, User::export(id), demand)?;
        Ok(Exported { root, export: Export::new(options, entry) })
    }

    /// Attaches a user to a node; the root is what it sees.
    pub fn attach(&self, node: &str, user: User, demand: Demand) -> Result<(RootId, Arc<Root>)> {
        let mut graph = self.graph();
        let node = graph.find(node)?;
        let root = graph.new_root();
        // A fresh root has no requests to wait for.
        drop(graph.edit(&[Edit::AttachRoot { root, node, user, demand }])?);
        Ok((root, graph.root(root)?))
    }

    /// Detaches a user. Ready when its requests have ended. What it wrote is made durable before, where an image keeps
    /// tables in memory; an error says that this failed, and the user is detached all the same.
    pub async fn detach(&self, root: RootId) -> Result<()> {
        let view = self.graph().root(root)?.view();
        let flushed = flush_tables(&view).await;
        drop(view);
        let drained = self.graph().edit(&[Edit::DetachRoot(root)])?;
        drained.await;
        flushed
    }
}

/// Flushes a root that can be written, if a format below it can change.
pub(crate) async fn flush_tables(view: &View) -> Result<()> {
    let changes = |node: &Arc<Node>| matches!(node.body(), Body::Maps(format) if format.changes().is_some());
    if view.root().is_read_only() || !view.nodes().any(changes) {
        return Ok(());
    }
    seam::execute(view, Request::flush(), Lease::empty()).await.0
}

impl NbdServer {
    /// Serves clients at `address` until the future is dropped. Called on the I/O thread that shall accept them.
    /// `ready` is told the address with the real port.
    pub async fn listen(&self, address: &Address, ready: impl FnOnce(&Address)) -> Result<()> {
        let listener = self.engine.world.listen(address).map_err(|e| cannot_listen(address, &e))?;
        ready(&listener.address());
        self.server.listen(listener).await
    }

    /// Exports a node (`block-export-add`).
    pub fn add(&self, request: ExportRequest) -> Result<Arc<Export>> {
        let ExportRequest { id, node, options } = request;
        if self.exports().contains_key(&id) {
            let context = format!("Block export id '{id}' is already in use");
            return Err(BlockError::new(ErrorKind::Exists, context));
        }
        let exported = self.engine.export(&id, &node, options)?;
        let export = exported.export.clone();
        if let Err(error) = self.server.add(export.clone()) {
            drop(self.engine.graph().edit(&[Edit::DetachRoot(exported.root)])?);
            return Err(error);
        }
        self.exports().insert(id, exported);
        Ok(export)
    }

    /// Takes an export away, with its clients (`block-export-del`, mode hard). Ready when nothing of it is left.
    pub async fn remove(&self, id: &str) -> Result<()> {
        let exported = self.exports().remove(id);
        let missing = || BlockError::new(ErrorKind::NotFound, format!("Export '{id}' is not found"));
        let exported = exported.ok_or_else(missing)?;
        self.server.remove(&exported.export.options().name);
        exported.close(&self.engine).await?;
        self.engine.events.tell(Event::ExportDeleted { id: id.to_owned() });
        Ok(())
    }

    /// The export `id`.
    pub fn export(&self, id: &str) -> Option<Arc<Export>> {
        self.exports().get(id).map(|exported| exported.export.clone())
    }

    /// Present connections.
    pub fn connections(&self) -> usize {
        self.server.connections()
    }

    /// Clients that agreed on an export, and have left since. Whoever only asked for the list is none.
    pub fn served(&self) -> u64 {
        self.server.served()
    }

    /// Ready when no client is connected.
    pub async fn idle(&self) {
        self.server.idle().await;
    }

    fn exports(&self) -> std::sync::MutexGuard<'_, BTreeMap<String, Exported>> {
        self.exports.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Names the address once, whether the system's error does so as well or not.
fn cannot_listen(address: &Address, error: &std::io::Error) -> BlockError {
    let (place, text) = (address.to_string(), error.to_string());
    let host = if let Address::Tcp { host, .. } = address { host } else { &place };
    let named =
        [&place, host].into_iter().find_map(|name| text.strip_prefix(name.as_str())?.strip_prefix(": "));
    let why = std::io::Error::new(error.kind(), named.unwrap_or(&text).to_owned());
    BlockError::system(format!("Failed to listen at '{place}'"), why)
}
