//! Verbs on exports: start a server, export a node, take it away.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use block::{BlockError, ErrorKind, Result};
use export::nbd::{Export, ExportOptions, Server, ServerOptions};
use flow::{Body, Node, Request, Root, View, seam};
use graph::{Demand, Edit, RootId, User};
use io::{Address, Lease, Listener};
use object::IoThread;

use crate::ending::UnderWay;
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

/// What is known about an export.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExportInfo {
    /// Its id.
    pub id: String,
    /// Node-name of what it shows now.
    pub node: String,
    /// It is being taken away, and waits for its clients' requests to end.
    pub shutting_down: bool,
}

/// A server; its exports are the engine's.
pub struct NbdServer {
    engine: Arc<Engine>,
    server: Arc<Server>,
    /// Its thread, where it has one for itself.
    _iothread: Option<Arc<IoThread>>,
}

/// The exports of all servers of an engine, by id.
pub(crate) type Exports = Mutex<BTreeMap<String, Offered>>;

/// An export, and the server that offers it.
pub(crate) struct Offered {
    exported: Arc<Exported>,
    server: Arc<Server>,
    shutting_down: bool,
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

    /// What its clients wait for.
    pub fn under_way(&self) -> UnderWay {
        UnderWay { requests: self.export.waiting(), clients: self.export.clients() }
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
        NbdServer { engine: self.clone(), server: Arc::new(server), _iothread: None }
    }

    /// The same whose clients are all served by the thread of the object `iothread`, which cannot be deleted meanwhile.
    pub fn nbd_server_on(self: &Arc<Self>, iothread: &str, request: &ServerRequest) -> Result<NbdServer> {
        let iothread = self.objects.iothread(iothread)?;
        let server = Server::new(request.options, vec![iothread.thread().clone()], self.events.clone());
        Ok(NbdServer { engine: self.clone(), server: Arc::new(server), _iothread: Some(iothread) })
    }

    /// Listens at `address`. Called on the I/O thread that shall accept clients there.
    pub fn bind(&self, address: &Address) -> Result<Box<dyn Listener>> {
        self.world.listen(address).map_err(|e| cannot_listen(address, &e))
    }

    /// The exports of all servers, by id.
    pub fn exports(&self) -> Vec<ExportInfo> {
        let roots: BTreeMap<RootId, String> = {
            let graph = self.graph();
            let name = |node| graph.node(node).map_or_else(|_| String::new(), |n| n.node.name().to_string());
            graph.users().map(|user| (user.root, name(user.node))).collect()
        };
        let info = |(id, offered): (&String, &Offered)| ExportInfo {
            id: id.clone(),
            node: roots.get(&offered.exported.root).cloned().unwrap_or_default(),
            shutting_down: offered.shutting_down,
        };
        self.offered().iter().map(info).collect()
    }

    /// Takes an export away, with its clients (`block-export-del`, mode hard), whatever server it is on. Ready when
    /// nothing of it is left.
    pub async fn remove_export(&self, id: &str) -> Result<()> {
        let exported = {
            let mut exports = self.offered();
            let offered = exports.get_mut(id).ok_or_else(|| missing(id))?;
            if offered.shutting_down {
                let context = format!("Export '{id}' is already shutting down");
                return Err(BlockError::new(ErrorKind::Busy, context));
            }
            offered.shutting_down = true;
            offered.server.remove(&offered.exported.export.options().name);
            offered.exported.clone()
        };
        let closed = exported.close(self).await;
        self.offered().remove(id);
        self.events.tell(Event::ExportDeleted { id: id.to_owned() });
        closed
    }

    /// Takes an export away unless it has clients (`block-export-del`, mode safe).
    pub async fn remove_unused_export(&self, id: &str) -> Result<()> {
        let exported = self.offered().get(id).map(|offered| offered.exported.clone());
        if exported.ok_or_else(|| missing(id))?.export.clients() > 0 {
            return Err(BlockError::new(ErrorKind::Busy, format!("export '{id}' still in use")));
        }
        self.remove_export(id).await
    }

    /// What clients of all exports wait for.
    pub fn under_way(&self) -> UnderWay {
        let exports = self.offered();
        let each = exports.values().map(|offered| offered.exported.under_way());
        each.fold(UnderWay::default(), UnderWay::and)
    }

