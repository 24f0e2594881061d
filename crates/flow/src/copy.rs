//! The copy engine: many requests in flight over a graph, in a window sized to bandwidth times round trip.
//!
//! It walks the data of a node (holes and zeros are skipped without being asked for) and issues one request per
//! chunk. [`fill`] issues cache requests, so that a copy-on-read node fetches and stores each chunk once, together
//! with whatever guests read at the same time.
//!
//! Invariants: no byte is asked for twice; memory is bounded by the window; a chunk that fails ends the copy with
//! its error, and what was copied stays.

mod window;

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};

use block::{ByteRange, Extent, Priority, Result};
use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use io::Lease;

use crate::request::{Op, Request};
use crate::root::Root;
use crate::seam;

pub use window::{Window, WindowLimits};

/// How a copy is carried out.
#[derive(Clone, Copy, Debug)]
pub struct Policy {
    /// Bytes per request.
    pub chunk: u64,
    /// Priority of the requests.
    pub priority: Priority,
    /// Bounds of the bytes in flight.
    pub window: WindowLimits,
}

impl Default for Policy {
    fn default() -> Self {
        Self { chunk: 256 << 10, priority: Priority::Fill, window: WindowLimits::default() }
    }
}

/// How far a copy is; read from any thread.
#[derive(Debug, Default)]
pub struct Progress {
    /// Size of the node in bytes.
    pub total: AtomicU64,
    /// Bytes dealt with: copied or skipped.
    pub done: AtomicU64,
    /// Bytes copied.
    pub copied: AtomicU64,
    /// Bytes in flight at most, at present.
    pub window: AtomicU64,
}

impl Progress {
    fn add(&self, counter: &AtomicU64, bytes: u64) {
        counter.fetch_add(bytes, Ordering::Relaxed);
    }
}

/// How much is asked for in one question for extents.
const QUESTION: u64 = 1 << 30;

/// Brings all data of the root near: through a copy-on-read node, into its cache. Dropping the future stops it.
pub async fn fill(root: &Root, policy: &Policy, progress: &Progress) -> Result<()> {
    let size = root.view().size();
    progress.total.store(size, Ordering::Relaxed);
    let mut window = Window::new(policy.window);
    let mut chunks =
        Chunks { rest: ByteRange::between(0, size), chunk: policy.chunk, ready: VecDeque::new() };
    let mut flying = FuturesUnordered::new();
    let mut bytes = 0;
    loop {
        while bytes < window.bytes() {
            let Some(chunk) = chunks.next(root, progress).await? else { break };
            bytes += chunk.len();
            flying.push(cache(root, chunk, policy.priority));
        }
        let Some(outcome) = flying.next().await else { break };
        let landed: Landed = outcome?;
        bytes -= landed.range.len();
        window.landed(io::now(), landed.begun, landed.range.len());
        progress.window.store(window.bytes(), Ordering::Relaxed);
        progress.add(&progress.copied, landed.range.len());
        progress.add(&progress.done, landed.range.len());
    }
    Ok(())
}

struct Landed {
    range: ByteRange,
    begun: io::Moment,
}

async fn cache(root: &Root, range: ByteRange, priority: Priority) -> Result<Landed> {
    let begun = io::now();
    let rq = Request::new(Op::Cache, range).with_priority(priority);
    let view = root.view();
    seam::execute(&view, rq, Lease::empty()).await.0?;
    Ok(Landed { range, begun })
}

/// The data of a node in chunks.
struct Chunks {
    rest: ByteRange,
    chunk: u64,
    ready: VecDeque<ByteRange>,
}

impl Chunks {
    async fn next(&mut self, root: &Root, progress: &Progress) -> Result<Option<ByteRange>> {
        while self.ready.is_empty() && !self.rest.is_empty() {
            let view = root.view();
            let extents = seam::extents(&view, self.rest.head(QUESTION)).await?;
            drop(view);
            for extent in extents {
                self.take(extent, progress);
            }
        }
        Ok(self.ready.pop_front())
    }

    fn take(&mut self, extent: Extent, progress: &Progress) {
        let range = extent.range.intersection(self.rest);
        self.rest = ByteRange::between(range.end(), self.rest.end());
        if extent.state.reads_zero() {
            return progress.add(&progress.done, range.len());
        }
        // Cut at multiples of the chunk size, so that chunks and clusters share their boundaries.
        let mut rest = range;
        while !rest.is_empty() {
            let piece = rest.head(self.chunk - rest.start() % self.chunk);
            self.ready.push_back(piece);
            rest = rest.skip(piece.len());
        }
    }
}
