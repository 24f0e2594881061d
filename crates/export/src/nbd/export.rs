//! An export: a root of the graph under a name.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use block::Alignment;
use flow::{Root, account::Counters};
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

/// A root of the graph that NBD clients can open.
pub struct Export {
    options: ExportOptions,
    root: Arc<Root>,
    counters: Counters,
    clients: AtomicUsize,
    closing: AtomicBool,
    changed: Notify,
}

impl Export {
    /// Exports `root`.
    pub fn new(options: ExportOptions, root: Arc<Root>) -> Arc<Self> {
        Arc::new(Self {
            options,
            root,
            counters: Counters::default(),
            clients: AtomicUsize::new(0),
            closing: AtomicBool::new(false),
            changed: Notify::new(),
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
        self.clients.load(Ordering::SeqCst)
    }

    /// Ends all connections: requests in flight are carried out, their replies are not awaited. Ready when the
    /// last one has ended.
    pub async fn close(&self) {
        self.closing.store(true, Ordering::SeqCst);
        loop {
            let changed = self.changed.notified();
            self.changed.notify_waiters();
            if self.clients() == 0 {
                return;
            }
            changed.await;
        }
    }

    pub(super) fn is_closing(&self) -> bool {
        self.closing.load(Ordering::SeqCst)
    }

    /// Ready when [`Export::close`] was called.
    pub(super) async fn closing(&self) {
        loop {
            let changed = self.changed.notified();
            if self.is_closing() {
                return;
            }
            changed.await;
        }
    }

    pub(super) fn enter(self: &Arc<Self>) -> Client {
        self.clients.fetch_add(1, Ordering::SeqCst);
        Client(self.clone())
    }

    /// What clients are told.
    pub(super) fn info(&self) -> ExportInfo {
        let view = self.root.view();
        let minimum = Alignment::new(view.alignment()).unwrap_or_default().bytes();
        let sizes =
            u32::try_from(minimum).ok().and_then(|min| BlockSizes::new(min, min.max(4096), PAYLOAD_MAX));
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
pub(super) struct Client(Arc<Export>);

impl Drop for Client {
    fn drop(&mut self) {
        self.0.clients.fetch_sub(1, Ordering::SeqCst);
        self.0.changed.notify_waiters();
    }
}