    /// Takes all exports away, with their clients. Ready when nothing of them is left.
    pub async fn remove_exports(&self) -> Result<()> {
        self.remove_exports_of(|_| true).await
    }

    async fn remove_exports_of(&self, which: impl Fn(&Offered) -> bool) -> Result<()> {
        let open = |offered: &Offered| which(offered) && !offered.shutting_down;
        let ids: Vec<_> = self.offered().iter().filter(|(_, o)| open(o)).map(|(id, _)| id.clone()).collect();
        let mut outcome = Ok(());
        for id in ids {
            let removed = self.remove_export(&id).await;
            // One that fails does not keep the others; that somebody else was faster is no failure.
            let faster = |error: &BlockError| matches!(error.kind(), ErrorKind::NotFound | ErrorKind::Busy);
            outcome = outcome.and(removed.or_else(|error| if faster(&error) { Ok(()) } else { Err(error) }));
        }
        outcome
    }

    fn offered(&self) -> MutexGuard<'_, BTreeMap<String, Offered>> {
        self.exports.lock().unwrap_or_else(PoisonError::into_inner)
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
    /// tables in memory and if that is possible: only a flush of its own tells.
    pub async fn detach(&self, root: RootId) -> Result<()> {
        let view = self.graph().root(root)?.view();
        // Nobody was promised what was never flushed, and whoever goes away can do nothing about it.
        let _ = flush_tables(&view).await;
        drop(view);
        let drained = self.graph().edit(&[Edit::DetachRoot(root)])?;
        drained.await;
        Ok(())
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
        let listener = self.engine.bind(address)?;
        ready(&listener.address());
        self.server.listen(listener).await
    }

    /// Exports a node (`block-export-add`). Its id is the only one among the exports of all servers.
    pub fn add(&self, request: ExportRequest) -> Result<Arc<Export>> {
        let ExportRequest { id, node, options } = request;
        let mut exports = self.engine.offered();
        if exports.contains_key(&id) {
            let context = format!("Block export id '{id}' is already in use");
            return Err(BlockError::new(ErrorKind::Exists, context));
        }
        let writable = options.writable;
        let exported = self.engine.export(&id, &node, options)?;
        let export = exported.export.clone();
        if let Err(error) = self.server.add(export.clone()) {
            drop(self.engine.graph().edit(&[Edit::DetachRoot(exported.root)])?);
            return Err(error);
        }
        if writable {
            self.engine.written().insert(node);
        }
        let (exported, server) = (Arc::new(exported), self.server.clone());
        exports.insert(id, Offered { exported, server, shutting_down: false });
        Ok(export)
    }

    /// Takes an export of this server away, with its clients. Ready when nothing of it is left.
    pub async fn remove(&self, id: &str) -> Result<()> {
        match self.export(id) {
            Some(_) => self.engine.remove_export(id).await,
            None => Err(missing(id)),
        }
    }

    /// Takes all exports of this server away, with their clients (`nbd-server-stop`).
    pub async fn remove_all(&self) -> Result<()> {
        self.engine.remove_exports_of(|offered| Arc::ptr_eq(&offered.server, &self.server)).await
    }

    /// The export `id`, if it is on this server.
    pub fn export(&self, id: &str) -> Option<Arc<Export>> {
        let exports = self.engine.offered();
        let offered = exports.get(id).filter(|offered| Arc::ptr_eq(&offered.server, &self.server));
        offered.map(|offered| offered.exported.export.clone())
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
}

fn missing(id: &str) -> BlockError {
    BlockError::new(ErrorKind::NotFound, format!("Export '{id}' is not found"))
}

/// Names the address once, whether the system's error does so as well or not.
fn cannot_listen(address: &Address, error: &std::io::Error) -> BlockError {
    let (place, text) = (address.to_string(), error.to_string());
    let host = if let Address::Tcp { host, .. } = address { host } else { &place };
    let named =
        [&place, host].into_iter().find_map(|name| text.strip_prefix(name.as_str())?.strip_prefix(": "));
    let why = std::io::Error::new(error.kind(), named.unwrap_or(&text).to_owned());
    BlockError::system(format!("Failed to bind socket to {place}"), why)
}
