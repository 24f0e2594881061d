//! The server: a listener, exports by name, I/O threads that share the connections.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::Duration;

use block::{BlockError, ErrorKind, Result};
use flow::events::{Event, Events};
use io::sync::Notify;
use io::{Incoming, Listener, Thread};
use nbd::codec::STRING_MAX;

use super::catalogue::Catalogue;
use super::export::Export;
use super::session;

/// How clients are served.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ServerOptions {
    /// Connections at the same time; more wait in the listen backlog. 0: no limit.
    pub max_connections: usize,
    /// How long a handshake may take; `None`: for ever.
    pub handshake_limit: Option<Duration>,
}

impl Default for ServerOptions {
    fn default() -> Self {
        Self { max_connections: 100, handshake_limit: Some(Duration::from_secs(10)) }
    }
}

/// An NBD server.
pub struct Server {
    shared: Arc<Shared>,
}

pub(super) struct Shared {
    pub(super) options: ServerOptions,
    exports: RwLock<BTreeMap<String, Arc<Export>>>,
    threads: Vec<Arc<dyn Thread>>,
    next_thread: AtomicUsize,
    connections: AtomicUsize,
    served: AtomicU64,
    changed: Notify,
    pub(super) events: Events,
    pub(super) catalogue: Option<Arc<dyn Catalogue>>,
}

impl Server {
    /// A server whose connections run on `threads` (at least one); what is worth telling about clients goes to
    /// `events`.
    pub fn new(options: ServerOptions, threads: Vec<Arc<dyn Thread>>, events: Events) -> Self {
        Self::of(options, threads, events, None)
    }

    /// A server that offers a catalogue besides the exports that are added.
    pub fn with_catalogue(
        options: ServerOptions,
        threads: Vec<Arc<dyn Thread>>,
        events: Events,
        catalogue: Arc<dyn Catalogue>,
    ) -> Self {
        Self::of(options, threads, events, Some(catalogue))
    }

    fn of(
        options: ServerOptions,
        threads: Vec<Arc<dyn Thread>>,
        events: Events,
        catalogue: Option<Arc<dyn Catalogue>>,
    ) -> Self {
        let shared = Shared {
            options,
            exports: RwLock::default(),
            threads,
            next_thread: AtomicUsize::new(0),
            connections: AtomicUsize::new(0),
            served: AtomicU64::new(0),
            changed: Notify::new(),
            events,
            catalogue,
        };
        Self { shared: Arc::new(shared) }
    }

    /// Adds an export; its name must be free, and neither it nor the description longer than a client takes.
    pub fn add(&self, export: Arc<Export>) -> Result<()> {
        let options = export.options();
        for (what, text) in [("name", &options.name), ("description", &options.description)] {
            if text.len() > STRING_MAX || text.contains('\0') {
                let context = format!("the {what} of an export must be text of at most {STRING_MAX} bytes");
                return Err(BlockError::new(ErrorKind::Invalid, context));
            }
        }
        let name = options.name.clone();
        let mut exports = self.shared.exports_mut();
        if exports.contains_key(&name) {
            let context = format!("NBD server already has export named '{name}'");
            return Err(BlockError::new(ErrorKind::Exists, context));
        }
        exports.insert(name, export);
        Ok(())
    }

    /// Takes an export out; connections that it has live on until [`Export::close`].
    pub fn remove(&self, name: &str) -> Option<Arc<Export>> {
        self.shared.exports_mut().remove(name)
    }

    /// Present connections, handshakes included.
    pub fn connections(&self) -> usize {
        self.shared.connections.load(Ordering::SeqCst)
    }

    /// Clients that agreed on an export, and have left since.
    pub fn served(&self) -> u64 {
        self.shared.served.load(Ordering::SeqCst)
    }

    /// Ready when there is no connection.
    pub async fn idle(&self) {
        self.shared.below(1).await;
    }

    /// Accepts clients for ever, from any number of listeners. Dropping the future closes the listener;
    /// connections live on.
    pub async fn listen(&self, listener: Box<dyn Listener>) -> Result<()> {
        let limit = match self.shared.options.max_connections {
            0 => usize::MAX,
            limit => limit,
        };
        loop {
            // Whoever comes too early waits in the backlog; at most one per listener waits here instead, when
            // another listener was faster.
            self.shared.below(limit).await;
            let incoming = listener.accept().await;
            let incoming = incoming.map_err(|e| {
                BlockError::system(format!("cannot accept clients at {}", listener.address()), e)
            })?;
            let ticket = loop {
                match Ticket::take(&self.shared, limit) {
                    Some(ticket) => break ticket,
                    None => self.shared.below(limit).await,
                }
            };
            self.start(incoming, ticket);
        }
    }

    /// Serves one connection on the next thread, whatever the limit.
    pub fn serve(&self, incoming: Box<dyn Incoming>) {
        if let Some(ticket) = Ticket::take(&self.shared, usize::MAX) {
            self.start(incoming, ticket);
        }
    }

    fn start(&self, incoming: Box<dyn Incoming>, ticket: Ticket) {
        let shared = self.shared.clone();
        let at = shared.next_thread.fetch_add(1, Ordering::Relaxed) % shared.threads.len();
        let thread = shared.threads[at].clone();
        thread.run(Box::new(move || {
            Box::pin(async move {
                shared.events.tell(Event::ClientConnected);
                let session::Session { negotiated, ended } = session::serve(shared.clone(), incoming).await;
                shared.served.fetch_add(u64::from(negotiated), Ordering::SeqCst);
                // First, so that whoever is told of the last one finds that there is none.
                drop(ticket);
                let error = ended.err().map(|e| e.to_string());
                shared.events.tell(Event::ClientGone { negotiated, error });
            })
        }));
    }
}

impl Shared {
    pub(super) fn export(&self, name: &str) -> Option<Arc<Export>> {
        self.exports_now().get(name).cloned()
    }

    pub(super) fn exports(&self) -> Vec<Arc<Export>> {
        self.exports_now().values().cloned().collect()
    }

    fn exports_now(&self) -> RwLockReadGuard<'_, BTreeMap<String, Arc<Export>>> {
        self.exports.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn exports_mut(&self) -> RwLockWriteGuard<'_, BTreeMap<String, Arc<Export>>> {
        self.exports.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// Ready when there are fewer connections than `limit`.
    async fn below(&self, limit: usize) {
        loop {
            let changed = self.changed.notified();
            if self.connections.load(Ordering::SeqCst) < limit {
                return;
            }
            changed.await;
        }
    }
}

/// A counted connection.
struct Ticket(Arc<Shared>);

impl Ticket {
    /// Counts one more unless there are `limit` already.
    fn take(shared: &Arc<Shared>, limit: usize) -> Option<Self> {
        let more = |now| (now < limit).then_some(now + 1);
        shared.connections.fetch_update(Ordering::SeqCst, Ordering::SeqCst, more).ok()?;
        Some(Self(shared.clone()))
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        self.0.connections.fetch_sub(1, Ordering::SeqCst);
        self.0.changed.notify_waiters();
    }
}
