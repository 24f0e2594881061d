//! A server on one simulated thread, a client on another, a line between them.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use block::{ByteRange, Priority, Result};
use driver::protocols::nbd::{Config, NbdClient, Use};
use export::nbd::{Export, ExportOptions, Server, ServerOptions};
use flow::events::Events;
use flow::{Body, Execute, Op, Request, View, seam};
use io::sync::oneshot;
use io::{Address, Lease, Thread, World};
use sim::{Options, SimWorld};

use crate::lab::Lab;
use crate::store::{Store, StoreNode};

pub const USE_ALL: Use = Use { writable: true, no_flush: false, unmap: true };

pub fn address() -> Address {
    Address::Tcp { host: "repo".to_owned(), port: 10809 }
}

pub fn config() -> Config {
    Config::new(address(), "disk")
}

/// The configuration of a client that waits this long for a lost server.
pub fn patient(seconds: u64) -> Config {
    Config { reconnect_delay: Duration::from_secs(seconds), ..config() }
}

/// One world with what is needed to set the scene.
pub struct Stage {
    pub world: SimWorld,
    pub lab: Lab,
    /// What clients tell.
    pub events: Events,
}

/// A running server.
pub struct Running {
    thread: Arc<dyn Thread>,
    pub export: Arc<Export>,
    listening: Arc<dyn Thread>,
}

impl Running {
    /// The end of the process: connections break off, the address is free again.
    pub fn kill(self, stage: &Stage) {
        stage.world.net().cut_all(&address());
        self.listening.stop();
        self.thread.stop();
    }
}

/// Runs `play` in a world made from `seed`.
pub fn play<T, F: Future<Output = T>>(seed: u64, options: Options, play: impl FnOnce(Stage) -> F) -> T {
    let world = SimWorld::new(seed, options);
    let lab = Lab::new(&world);
    let stage = Stage { world: world.clone(), lab, events: Events::default() };
    world.run(play(stage))
}

impl Stage {
    /// Serves `store` as export "disk".
    pub async fn serve(&self, store: &Arc<Store>, writable: bool, multi_conn: bool) -> Running {
        self.serve_described(store, writable, multi_conn, "").await
    }

    pub async fn serve_described(
        &self,
        store: &Arc<Store>,
        writable: bool,
        multi_conn: bool,
        description: &str,
    ) -> Running {
        let node = Arc::new(StoreNode(store.clone()));
        self.serve_node(node, writable, multi_conn, description).await
    }

    pub async fn serve_node(
        &self,
        node: Arc<dyn Execute>,
        writable: bool,
        multi_conn: bool,
        description: &str,
    ) -> Running {
        self.serve_limited(node, writable, multi_conn, description, ServerOptions::default()).await
    }

    /// Serves `store` to so many connections at a time; more wait.
    pub async fn serve_few(&self, store: &Arc<Store>, connections: usize) -> Running {
        let limit = ServerOptions { max_connections: connections, ..ServerOptions::default() };
        self.serve_limited(Arc::new(StoreNode(store.clone())), false, false, "", limit).await
    }

    async fn serve_limited(
        &self,
        node: Arc<dyn Execute>,
        writable: bool,
        multi_conn: bool,
        description: &str,
        limit: ServerOptions,
    ) -> Running {
        let node = self.lab.node("store", Body::Executes(node), &[]);
        let options = ExportOptions {
            description: description.to_owned(),
            writable,
            multi_conn,
            ..ExportOptions::read_only("disk")
        };
        let export = Export::new(options, self.lab.root(&node));
        let thread = self.world.start_thread("server").unwrap();
        let server = Server::new(limit, vec![thread.clone()], Default::default());
        server.add(export.clone()).unwrap();
        let listening = self.world.start_thread("listener").unwrap();
        let (world, (ready, is_ready)) = (self.world.clone(), oneshot::channel());
        listening.run(Box::new(move || {
            Box::pin(async move {
                let listener = world.listen(&address()).unwrap();
                ready.send(()).unwrap();
                let _ = server.listen(listener).await;
            })
        }));
        is_ready.await.unwrap();
        Running { thread, export, listening }
    }

    /// A client whose sockets belong to this thread.
    pub async fn connect(&self, config: Config, use_as: Use) -> Result<Client> {
        let client =
            NbdClient::of_node(config, use_as, Arc::new(self.world.clone()), self.events.of("nbd")).await?;
        Ok(self.adopt(Arc::new(client), use_as))
    }

    /// Puts a client into a graph.
    pub fn adopt(&self, client: Arc<NbdClient>, use_as: Use) -> Client {
        let tree = self.lab.node("nbd", Body::Executes(client.clone()), &[]);
        let view = tree.view();
        view.root().set_read_only(!use_as.writable);
        Client { nbd: client, view }
    }

    pub async fn client(&self, config: Config, use_as: Use) -> Client {
        self.connect(config, use_as).await.unwrap()
    }
}

/// A client and the graph that it is the root of.
#[derive(Clone)]
pub struct Client {
    pub nbd: Arc<NbdClient>,
    pub view: Arc<View>,
}

impl Client {
    pub async fn read(&self, start: u64, len: u64) -> Result<Lease> {
        self.read_at(Priority::Demand, start, len).await
    }

    pub async fn read_at(&self, priority: Priority, start: u64, len: u64) -> Result<Lease> {
        let rq = Request::new(Op::Read, ByteRange::new(start, len)).with_priority(priority);
        let (result, lease) = seam::execute(&self.view, rq, Lease::new(len as usize)).await;
        result.map(|()| lease)
    }

    pub async fn write(&self, start: u64, bytes: &[u8]) -> Result<()> {
        seam::write(&self.view, start, bytes).await
    }

    pub async fn run(&self, rq: Request) -> Result<()> {
        seam::execute(&self.view, rq, Lease::empty()).await.0
    }

    pub async fn flush(&self) -> Result<()> {
        self.run(Request::flush()).await
    }
}
