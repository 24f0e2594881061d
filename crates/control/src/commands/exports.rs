//! Exports, and the NBD server that they are on.
//!
//! Invariant: there is at most one server of this group; exports of other servers are listed and taken away like its
//! own.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use block::BlockError;
use engine::{Engine, Event, ExportRequest, NbdServer, ServerRequest};
use export::nbd::{ExportOptions, ServerOptions};
use io::select::{Either, race};
use io::sync::oneshot;
use qmp::schema::Nothing;

use crate::failure::Failure;
use crate::table::Table;
use crate::types::address::{SocketAddress, SocketAddressLegacy};

qmp::structure! {
    /// Arguments of `nbd-server-start`.
    pub struct Start {
        /// Seconds that a client has for its handshake; 0 for any time.
        "handshake-max-seconds" => handshake_max_seconds: Option<u32>,
        /// Object with TLS credentials. There are none yet.
        "tls-creds" => tls_creds: Option<String>,
        /// Clients at the same time; 0 for any number.
        "max-connections" => max_connections: Option<u32>,
        /// Where to listen.
        "addr" => address: SocketAddressLegacy,
    }
}

qmp::union! {
    /// Arguments of `block-export-add`.
    pub struct ExportAdd {
        base: ExportBase,
        /// Kinds of exports.
        pub enum ExportKind by "type" {
            /// Over NBD.
            Nbd(NbdExport) = "nbd",
        }
    }
}

qmp::structure! {
    /// What all exports have.
    pub struct ExportBase {
        /// Its id.
        "id" => id: String,
        /// Without effect: clients are spread over the I/O threads, whatever the graph does.
        "fixed-iothread" => fixed_iothread: Option<bool>,
        /// Must be there; without further effect.
        "iothread" => iothread: Option<String>,
        /// What is exported.
        "node-name" => node_name: String,
        /// Whether clients may write.
        "writable" => writable: Option<bool>,
        /// Whether each write is durable before it is answered.
        "writethrough" => writethrough: Option<bool>,
    }
}

qmp::structure! {
    /// What an NBD export has.
    pub struct NbdExport {
        /// The name that clients ask for; the node's without it.
        "name" => name: Option<String>,
        /// A text for people.
        "description" => description: Option<String>,
    }
}

qmp::enumeration! {
    /// What becomes of clients of an export that is deleted.
    pub enum DeleteMode {
        /// It is not deleted while it has any.
        Safe = "safe",
        /// They are disconnected.
        Hard = "hard",
    }
}

qmp::structure! {
    /// Arguments of `block-export-del`.
    pub struct ExportDelete {
        /// Which export.
        "id" => id: String,
        /// What becomes of its clients.
        "mode" => mode: Option<DeleteMode>,
    }
}

qmp::enumeration! {
    /// Types of exports.
    pub enum ExportType {
        /// Over NBD.
        Nbd = "nbd",
    }
}

qmp::structure! {
    /// An export, as `query-block-exports` lists it.
    pub struct ExportDescription {
        /// Its id.
        "id" => id: String,
        /// Its type.
        "type" => export_type: ExportType,
        /// What it shows.
        "node-name" => node_name: String,
        /// Whether it is being deleted.
        "shutting-down" => shutting_down: bool,
    }
}

qmp::structure! {
    /// Data of `BLOCK_EXPORT_DELETED`.
    pub struct ExportDeleted {
        /// Which export.
        "id" => id: String,
    }
}

/// The group's server, while there is one.
#[derive(Clone)]
struct Servers {
    engine: Arc<Engine>,
    running: Rc<RefCell<Option<Running>>>,
}

struct Running {
    server: Rc<NbdServer>,
    /// One connection at most: clients are not told that they may use several.
    single: bool,
    /// Dropped: it listens no longer.
    _listening: oneshot::Sender<()>,
}

pub(super) fn add(table: &mut Table, engine: &Arc<Engine>) {
    let servers = Servers { engine: engine.clone(), running: Rc::default() };
    let of = servers.clone();
    table.command("nbd-server-start", move |arguments: Start| of.clone().start(arguments));
    let of = servers.clone();
    table.command("nbd-server-stop", move |_: Nothing| of.clone().stop());
    table.command("block-export-add", move |arguments: ExportAdd| servers.clone().export(arguments));
    let of = engine.clone();
    table.command("block-export-del", move |arguments: ExportDelete| {
        let engine = of.clone();
        async move {
            match arguments.mode.unwrap_or(DeleteMode::Safe) {
                DeleteMode::Safe => engine.remove_unused_export(&arguments.id).await?,
                DeleteMode::Hard => engine.remove_export(&arguments.id).await?,
            }
            Ok(Nothing)
        }
    });
    let of = engine.clone();
    table.command("query-block-exports", move |_: Nothing| {
        let exports = list(&of);
        async move { Ok(exports) }
    });
    table.event("BLOCK_EXPORT_DELETED", |event| match event {
        Event::ExportDeleted { id } => Some(ExportDeleted { id: id.clone() }),
        _ => None,
    });
}

