//! The copy engine: many requests in flight over a graph, in a window sized to bandwidth times round trip.
//!
//! It walks the data of a node (holes and zeros are skipped without being asked for) and issues one request per
//! chunk. [`fill`] issues cache requests, so that a copy-on-read node fetches and stores each chunk once, together
//! with whatever guests read at the same time.
//!
//! Invariants: no byte is asked for twice; memory is bounded by the window; a chunk that fails ends the copy with
//! its error, and what was copied stays.

mod transfer;
mod window;

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};

use block::{Alignment, ByteRange, Extent, Priority, Result};
use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use io::Lease;

use crate::request::{Op, Request};
use crate::root::Root;
use crate::seam;

pub use transfer::{Failed, Follow, Transfer, Zeroes, transfer};
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

/// How much is asked for in one question for extents.
const QUESTION: u64 = 1 << 30;

/// Brings all data of the root near: through a copy-on-read node, into its cache. What the cache holds already is
/// passed over. Dropping the future stops it.
pub async fn fill(root: &Root, policy: &Policy, progress: &Progress) -> Result<()> {
    let mut chunks = Chunks::new(root, policy.chunk);
    progress.total.store(chunks.rest.end(), Ordering::Relaxed);
    let mut window = Window::new(policy.window);
    let mut flying = FuturesUnordered::new();
    let mut bytes = 0;
    loop {
        while bytes < room(root, policy, &window) {
            let Some(chunk) = chunks.next().await? else { break };
            bytes += chunk.len();
            flying.push(cache(root, chunk, policy.priority));
        }
        progress.done.store(chunks.passed().saturating_sub(bytes), Ordering::Relaxed);
        let Some(outcome) = flying.next().await else { return Ok(()) };
        let landed: Landed = outcome?;
        bytes -= landed.range.len();
        // What made room for others says nothing about the link.
        if !landed.pressed {
            window.landed(io::now(), landed.begun, landed.range.len());
        }
        progress.window.store(window.bytes(), Ordering::Relaxed);
        progress.copied.fetch_add(landed.range.len(), Ordering::Relaxed);
    }
}

/// Bytes that may be in flight now: one request while guests wait for the same link, or the window.
fn room(root: &Root, policy: &Policy, window: &Window) -> u64 {
    if pressed(root) { policy.chunk } else { window.bytes() }
}

fn pressed(root: &Root) -> bool {
    root.view().root().powers().pressure.is_some_and(|power| power.pressed(io::now()))
}

struct Landed {
    range: ByteRange,
    begun: io::Moment,
    /// Whether guests waited when it began or when it landed.
    pressed: bool,
}

async fn cache(root: &Root, range: ByteRange, priority: Priority) -> Result<Landed> {
    let (begun, before) = (io::now(), pressed(root));
    let rq = Request::new(Op::Cache, range).with_priority(priority);
    let view = root.view();
    seam::execute(&view, rq, Lease::empty()).await.0?;
    Ok(Landed { range, begun, pressed: before || pressed(root) })
}

/// The data of a node that is not held yet, in chunks. In whole granules: they are what is fetched.
struct Chunks<'a> {
    root: &'a Root,
    chunk: u64,
    granule: Alignment,
    /// Not asked about yet.
    rest: ByteRange,
    /// Data, held or not, up to `ready_to`.
    ready: VecDeque<ByteRange>,
    ready_to: u64,
    ready_bytes: u64,
}

impl<'a> Chunks<'a> {
    fn new(root: &'a Root, chunk: u64) -> Self {
        let view = root.view();
        let rest = ByteRange::between(0, view.size());
        let granule = Alignment::new(seam::granule(&view)).unwrap_or_default();
        Self { root, chunk, granule, rest, ready: VecDeque::new(), ready_to: 0, ready_bytes: 0 }
    }

    /// The next run to be fetched, within a chunk.
    async fn next(&mut self) -> Result<Option<ByteRange>> {
        loop {
            while let Some(piece) = self.ready.pop_front() {
                let (held, len) = seam::held(&self.root.view(), piece).await?;
                let (run, tail) = (piece.head(len), piece.skip(len));
                if !tail.is_empty() {
                    self.ready.push_front(tail);
                }
                self.ready_bytes -= run.len();
                if !held {
                    return Ok(Some(run));
                }
            }
            if self.rest.is_empty() {
                return Ok(None);
            }
            for extent in seam::extents(&self.root.view(), self.rest.head(QUESTION)).await? {
                self.take(extent);
            }
        }
    }

    /// Bytes from the front that are skipped, held or handed out.
    fn passed(&self) -> u64 {
        self.rest.start().max(self.ready_to).saturating_sub(self.ready_bytes)
    }

    fn take(&mut self, extent: Extent) {
        let (range, size) = (extent.range.intersection(self.rest), self.rest.end());
        self.rest = ByteRange::between(range.end().max(self.rest.start()), size);
        if extent.state.reads_zero() || range.is_empty() {
            return;
        }
        let whole = self.granule.around(range);
        let start = whole.start().max(self.ready_to);
        let mut fresh = ByteRange::between(start, whole.end().min(size).max(start));
        self.ready_to = self.ready_to.max(fresh.end());
        self.ready_bytes += fresh.len();
        // Cut at multiples of the chunk size, so that chunks and clusters share their boundaries.
        while !fresh.is_empty() {
            let piece = fresh.head(self.chunk - fresh.start() % self.chunk);
            match self.ready.back_mut() {
                Some(last) if last.end() == piece.start() && !piece.start().is_multiple_of(self.chunk) => {
                    *last = ByteRange::between(last.start(), piece.end());
                }
                _ => self.ready.push_back(piece),
            }
            fresh = fresh.skip(piece.len());
        }
    }
}
