//! The copy engine: many requests in flight over a graph, in a window sized to bandwidth times round trip.
//!
//! It walks what a node has from below its first format and issues one request per piece. Data is brought near by cache
//! requests, so that a copy-on-read node fetches and stores each granule once, together with whatever guests read at
//! the same time. Holes and zeros are never asked for: where another layer will shine through once those between are
//! gone, they are stored as zeros, else they are skipped.
//!
//! Invariants: no byte is asked for twice; memory is bounded by the window; what was copied stays; the copy ends when
//! nothing of it is under way any more. What becomes of a piece that fails, and when the next one may begin, a
//! [`Gate`] says.

mod chunks;
mod flying;
mod transfer;
mod window;

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};

use block::{BlockError, Priority, Result};
use io::select::{Either, race};
use io::{Lease, LocalFut, Moment};

use crate::node::NodeId;
use crate::request::{Flags, Op, Request};
use crate::root::Root;
use crate::seam;
use chunks::{Chunks, Piece, What};
use flying::Flying;

pub use transfer::{Failed, Follow, Over, Transfer, Zeroes, to_move, transfer};
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
    /// The lowest layer that is copied from, while others stay below it. Without one all layers are copied from, and
    /// nothing will be below.
    pub bottom: Option<NodeId>,
}

impl Default for Policy {
    fn default() -> Self {
        let window = WindowLimits::default();
        Self { chunk: 256 << 10, priority: Priority::Fill, window, bottom: None }
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

/// What becomes of a piece that could not be copied.
#[derive(Debug)]
pub enum Verdict {
    /// It is copied again, once the gate is open.
    Again,
    /// It is left out.
    Skip,
    /// The copy ends with this error.
    End(BlockError),
}

/// Whoever says how a copy goes on.
pub trait Gate {
    /// Ready when `bytes` more may be asked for. False: the gate has been shut meanwhile.
    fn admit(&self, bytes: u64) -> LocalFut<'_, bool>;
    /// Whether nothing new may begin now.
    fn is_shut(&self) -> bool;
    /// Called when the gate is shut and nothing is under way any more; ready when it is open. An error ends the copy.
    fn opened(&self) -> LocalFut<'_, Result<()>>;
    /// A piece could not be copied. After [`Verdict::Again`] the gate is shut, until whoever can has put it right.
    fn failed(&self, error: BlockError) -> Verdict;
}

/// A gate that is always open, and where a copy ends with the first error.
pub struct Open;

impl Gate for Open {
    fn admit(&self, _: u64) -> LocalFut<'_, bool> {
        Box::pin(std::future::ready(true))
    }
    fn is_shut(&self) -> bool {
        false
    }
    fn opened(&self) -> LocalFut<'_, Result<()>> {
        Box::pin(std::future::ready(Ok(())))
    }
    fn failed(&self, error: BlockError) -> Verdict {
        Verdict::End(error)
    }
}

/// Brings all data of the root near: through a copy-on-read node, into its cache. What the cache holds already is
/// passed over. Dropping the future stops it, where the policy names no bottom.
pub async fn fill(root: &Root, policy: &Policy, progress: &Progress) -> Result<()> {
    populate(root, policy, progress, &Open).await
}

