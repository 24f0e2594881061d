//! What a client has done, for people and tests.

use std::sync::atomic::{AtomicU64, Ordering};

use flow::Stats;

/// Figures of one node since it was opened; read from any thread.
#[derive(Debug, Default)]
pub struct Counters {
    requests: AtomicU64,
    received_bytes: AtomicU64,
    sent_bytes: AtomicU64,
    resent: AtomicU64,
    reconnects: AtomicU64,
    connections: AtomicU64,
}

impl Counters {
    /// Requests that were put on the wire, those put there again included.
    pub fn requests(&self) -> u64 {
        self.requests.load(Ordering::Relaxed)
    }

    /// Bytes of payload that came: data of reads, without headers, holes and what was never answered whole.
    pub fn received_bytes(&self) -> u64 {
        self.received_bytes.load(Ordering::Relaxed)
    }

    /// Bytes of payload of the writes that were put on the wire.
    pub fn sent_bytes(&self) -> u64 {
        self.sent_bytes.load(Ordering::Relaxed)
    }

    /// Requests that were on the wire of a connection that broke, and were to be sent again.
    pub fn resent(&self) -> u64 {
        self.resent.load(Ordering::Relaxed)
    }

    /// How often the connection came back after there was none.
    pub fn reconnects(&self) -> u64 {
        self.reconnects.load(Ordering::Relaxed)
    }

    /// Connections that are open now.
    pub fn connections(&self) -> u64 {
        self.connections.load(Ordering::Relaxed)
    }

    pub(super) fn add_request(&self, sent_bytes: usize) {
        self.requests.fetch_add(1, Ordering::Relaxed);
        self.sent_bytes.fetch_add(sent_bytes as u64, Ordering::Relaxed);
    }

    pub(super) fn add_received(&self, bytes: usize) {
        self.received_bytes.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    pub(super) fn add_resent(&self, requests: usize) {
        self.resent.fetch_add(requests as u64, Ordering::Relaxed);
    }

    pub(super) fn add_reconnect(&self) {
        self.reconnects.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn set_connections(&self, open: usize) {
        self.connections.store(open as u64, Ordering::Relaxed);
    }
}

impl Stats for Counters {
    fn stats(&self) -> Vec<(String, u64)> {
        let figures = [
            ("requests", self.requests()),
            ("received-bytes", self.received_bytes()),
            ("sent-bytes", self.sent_bytes()),
            ("resent-requests", self.resent()),
            ("reconnects", self.reconnects()),
            ("connections", self.connections()),
        ];
        figures.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
    }
}
