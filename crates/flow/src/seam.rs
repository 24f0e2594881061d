//! The seam: where clients' requests enter the graph. Bounds, read-only and detect-zeroes are checked here,
//! once, for every driver below.

use block::{BlockError, ByteRange, ErrorKind, Extent, Result};
use io::file::Offload;
use io::{File, Lease};

use crate::next::Next;
use crate::node::{Body, NodeId};
use crate::powers::{CheckReport, Packed, Preallocation, Repair, Snapshots, Taken, Tell};
use crate::request::{Flags, Now, Op, Request, Window};
use crate::root::Turn;
use crate::view::{DetectZeroes, View, ViewIndex};
use crate::walk::{self, Layer, Layers, Lies, Whence};

/// Carries out as much of `rq` as needs no wait. On [`Now::Wait`] the caller goes on with [`execute`] on the
/// view of this turn; the first `rq.done` bytes of the window are done. A lent read is all or nothing.
pub fn try_now(turn: &Turn<'_>, rq: &mut Request, mut window: Window<'_>) -> Result<Now> {
    let view = turn.view();
    check(view, rq)?;
    if rq.range.is_empty() && rq.op != Op::Flush {
        return Ok(Now::Done);
    }
    if rq.flags.has(Flags::FUA) || !view.writes_freely() && waits(view, rq, &window) {
        return Ok(Now::Wait);
    }
    let lent = match &window {
        Window::Lend(pieces) => Some(pieces.len()),
        _ => None,
    };
    let answer = walk::try_now(view, ViewIndex::ROOT, rq, window.part(0, rq.range.len() as usize))?;
    if let (Now::Wait, Some(before), Window::Lend(pieces)) = (answer, lent, window) {
        pieces.truncate(before);
        rq.done = 0;
    }
    Ok(answer)
}

/// Carries out the rest of `rq`; may wait. The lease is as long as the range for reads and writes (its first
/// `rq.done` bytes are done), empty otherwise, and comes back whole.
///
/// Dropping the future of a change does not undo it: what has begun may land at any later time, over newer bytes
/// of the same range (never of another). So whoever goes away lets its changes end first.
pub async fn execute(view: &View, rq: Request, lease: Lease) -> (Result<()>, Lease) {
    if let Err(error) = check(view, &rq) {
        return (Err(error), lease);
    }
    if rq.range.is_empty() && rq.op != Op::Flush {
        return (Ok(()), lease);
    }
    let mut sub = rq;
    sub.flags = rq.flags.without(Flags::FUA);
    let (result, lease) = match converted(view, sub, &lease) {
        Some(zeroing) => {
            let (result, _) = walk::execute(view, ViewIndex::ROOT, zeroing, Lease::empty()).await;
            (result, lease)
        }
        None => walk::execute(view, ViewIndex::ROOT, sub, lease).await,
    };
    if result.is_err() || !rq.flags.has(Flags::FUA) {
        return (result, lease);
    }
    let (flushed, _) = walk::execute(view, ViewIndex::ROOT, Request::flush(), Lease::empty()).await;
    (flushed, lease)
}

/// Which parts of `range` are data, zeros or holes: in order, without gaps, from its first byte. May end before
/// the range does.
pub async fn extents(view: &View, range: ByteRange) -> Result<Vec<Extent>> {
    check(view, &Request::new(Op::Read, range))?;
    if range.is_empty() {
        return Ok(Vec::new());
    }
    walk::extents(view, ViewIndex::ROOT, range).await
}

/// Which layer of the chain answers for the first bytes of `range` (not empty), and what it has there.
/// `layers` is what earlier questions have brought to light.
pub async fn layer(view: &View, layers: &mut Layers, range: ByteRange) -> Result<Layer> {
    check(view, &Request::new(Op::Read, range))?;
    layers.front(view, range).await
}

