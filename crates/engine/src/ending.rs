//! The end of a process, in good order: exports go, what waits is called off, what was written becomes durable.
//!
//! Invariant: what clients wrote and could not be made durable in the end is told to whoever ends the process.

use block::Result;
use io::select::{Either, race};

use crate::engine::Engine;

/// What clients still wait for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct UnderWay {
    /// Requests that could not be answered at once.
    pub requests: usize,
    /// Clients that are connected to an export.
    pub clients: usize,
}

impl UnderWay {
    /// Both together.
    #[must_use]
    pub fn and(self, other: Self) -> Self {
        Self { requests: self.requests + other.requests, clients: self.clients + other.clients }
    }
}

impl Engine {
    /// Lets no request wait for its moment, or for a lost peer, any more: the process is about to end. What waits in a
    /// filter goes on, what waits for a connection fails, and so does what comes later.
    pub fn call_off(&self) {
        let nodes: Vec<_> = self.graph().nodes().map(|info| info.node.clone()).collect();
        nodes.iter().for_each(|node| node.call_off());
    }

    /// Carries out `closing`, and calls off what waits as soon as that has begun: those whose requests are called off
    /// then send no more.
    pub async fn called_off<T>(&self, closing: impl Future<Output = T>) -> T {
        let calling_off = async {
            self.call_off();
            std::future::pending::<std::convert::Infallible>().await
        };
        match race(closing, calling_off).await {
            Either::First(closed) => closed,
            Either::Second(never) => match never {},
        }
    }

    /// Takes all exports away, makes durable what was ever written through one, and stores what images keep in memory
    /// until they are at rest. Each is tried, the first failure told.
    pub async fn close_exports(&self) -> Result<()> {
        let mut outcome = self.remove_exports().await;
        let written = std::mem::take(&mut *self.written());
        for node in written {
            // A node that is gone was flushed by whoever deleted it, or given up.
            if self.has_node(&node) {
                let flushed = self.flush(&node).await;
                if flushed.is_err() {
                    // Whoever asks once more is told once more.
                    self.written().insert(node);
                }
                outcome = outcome.and(flushed);
            }
        }
        outcome.and(self.rest_all().await)
    }
}