/// The same at the pace of a gate, down to the policy's bottom. Not to be dropped: it is ended by the gate.
pub async fn populate(root: &Root, policy: &Policy, progress: &Progress, gate: &dyn Gate) -> Result<()> {
    let mut copy = Copying {
        gate,
        progress,
        chunks: Chunks::new(root, policy),
        next: None,
        again: VecDeque::new(),
        bytes: 0,
        ended: false,
        failure: None,
    };
    progress.total.store(copy.chunks.size(), Ordering::Relaxed);
    let mut window = Window::new(policy.window);
    let mut flying = Flying::new();
    loop {
        if flying.is_empty() && (copy.is_over() || gate.is_shut()) {
            if copy.is_over() {
                return copy.outcome();
            }
            gate.opened().await?;
        }
        if copy.bytes < room(root, policy, &window) {
            flying.beside(copy.look()).await;
        }
        copy.tell();
        match race(copy.admitted(), landed(&mut flying)).await {
            Either::First(Some(piece)) => {
                copy.bytes += piece.cost(policy.chunk);
                flying.push(bring(root, piece, policy));
            }
            // Over, or shut.
            Either::First(None) => {}
            Either::Second(landed) => {
                let cost = landed.piece.cost(policy.chunk);
                copy.bytes -= cost;
                // What made room for others says nothing about the link.
                if !landed.pressed {
                    window.landed(landed.ended, landed.begun, cost);
                }
                progress.window.store(window.bytes(), Ordering::Relaxed);
                copy.landed(landed.piece, landed.outcome);
            }
        }
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
    piece: Piece,
    begun: Moment,
    ended: Moment,
    /// Whether guests waited when it began or when it landed.
    pressed: bool,
    outcome: Result<()>,
}

/// The next one that lands; never ready while nothing flies.
async fn landed<F: Future<Output = Landed>>(flying: &mut Flying<F>) -> Landed {
    match flying.next().await {
        Some(landed) => landed,
        None => std::future::pending().await,
    }
}

async fn bring(root: &Root, piece: Piece, policy: &Policy) -> Landed {
    let (begun, before) = (io::now(), pressed(root));
    let rq = match piece.what {
        What::Data => Request::new(Op::Cache, piece.range),
        What::Zeroes => {
            Request::new(Op::WriteZeroes, piece.range).with_flags(Flags::UNCHANGED | Flags::MAY_UNMAP)
        }
    };
    let view = root.view();
    let (outcome, _) = seam::execute(&view, rq.with_priority(policy.priority), Lease::empty()).await;
    Landed { piece, begun, ended: io::now(), pressed: before || pressed(root), outcome }
}

/// A copy that is under way.
struct Copying<'a> {
    gate: &'a dyn Gate,
    progress: &'a Progress,
    chunks: Chunks<'a>,
    /// Found, and not let go yet.
    next: Option<Piece>,
    /// To be copied once more.
    again: VecDeque<Piece>,
    /// In flight.
    bytes: u64,
    /// All has been found.
    ended: bool,
    failure: Option<BlockError>,
}

impl Copying<'_> {
    /// Looks for the next piece.
    async fn look(&mut self) {
        if self.next.is_some() || self.is_over() || self.gate.is_shut() {
            return;
        }
        self.next = self.again.pop_front();
        if self.next.is_some() || self.ended {
            return;
        }
        match self.chunks.next().await {
            Ok(Some(piece)) => self.next = Some(piece),
            Ok(None) => self.ended = true,
            Err(error) => match self.gate.failed(error) {
                Verdict::Again => {}
                Verdict::Skip => self.chunks.skip(),
                Verdict::End(error) => self.failure = Some(error),
            },
        }
    }

    /// The next piece, when it may go. Nothing when there is something else to be looked at first; never ready while
    /// only something that lands can change that.
    async fn admitted(&mut self) -> Option<Piece> {
        let flies = self.bytes > 0;
        match &self.next {
            Some(piece) if !self.gate.is_shut() && self.failure.is_none() => {
                if self.gate.admit(piece.range.len()).await { self.next.take() } else { None }
            }
            _ if flies => std::future::pending().await,
            _ => None,
        }
    }

    fn landed(&mut self, piece: Piece, outcome: Result<()>) {
        match outcome.map_err(|error| self.gate.failed(error)) {
            Ok(()) => drop(self.progress.copied.fetch_add(piece.range.len(), Ordering::Relaxed)),
            Err(Verdict::Again) => self.again.push_back(piece),
            Err(Verdict::Skip) => {}
            Err(Verdict::End(error)) => self.failure = self.failure.take().or(Some(error)),
        }
    }

    /// Nothing more will begin.
    fn is_over(&self) -> bool {
        self.failure.is_some() || (self.ended && self.next.is_none() && self.again.is_empty())
    }

    fn outcome(&mut self) -> Result<()> {
        self.tell();
        self.failure.take().map_or(Ok(()), Err)
    }

    fn tell(&self) {
        let waiting: u64 = self.again.iter().chain(&self.next).map(|piece| piece.range.len()).sum();
        let done = self.chunks.passed().saturating_sub(self.bytes + waiting);
        self.progress.done.store(done, Ordering::Relaxed);
    }
}