/// Makes the root `size` bytes long; new bytes read as zeros. The caller has seen to it that nobody else needs the
/// old size (permission `resize`) and that requests have ended where it shrinks.
pub async fn resize(view: &View, size: u64) -> Result<()> {
    if view.root().is_read_only() {
        let context = format!("node '{}' is read-only", view.root().name());
        return Err(BlockError::new(ErrorKind::ReadOnly, context));
    }
    walk::resize(view, ViewIndex::ROOT, size).await
}

/// Nobody is going to change the root for now: see [`crate::Changes::rest`]. Nothing is done in nodes that cannot
/// change.
pub async fn rest(view: &View) -> Result<()> {
    let changes = match view.root().body() {
        Body::Maps(format) if !view.root().is_read_only() => format.changes(),
        _ => None,
    };
    match changes {
        Some(changes) => changes.rest(view.next()).await,
        None => Ok(()),
    }
}

/// Makes room for `range` of the root, which reads as zeros and was never written to.
pub async fn preallocate(view: &View, range: ByteRange, how: Preallocation) -> Result<()> {
    let power = power(view, view.root().powers().resize, "cannot make room")?;
    power.preallocate(range, how, Next::new(view, ViewIndex::ROOT)).await
}

/// Has the root drop all that it holds itself, durably, so that what lies below shows. The caller has seen to it that
/// both read the same.
pub async fn make_empty(view: &View) -> Result<()> {
    let power = power(view, view.root().powers().empty, "cannot be emptied")?;
    power.make_empty(Next::new(view, ViewIndex::ROOT)).await
}

/// Has the root check its own tables, if its driver can, and mend what `repair` says.
pub async fn check_tables(view: &View, repair: Repair, tell: Tell<'_>) -> Result<CheckReport> {
    let power = power(view, view.root().powers().check, "has no tables to check")?;
    power.check(repair, tell, Next::new(view, ViewIndex::ROOT)).await
}

/// A power of the root, or what it is that the driver has not.
fn power<P>(view: &View, power: Option<P>, cannot: &str) -> Result<P> {
    let root = view.root();
    power.ok_or_else(|| {
        let context = format!("node '{}': driver '{}' {cannot}", root.name(), root.driver());
        BlockError::new(ErrorKind::Unsupported, context)
    })
}

/// The internal snapshots of the root (of the first node below filters), and what they are asked with. `Unsupported`
/// where it has none.
pub fn snapshots(view: &View) -> Result<(&dyn Snapshots, Next<'_>)> {
    walk::snapshots(view)
}

/// Which layer has the first bytes of `range`: the cache itself (the first format below filters), one between it and
/// `bottom` (all that lie below it without one), or one further below; and how many bytes share that answer.
pub async fn whence(view: &View, bottom: Option<NodeId>, range: ByteRange) -> Result<(Whence, u64)> {
    check(view, &Request::new(Op::Read, range))?;
    walk::whence(view, ViewIndex::ROOT, bottom, range).await
}

/// In what units of bytes the cache (the first format below filters) allocates; 1 without one.
pub fn granule(view: &View) -> u64 {
    walk::granule(view, ViewIndex::ROOT)
}

/// Reads `range` into a lease of its own.
pub async fn read(view: &View, range: ByteRange) -> Result<Lease> {
    let (result, lease) =
        execute(view, Request::new(Op::Read, range), Lease::new(range.len() as usize)).await;
    result.map(|()| lease)
}

/// Writes `bytes` at `start`.
pub async fn write(view: &View, start: u64, bytes: &[u8]) -> Result<()> {
    let range = ByteRange::new(start, bytes.len() as u64);
    execute(view, Request::new(Op::Write, range), Lease::copy_of(bytes)).await.0
}

/// Where the first bytes of `range` (not empty) lie, if in a file, and how many share that answer.
pub async fn lies(view: &View, range: ByteRange) -> Result<(Option<Lies<'_>>, u64)> {
    check(view, &Request::new(Op::Read, range))?;
    walk::lies(view, range).await
}

/// Whether the root may ever [`take`] bytes from this file: one of its own can, and nobody has to see what is written.
pub async fn may_take(view: &View, source: &dyn File, how: Offload) -> bool {
    walk::may_take(view, source, how).await
}