fn list(engine: &Engine) -> Vec<ExportDescription> {
    let describe = |info: engine::ExportInfo| ExportDescription {
        id: info.id,
        export_type: ExportType::Nbd,
        node_name: info.node,
        shutting_down: info.shutting_down,
    };
    engine.exports().into_iter().map(describe).collect()
}

impl Servers {
    async fn start(self, arguments: Start) -> Result<Nothing, Failure> {
        if self.running.borrow().is_some() {
            return Err(Failure::new("NBD server already running"));
        }
        if let Some(id) = arguments.tls_creds {
            return Err(Failure::new(format!("No TLS credentials with id '{id}'")));
        }
        let mut options = ServerOptions::default();
        if let Some(max) = arguments.max_connections {
            options.max_connections = usize::try_from(max).unwrap_or(usize::MAX);
        }
        if let Some(seconds) = arguments.handshake_max_seconds {
            options.handshake_limit = (seconds > 0).then(|| Duration::from_secs(seconds.into()));
        }
        let address = SocketAddress::from(arguments.address).address()?;
        let server = Rc::new(self.engine.nbd_server(&ServerRequest { options }));
        let listening = listen(server.clone(), address).await?;
        let single = options.max_connections == 1;
        // Listening answers at once, so nobody was faster: the command was not interrupted in between.
        *self.running.borrow_mut() = Some(Running { server, single, _listening: listening });
        Ok(Nothing)
    }

    async fn stop(self) -> Result<Nothing, Failure> {
        let running = self.running.borrow_mut().take();
        let Running { server, _listening, .. } = running.ok_or_else(not_running)?;
        drop(_listening);
        server.remove_all().await?;
        Ok(Nothing)
    }

    async fn export(self, arguments: ExportAdd) -> Result<Nothing, Failure> {
        let ExportAdd { base, kind: ExportKind::Nbd(nbd) } = arguments;
        if !is_identifier(&base.id) {
            return Err(Failure::new("Invalid block export id"));
        }
        if self.engine.exports().iter().any(|export| export.id == base.id) {
            return Err(Failure::new(format!("Block export id '{}' is already in use", base.id)));
        }
        if !self.engine.has_node(&base.node_name) {
            return Err(Failure::new(format!("Cannot find device='' nor node-name='{}'", base.node_name)));
        }
        if let Some(id) = &base.iothread {
            self.engine.objects().iothread(id)?;
        }
        let writable = base.writable.unwrap_or(false);
        if writable && self.engine.is_read_only(&base.node_name)? {
            return Err(Failure::new("Cannot export read-only node as writable"));
        }
        let running = self.running.borrow();
        let Running { server, single, .. } = running.as_ref().ok_or_else(not_running)?;
        let options = ExportOptions {
            name: nbd.name.unwrap_or_else(|| base.node_name.clone()),
            description: nbd.description.unwrap_or_default(),
            writable,
            multi_conn: !single,
            writethrough: base.writethrough.unwrap_or(false),
        };
        server.add(ExportRequest { id: base.id, node: base.node_name, options })?;
        Ok(Nothing)
    }
}

/// Listens at `address` until what it answers is dropped.
async fn listen(server: Rc<NbdServer>, address: io::Address) -> Result<oneshot::Sender<()>, BlockError> {
    let (stop, stopped) = oneshot::channel::<()>();
    let (told, tell) = oneshot::channel();
    io::spawn(async move {
        let mut told = Some(told);
        let tell = |outcome: Result<(), BlockError>| {
            if let Some(told) = told.take() {
                // Who asked may have gone away.
                let _ = told.send(outcome);
            }
        };
        let tell = RefCell::new(tell);
        let listening = server.listen(&address, |_| (tell.borrow_mut())(Ok(())));
        if let Either::First(Err(error)) = race(listening, stopped).await {
            (tell.borrow_mut())(Err(error));
        }
    });
    let lost = || BlockError::new(block::ErrorKind::Cancelled, "the NBD server was stopped");
    tell.await.unwrap_or_else(|_| Err(lost()))?;
    Ok(stop)
}

fn not_running() -> Failure {
    Failure::new("NBD server not running")
}

/// A letter, then letters, digits, `-`, `.` and `_`.
fn is_identifier(id: &str) -> bool {
    let rest = |c: char| c.is_ascii_alphanumeric() || "-._".contains(c);
    id.starts_with(|c: char| c.is_ascii_alphabetic()) && id.chars().all(rest)
}
