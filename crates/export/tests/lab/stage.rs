//! A world with a server in it.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use export::nbd::{ClientEvent, Export, ExportOptions, Server, ServerOptions};
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
    gone: Arc<Mutex<Vec<Option<String>>>>,
    /// What went wrong through no fault of a client.
    pub troubles: Arc<Mutex<Vec<String>>>,
}

pub fn options(name: &str) -> ExportOptions {
    ExportOptions {
        name: name.to_owned(),
        description: format!("the export {name}"),
        writable: true,
        multi_conn: true,
        writethrough: false,
    }
}

pub fn view(node: Arc<dyn Execute>, domain: &Arc<Domain>) -> Arc<View> {
    let state = NodeState::new(domain.clone());
    let node = Node::new(NodeId(1), "node".into(), "store", Body::Executes(node), state);
    ViewBuilder::new().node(Arc::new(node), vec![]).build().unwrap()
}

impl<W: World + Clone + 'static> Stage<W> {
    pub fn start(world: W, options: ServerOptions, threads: usize, address: Address) -> Self {
        let threads: Vec<_> = (0..threads).map(|i| world.start_thread(&format!("io{i}")).unwrap()).collect();
        let gone = Arc::<Mutex<Vec<_>>>::default();
        let troubles = Arc::<Mutex<Vec<_>>>::default();
        let told = (gone.clone(), troubles.clone());
        let tell = move |event| match event {
            ClientEvent::Gone(error) => told.0.lock().unwrap().push(error.map(|e| e.to_string())),
            ClientEvent::Trouble(error) => told.1.lock().unwrap().push(error.to_string()),
            ClientEvent::Connected => {}
        };
        let server = Arc::new(Server::new(options, threads.clone(), tell));
        let listener = world.listen(&address).unwrap();
        let (address, listening) = (listener.address(), server.clone());
        io::spawn(async move {
            let _ = listening.listen(listener).await;
        });
        Self { world, server, address, threads, gone, troubles }
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
        while self.gone.lock().unwrap().len() < count {
            io::sleep(Duration::from_millis(1)).await;
        }
        std::mem::take(&mut self.gone.lock().unwrap())
    }

    pub async fn client(&self) -> Client {
        self.client_as(wish("disk")).await
    }

    pub async fn client_as(&self, wish: Wish) -> Client {
        Client::connect(&self.world, &self.address, wish).await
    }
}