/// Has the kernel bring `source` to `start`, in place of what is there. After anything but [`Taken::All`] a part of it
/// may have been brought, and all of it has to be carried there.
pub async fn take(view: &View, start: u64, source: &Lies<'_>, how: Offload) -> Result<Taken> {
    let range = ByteRange::checked(start, source.range.len()).ok_or_else(too_far)?;
    check(view, &Request::new(Op::Write, range))?;
    walk::take(view, range, source, how).await
}

/// Packs one cluster of the root (its last one may be shorter) for [`store_packed`]. `Unsupported` where the format
/// cannot.
pub async fn pack(view: &View, bytes: Lease) -> Result<Packed> {
    walk::pack(view, bytes).await
}

/// Stores what was packed at `start`, where its cluster begins.
pub async fn store_packed(view: &View, start: u64, packed: Packed) -> Result<()> {
    check(view, &Request::new(Op::Write, checked(start, packed.bytes.len())?))?;
    walk::store_packed(view, start, packed).await
}

/// Writes `bytes` at `start` compressed: whole clusters, of which the last one may end with the node. What cannot be
/// made shorter is stored as it is. `Unsupported` where the format cannot.
pub async fn write_compressed(view: &View, start: u64, mut bytes: Lease) -> Result<()> {
    check(view, &Request::new(Op::Write, checked(start, bytes.len())?))?;
    let (mut at, cluster) = (start, granule(view));
    while !bytes.is_empty() {
        // At most as long as they are.
        let part = bytes.split_to(cluster.min(bytes.len() as u64) as usize);
        let len = part.len() as u64;
        store_packed(view, at, pack(view, part).await?).await?;
        at += len;
    }
    Ok(())
}

fn checked(start: u64, len: usize) -> Result<ByteRange> {
    let range = ByteRange::checked(start, len as u64);
    range.ok_or_else(too_far)
}

fn too_far() -> BlockError {
    BlockError::new(ErrorKind::OutOfRange, "a write beyond 2^64")
}

fn check(view: &View, rq: &Request) -> Result<()> {
    let size = view.size();
    if rq.range.end() > size {
        return Err(beyond(rq, size));
    }
    if rq.op.changes() && !rq.flags.has(Flags::UNCHANGED) && view.root().is_read_only() {
        let context = format!("node '{}' is read-only", view.root().name());
        return Err(BlockError::new(ErrorKind::ReadOnly, context));
    }
    Ok(())
}

#[cold]
fn beyond(rq: &Request, size: u64) -> BlockError {
    let context = format!("{:?} of {} reaches beyond the end at {size}", rq.op, rq.range);
    // A write beyond the end has no room; a read there is a mistake.
    let kind = if rq.op.changes() { ErrorKind::NoSpace } else { ErrorKind::OutOfRange };
    BlockError::new(kind, context)
}

/// Whether a write is recorded, or may become a zeroing.
#[cold]
fn waits(view: &View, rq: &Request, window: &Window<'_>) -> bool {
    let may_be_zeroing = view.detect_zeroes() != DetectZeroes::Off;
    match window {
        Window::Out(bytes) if rq.op == Op::Write => view.records() || may_be_zeroing && is_zero(bytes),
        _ => false,
    }
}

fn converted(view: &View, mut rq: Request, lease: &Lease) -> Option<Request> {
    let flags = match view.detect_zeroes() {
        DetectZeroes::Off => return None,
        DetectZeroes::On => Flags::NONE,
        DetectZeroes::Unmap => Flags::MAY_UNMAP,
    };
    if rq.op != Op::Write || !is_zero(lease) {
        return None;
    }
    rq.op = Op::WriteZeroes;
    rq.flags = rq.flags | flags;
    Some(rq)
}

/// Whether all bytes are zero.
pub fn is_zero(bytes: &[u8]) -> bool {
    // Blocks keep the loop free of branches, so that it is done many bytes at a time.
    bytes.chunks(256).all(|block| block.iter().fold(0, |seen, byte| seen | byte) == 0)
}
