//! The server: a complete table, and the clients that use it.

use std::cell::Cell;
use std::rc::Rc;
use std::sync::Arc;

use block::{BlockError, Result};
use engine::Engine;
use io::sync::Notify;
use io::{Address, Incoming, Listener};
use qmp::schema::Form;
use qmp::wire::Version;
use serde_json::{Map, Value};

use crate::failure::Failure;
use crate::session;
use crate::table::Table;

/// The QEMU whose QMP this is.
pub const VERSION: [u32; 3] = [10, 0, 2];

/// Clients at the same time; more wait in the listen backlogs.
const CLIENTS_MAX: usize = 256;

/// A QMP server. Lives on one I/O thread; clones are the same one.
#[derive(Clone)]
pub struct Control {
    shared: Rc<Shared>,
}

/// What sessions share.
pub(crate) struct Shared {
    pub(crate) engine: Arc<Engine>,
    pub(crate) table: Table,
    pub(crate) version: Version,
    pub(crate) ending: Ending,
    clients: Cell<usize>,
    left: Notify,
}

/// Whether the program is to end. Clones are the same one.
#[derive(Clone, Default)]
pub struct Ending(Rc<EndingState>);

#[derive(Default)]
struct EndingState {
    asked: Cell<bool>,
    /// The client that asked has its answer.
    told: Cell<bool>,
    changed: Notify,
}

impl Ending {
    /// Asks for it (`quit`).
    pub fn ask(&self) {
        self.0.asked.set(true);
    }

    /// Whether somebody asked for it.
    pub(crate) fn is_asked(&self) -> bool {
        self.0.asked.get()
    }

    /// Whoever asked for it knows that it will be.
    pub(crate) fn tell(&self) {
        self.0.told.set(true);
        self.0.changed.notify_waiters();
    }
}

/// A place where clients may wait to be served.
pub struct Bound {
    control: Control,
    listener: Box<dyn Listener>,
}

impl Bound {
    /// Serves them for as long as the calling I/O thread runs.
    pub fn serve(self) {
        io::spawn(async move {
            // Clients that are there go on without it, and so does the program.
            let _ = self.control.accept(&*self.listener).await;
        });
    }
}

impl Control {
    /// Serves with `table`, to which nothing can be added any more. `ending` is the one that `quit` asks.
    pub fn new(engine: Arc<Engine>, mut table: Table, ending: Ending) -> Self {
        table.seal();
        let version = version();
        let (clients, left) = (Cell::new(0), Notify::new());
        Self { shared: Rc::new(Shared { engine, table, version, ending, clients, left }) }
    }

    /// Serves clients at `address` until the future is dropped; those that are there by then live on. `ready` is
    /// told the address with the real port.
    pub async fn listen(&self, address: &Address, ready: impl FnOnce(&Address)) -> Result<()> {
        let listener = self.shared.engine.bind(address)?;
        ready(&listener.address());
        self.accept(&*listener).await
    }

    /// Serves clients at `address` for as long as the calling I/O thread runs. Answers the address with the real port.
    pub fn open(&self, address: &Address) -> Result<Address> {
        let bound = self.bind(address)?;
        let address = bound.listener.address();
        bound.serve();
        Ok(address)
    }

    /// Lets clients connect to `address`, who are not served yet.
    pub fn bind(&self, address: &Address) -> Result<Bound> {
        Ok(Bound { control: self.clone(), listener: self.shared.engine.bind(address)? })
    }

    async fn accept(&self, listener: &dyn Listener) -> Result<()> {
        loop {
            self.shared.below(CLIENTS_MAX).await;
            let incoming = listener.accept().await;
            let failed =
                |e| BlockError::system(format!("cannot accept clients at {}", listener.address()), e);
            self.serve(incoming.map_err(failed)?);
        }
    }

    /// Serves one client.
    pub fn serve(&self, incoming: Box<dyn Incoming>) {
        let shared = self.shared.clone();
        shared.clients.set(shared.clients.get() + 1);
        io::spawn(async move {
            // A client that is gone before it was there is no loss.
            if let Ok(stream) = incoming.attach() {
                session::serve(&shared, &*stream).await;
            }
            shared.clients.set(shared.clients.get() - 1);
            shared.left.notify_waiters();
        });
    }

    /// Carries a command out for the program itself; on a command line ([`Form::Text`]) all values are text.
    pub async fn execute(
        &self,
        command: &str,
        arguments: Map<String, Value>,
        form: Form,
    ) -> std::result::Result<Value, Failure> {
        self.shared.table.run(command, arguments, form)?.await
    }

    /// Ready when a client has sent `quit` and has its answer.
    pub async fn ended(&self) {
        let state = &self.shared.ending.0;
        loop {
            let changed = state.changed.notified();
            if state.told.get() {
                return;
            }
            changed.await;
        }
    }

    /// Clients that are connected.
    pub fn clients(&self) -> usize {
        self.shared.clients.get()
    }
}

impl Shared {
    async fn below(&self, limit: usize) {
        loop {
            let left = self.left.notified();
            if self.clients.get() < limit {
                return;
            }
            left.await;
        }
    }
}

/// As greetings and `query-version` have it.
pub(crate) fn version() -> Version {
    Version { qemu: VERSION, package: format!("millpond {}", env!("CARGO_PKG_VERSION")) }
}
