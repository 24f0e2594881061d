//! The door of executing nodes: alignment and transfer limits are met here, once, so that drivers need not.

use block::{BlockError, ByteRange, ErrorKind, Result};
use io::{Lease, LocalFut};

use crate::contract::Execute;
use crate::next::Next;
use crate::node::{Body, Limits};
use crate::request::{Flags, Now, Op, Request, Window};
use crate::view::{View, ViewIndex};

/// Longest piece of zeros that is written where a node cannot zero by itself.
const ZERO_PIECE: u64 = 1 << 20;

/// Passes a request to an executing node as far as that needs no wait.
pub(crate) fn try_now(view: &View, index: ViewIndex, rq: &mut Request, window: Window<'_>) -> Result<Now> {
    let Body::Executes(node) = view.node(index).body() else { return Ok(Now::Wait) };
    if !fits(view.limits_of(index), rq) {
        return Ok(Now::Wait);
    }
    node.try_now(rq, window, Next::new(view, index))
}

/// Passes a request to an executing node; may wait.
pub(crate) fn execute<'a>(
    view: &'a View,
    index: ViewIndex,
    rq: Request,
    lease: Lease,
) -> LocalFut<'a, (Result<()>, Lease)> {
    let Body::Executes(node) = view.node(index).body() else {
        return Box::pin(async move { (Ok(()), lease) });
    };
    let limits = view.limits_of(index);
    if fits(limits, &rq) && (lease.is_empty() || lease.is_aligned(limits.alignment)) {
        return node.execute(rq, lease, Next::new(view, index));
    }
    let door = Door { node: &**node, view, index, limits };
    Box::pin(async move { door.fit(rq, lease).await })
}

/// Whether a request can be passed as it is. A node with an alignment takes no writes at once: they are tracked
/// against read-modify-write.
fn fits(limits: &Limits, rq: &Request) -> bool {
    let longest = match rq.op {
        Op::Read | Op::Write | Op::Cache => limits.max_transfer,
        Op::WriteZeroes | Op::Discard => limits.max_zeroes,
        Op::Flush => return true,
    };
    let able = match rq.op {
        Op::WriteZeroes => limits.can.zeroes,
        Op::Discard => limits.can.discard,
        _ => true,
    };
    let aligned =
        limits.alignment.bytes() == 1 || (limits.alignment.fits_range(rq.rest()) && !rq.op.changes());
    able && aligned && rq.range.len() <= longest
}

/// A node whose limits a request does not meet.
struct Door<'a> {
    node: &'a dyn Execute,
    view: &'a View,
    index: ViewIndex,
    limits: &'a Limits,
}

impl<'a> Door<'a> {
    async fn fit(&self, rq: Request, lease: Lease) -> (Result<()>, Lease) {
        match rq.op {
            Op::Read => self.read(rq, lease).await,
            Op::Write => self.write(rq, lease).await,
            Op::WriteZeroes => (self.zero(rq).await, lease),
            Op::Discard => (self.discard(rq).await, lease),
            Op::Flush | Op::Cache => (self.cache(rq).await, lease),
        }
    }

    async fn read(&self, mut rq: Request, mut lease: Lease) -> (Result<()>, Lease) {
        while !rq.rest().is_empty() {
            let piece = self.piece(rq.rest());
            let whole = self.limits.alignment.around(piece);
            let (result, bounce) = self.pass(rq.on(whole), Lease::new(whole.len() as usize)).await;
            if let Err(error) = result {
                return (Err(error), lease);
            }
            let from = (piece.start() - whole.start()) as usize;
            let to = rq.done as usize;
            let len = piece.len() as usize;
            lease[to..to + len].copy_from_slice(&bounce[from..from + len]);
            rq.done += len as u32;
            rq.acted = 0;
        }
        (Ok(()), lease)
    }

    async fn write(&self, mut rq: Request, lease: Lease) -> (Result<()>, Lease) {
        let whole = self.limits.alignment.fits_range(rq.rest()) && rq.range.len() <= self.limits.max_transfer;
        if whole && lease.is_aligned(self.limits.alignment) {
            let _lock = self.view.node(self.index).state().locks.shared(rq.rest()).await;
            return self.pass(rq, lease).await;
        }
        while !rq.rest().is_empty() {
            let piece = self.piece(rq.rest());
            if let Err(error) = self.write_piece(rq.on(piece), &lease, rq.done as usize).await {
                return (Err(error), lease);
            }
            rq.done += piece.len() as u32;
            rq.acted = 0;
        }
        (Ok(()), lease)
    }

