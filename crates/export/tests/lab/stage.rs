//! A world with a server in it.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use export::nbd::{Export, ExportOptions, Server, ServerOptions};
use flow::events::{Event, Events, Subscription};
use flow::guard::Domain;
use flow::{Body, Execute, Node, NodeId, NodeState, Root, View, ViewBuilder};
use io::{Address, Thread, World};
use nbd::handshake::client::Wish;

use super::client::{Client, wish};
use super::store::{Store, StoreNode};

/// A server with some I/O threads; clients run on the thread that made it.
pub struct Stage<W> {
    pub world: W,
    pub server: Arc<Server>,
    pub address: Address,
    pub threads: Vec<Arc<dyn Thread>>,
    told: Mutex<Told>,
}

/// What the server has told of its clients.
struct Told {
    read: Subscription,
    gone: Vec<Option<String>>,
    troubles: Vec<String>,
}

impl Told {
    fn catch_up(&mut self) -> &mut Self {
        while let Some(event) = self.read.try_next() {
            match event {
                Event::ClientGone { error, .. } => self.gone.push(error),
                Event::RequestFailed { error } => self.troubles.push(error),
                Event::Missed(_) => panic!("the lab reads its events too rarely"),
                _ => {}
            }
        }
        self
    }
}

pub fn options(name: &str) -> ExportOptions {
    ExportOptions { description: format!("the export {name}"), ..ExportOptions::writable(name) }
}

pub fn view(node: Arc<dyn Execute>, domain: &Arc<Domain>) -> Arc<View> {
    let state = NodeState::new(domain.clone());
    let node = Node::new(NodeId(1), "node".into(), "store", Body::Executes(node), state);
    ViewBuilder::new().node(Arc::new(node), vec![]).build().unwrap()
}

impl<W: World + Clone + 'static> Stage<W> {
    pub fn start(world: W, options: ServerOptions, threads: usize, address: Address) -> Self {
        let threads: Vec<_> = (0..threads).map(|i| world.start_thread(&format!("io{i}")).unwrap()).collect();
        let events = Events::default();
        let told = Mutex::new(Told { read: events.subscribe(), gone: vec![], troubles: vec![] });
        let server = Arc::new(Server::new(options, threads.clone(), events));
        let listener = world.listen(&address).unwrap();
        let (address, listening) = (listener.address(), server.clone());
        io::spawn(async move {
            let _ = listening.listen(listener).await;
        });
        Self { world, server, address, threads, told }
    }

    /// Exports a node.
    pub fn export_node(&self, options: ExportOptions, node: Arc<dyn Execute>) -> Arc<Export> {
        let domain = Arc::new(Domain::default());
        let export = Export::new(options, Arc::new(Root::new(view(node, &domain), domain)));
        self.server.add(export.clone()).unwrap();
        export
    }

    /// Exports a store, writable, as "disk".
    pub fn export(&self, store: &Arc<Store>) -> Arc<Export> {
        self.export_node(options("disk"), Arc::new(StoreNode(store.clone())))
    }

    /// How the last connections have ended, once there are `count` of them that were not asked for yet.
    pub async fn ends(&self, count: usize) -> Vec<Option<String>> {
        while self.told.lock().unwrap().catch_up().gone.len() < count {
            io::sleep(Duration::from_millis(1)).await;
        }
        std::mem::take(&mut self.told.lock().unwrap().gone)
    }

    /// What went wrong through no fault of a client.
    pub fn troubles(&self) -> Vec<String> {
        self.told.lock().unwrap().catch_up().troubles.clone()
    }

    pub async fn client(&self) -> Client {
        self.client_as(wish("disk")).await
    }

    pub async fn client_as(&self, wish: Wish) -> Client {
        Client::connect(&self.world, &self.address, wish).await
    }
}
