//! The walk: from a node down to the first one that executes, one request per extent.
//!
//! [`resolve`] follows maps; [`now`] and [`read`]/[`mod@write`]/[`change`] move bytes on the path that does not
//! wait and the one that does; [`status`] answers what is where.

mod below;
mod change;
mod compress;
mod layers;
mod now;
mod offload;
mod read;
mod remember;
mod resolve;
mod snapshots;
mod status;
mod trail;
mod write;

use block::{BlockError, ByteRange, ChildIndex, ErrorKind, Mapping, Result};
use io::{Lease, LocalFut};

use crate::contract::Format;
use crate::dispatch;
use crate::next::Next;
use crate::node::Body;
use crate::request::{Op, Request};
use crate::view::{View, ViewIndex};

pub(crate) use compress::{pack, store_packed};
pub use layers::{Holds, Layer, Layers};
pub(crate) use now::try_now;
pub use offload::Lies;
pub(crate) use offload::{lies, may_take, take};
pub use remember::{
    DEFAULT_BUDGET as REMEMBER_BUDGET, set_budget as set_remember_budget, total as remember_total,
    usage as remember_usage,
};
pub(crate) use snapshots::snapshots;
pub use status::Whence;
pub(crate) use status::{extents, granule, quota, whence, whence_now};

/// Carries out a request at a node of the view; may wait.
pub(crate) fn execute<'a>(
    view: &'a View,
    index: ViewIndex,
    rq: Request,
    lease: Lease,
) -> LocalFut<'a, (Result<()>, Lease)> {
    let format: &dyn Format = match view.node(index).body() {
        Body::Executes(_) => return dispatch::execute(view, index, rq, lease),
        Body::Maps(format) => &**format,
    };
    match rq.op {
        Op::Read => Box::pin(read::read(view, index, rq, lease)),
        Op::Write => Box::pin(write::write(view, index, rq, lease)),
        Op::WriteZeroes | Op::Discard => Box::pin(change::change(view, index, rq, lease)),
        Op::Flush => Box::pin(change::flush(view, index, format, rq, lease)),
        // Without a filter that stores it, nearer than the format's own child there is nowhere to bring it.
        Op::Cache => Box::pin(async move { (Ok(()), lease) }),
    }
}

/// Makes a node `size` bytes long; a filter passes it to its child.
pub(crate) fn resize(view: &View, mut index: ViewIndex, size: u64) -> LocalFut<'_, Result<()>> {
    loop {
        let node = view.node(index);
        if let Some(power) = node.powers().resize {
            let future = power.resize(size, Next::new(view, index));
            return Box::pin(async move { future.await.map_err(|e| at_node(view, index, e)) });
        }
        match (node.body(), view.child(index, ChildIndex(0))) {
            (Body::Executes(body), Ok(child)) if body.size().is_none() => index = child,
            _ => return Box::pin(async move { Err(cannot_resize(view, index)) }),
        }
    }
}

#[cold]
fn cannot_resize(view: &View, index: ViewIndex) -> BlockError {
    let node = view.node(index);
    let context = format!("node '{}': driver '{}' cannot change its size", node.name(), node.driver());
    BlockError::new(ErrorKind::Unsupported, context)
}

/// Where the first bytes of `range` are, says the format `index`; where that is an error, it hears of it.
#[inline]
fn map(
    view: &View,
    index: ViewIndex,
    format: &dyn Format,
    op: Op,
    range: ByteRange,
) -> Result<Option<Mapping>> {
    let unmapped = |error| at_node(view, index, format.unmapped(error, op, range, Next::new(view, index)));
    format.map_now(range).map_err(unmapped)
}

/// Says at which node an error of a driver arose; drivers name the file or the peer.
#[cold]
fn at_node(view: &View, index: ViewIndex, error: BlockError) -> BlockError {
    error.within(format_args!("node '{}'", view.node(index).name()))
}