    /// Writes one piece, the bytes of `lease` from `at` on, reading what it shares its blocks with first.
    async fn write_piece(&self, rq: Request, lease: &Lease, at: usize) -> Result<()> {
        let locks = &self.view.node(self.index).state().locks;
        let whole = self.limits.alignment.around(rq.range);
        let aligned = whole == rq.range;
        let lock = if aligned { locks.shared(whole).await } else { locks.exclusive(whole).await };
        let mut bounce = Lease::new(whole.len() as usize);
        if !aligned {
            let mut read = rq.on(whole);
            (read.op, read.flags) = (Op::Read, Flags::NONE);
            let (result, old) = self.pass(read, bounce).await;
            result?;
            bounce = old;
        }
        let from = (rq.range.start() - whole.start()) as usize;
        let len = rq.range.len() as usize;
        bounce[from..from + len].copy_from_slice(&lease[at..at + len]);
        bounce.carry_along(lease);
        // The neighbours' bytes are in it: abandoned, it keeps them locked until it has landed.
        bounce.carry(lock);
        self.pass(rq.on(whole), bounce).await.0
    }

    async fn zero(&self, rq: Request) -> Result<()> {
        let inside = self.limits.alignment.inside(rq.range);
        if !self.limits.can.zeroes || inside.is_empty() {
            if rq.flags.has(Flags::FAST_ZERO) {
                return Err(BlockError::new(
                    ErrorKind::Unsupported,
                    "zeroing is no faster than writing here",
                ));
            }
            return self.write_zeroes(rq, rq.range).await;
        }
        // What may be refused comes first: nothing has changed then.
        self.in_pieces(rq, inside).await?;
        self.write_zeroes(rq, ByteRange::between(rq.range.start(), inside.start())).await?;
        self.write_zeroes(rq, ByteRange::between(inside.end(), rq.range.end())).await
    }

    async fn write_zeroes(&self, rq: Request, mut range: ByteRange) -> Result<()> {
        while !range.is_empty() {
            let piece = range.head(ZERO_PIECE);
            let mut sub = rq.on(piece);
            sub.op = Op::Write;
            sub.flags = Flags::NONE;
            self.write(sub, Lease::zeroed(piece.len() as usize)).await.0?;
            range = range.skip(piece.len());
        }
        Ok(())
    }

    async fn discard(&self, rq: Request) -> Result<()> {
        if !self.limits.can.discard {
            return Ok(());
        }
        self.in_pieces(rq, self.limits.alignment.inside(rq.range)).await
    }

    async fn in_pieces(&self, rq: Request, mut range: ByteRange) -> Result<()> {
        let locks = &self.view.node(self.index).state().locks;
        while !range.is_empty() {
            let piece = range.head(self.longest(self.limits.max_zeroes));
            let _lock = locks.shared(piece).await;
            self.pass(rq.on(piece), Lease::empty()).await.0?;
            range = range.skip(piece.len());
        }
        Ok(())
    }

    async fn cache(&self, rq: Request) -> Result<()> {
        let mut range = self.limits.alignment.around(rq.range);
        while !range.is_empty() {
            let piece = range.head(self.longest(self.limits.max_transfer));
            self.pass(rq.on(piece), Lease::empty()).await.0?;
            range = range.skip(piece.len());
        }
        Ok(())
    }

    fn pass(&self, rq: Request, lease: Lease) -> LocalFut<'a, (Result<()>, Lease)> {
        self.node.execute(rq, lease, Next::new(self.view, self.index))
    }

    /// The front of `rest` that can be moved at once, with the rest of the blocks that it begins and ends in.
    fn piece(&self, rest: ByteRange) -> ByteRange {
        let inside = rest.start() - self.limits.alignment.down(rest.start());
        rest.head(self.longest(self.limits.max_transfer) - inside)
    }

    /// The limit as a multiple of the alignment, at least one unit.
    fn longest(&self, limit: u64) -> u64 {
        self.limits.alignment.down(limit).max(self.limits.alignment.bytes())
    }
}
