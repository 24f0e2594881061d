//! An export: a root of the graph under a name.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use block::Alignment;
use flow::{Root, account::Counters};
use futures_util::task::AtomicWaker;
use io::sync::Notify;
use nbd::codec::{PAYLOAD_MAX, TransmissionFlags};
use nbd::handshake::server::ExportInfo;
use nbd::handshake::{BlockSizes, MetaContext};

/// How a root is exported.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExportOptions {
    /// Name that clients ask for, at most 4096 bytes.
    pub name: String,
    /// A text for people.
    pub description: String,
    /// Whether clients may write.
    pub writable: bool,
    /// Whether clients are told that they may use several connections.
    pub multi_conn: bool,
    /// Every write is made durable before it is answered.
    pub writethrough: bool,
}

impl ExportOptions {
    /// An export of that name, which several connections of a client may read.
    pub fn read_only(name: impl Into<String>) -> Self {
        let name = name.into();
        Self { name, description: String::new(), writable: false, multi_conn: true, writethrough: false }
    }

    /// The same, which they may write, too.
    pub fn writable(name: impl Into<String>) -> Self {
        Self { writable: true, ..Self::read_only(name) }
    }
}

/// What an export knows of a connection.
#[derive(Default)]
struct Present {
    /// Woken when the export closes.
    closing: AtomicWaker,
    /// Requests that were under way after its last pass.
    waiting: AtomicUsize,
}

/// A root of the graph that NBD clients can open.
pub struct Export {
    options: ExportOptions,
    root: Arc<Root>,
    counters: Counters,
    clients: Mutex<Vec<Arc<Present>>>,
    closing: AtomicBool,
    left: Notify,
}

impl Export {
    /// Exports `root`.
    pub fn new(options: ExportOptions, root: Arc<Root>) -> Arc<Self> {
        Arc::new(Self {
            options,
            root,
            counters: Counters::default(),
            clients: Mutex::default(),
            closing: AtomicBool::new(false),
            left: Notify::new(),
        })
    }

    /// How it is exported.
    pub fn options(&self) -> &ExportOptions {
        &self.options
    }

    /// Where its clients enter the graph.
    pub fn root(&self) -> &Arc<Root> {
        &self.root
    }

    /// What its clients did, all together.
    pub fn counters(&self) -> &Counters {
        &self.counters
    }

    /// Number of connections in the transmission phase.
    pub fn clients(&self) -> usize {
        self.present().len()
    }

    /// Requests of all clients that could not be answered at once and are still under way.
    pub fn waiting(&self) -> usize {
        self.present().iter().map(|client| client.waiting.load(Ordering::Relaxed)).sum()
    }

    /// Ends all connections, and those that come later at once: requests in flight are carried out, their replies
    /// are sent as far as the client takes them without a wait. Ready when the last connection has ended.
    pub async fn close(&self) {
        self.closing.store(true, Ordering::SeqCst);
        self.present().iter().for_each(|client| client.closing.wake());
        loop {
            let left = self.left.notified();
            if self.clients() == 0 {
                return;
            }
            left.await;
        }
    }

    /// Whether [`Export::close`] was called.
    pub(super) fn is_closing(&self) -> bool {
        self.closing.load(Ordering::SeqCst)
    }

    /// Counts a connection in; whoever enters looks at [`Export::is_closing`] afterwards.
    pub(super) fn enter(self: &Arc<Self>) -> Client {
        let present = Arc::new(Present::default());
        self.present().push(present.clone());
        Client { export: self.clone(), present, registered: None }
    }

    fn present(&self) -> MutexGuard<'_, Vec<Arc<Present>>> {
        self.clients.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What clients are told.
    pub(super) fn info(&self) -> ExportInfo {
        let view = self.root.view();
        // As QEMU has it: requests may begin and end anywhere (the seam sees to it), but better at whole blocks.
        let preferred = Alignment::new(view.alignment()).unwrap_or_default().bytes().max(4096);
        let sizes = u32::try_from(preferred).ok().and_then(|best| BlockSizes::new(1, best, PAYLOAD_MAX));
        ExportInfo {
            name: self.options.name.clone(),
            description: self.options.description.clone(),
            size: view.size(),
            flags: self.flags(),
            block_sizes: sizes.unwrap_or(BlockSizes::DEFAULT),
            contexts: vec![MetaContext::base_allocation()],
        }
    }

    fn flags(&self) -> TransmissionFlags {
        let mut flags =
            TransmissionFlags::SEND_FLUSH | TransmissionFlags::SEND_FUA | TransmissionFlags::SEND_CACHE;
        flags = match self.options.writable {
            true => {
                flags
                    | TransmissionFlags::SEND_TRIM
                    | TransmissionFlags::SEND_WRITE_ZEROES
                    | TransmissionFlags::SEND_FAST_ZERO
            }
            false => flags | TransmissionFlags::READ_ONLY,
        };
        if self.options.multi_conn { flags | TransmissionFlags::CAN_MULTI_CONN } else { flags }
    }
}

/// One connection of an export, counted while it lives.
pub(super) struct Client {
    export: Arc<Export>,
    present: Arc<Present>,
    /// What was registered there last: mostly it is the same again.
    registered: Option<Waker>,
}

impl Client {
    /// The export that it uses.
    pub(super) fn export(&self) -> &Arc<Export> {
        &self.export
    }

    /// Says how many requests are under way.
    pub(super) fn set_waiting(&self, waiting: usize) {
        self.present.waiting.store(waiting, Ordering::Relaxed);
    }

    /// Ready when the export closes.
    pub(super) fn poll_closing(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if !self.registered.as_ref().is_some_and(|known| known.will_wake(cx.waker())) {
            self.present.closing.register(cx.waker());
            self.registered = Some(cx.waker().clone());
        }
        // Whoever closes says so first and wakes then, so one of the two is seen.
        if self.export.is_closing() { Poll::Ready(()) } else { Poll::Pending }
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        self.export.present().retain(|client| !Arc::ptr_eq(client, &self.present));
        self.export.left.notify_waiters();
    }
}
