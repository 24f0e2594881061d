//! Zeroing, discarding and flushing at format nodes.

use block::{BlockError, ByteRange, ErrorKind, Result};
use io::Lease;

use super::Whence;
use super::write::around;
use crate::contract::{Changes, Format};
use crate::next::Next;
use crate::node::Body;
use crate::recorder::Recorded;
use crate::request::{Flags, Op, Request};
use crate::view::{View, ViewIndex};

/// Zeroes or discards, holding the clusters concerned.
pub(super) async fn change(view: &View, index: ViewIndex, rq: Request, lease: Lease) -> (Result<()>, Lease) {
    let changes = match view.node(index).body() {
        Body::Maps(format) => format.changes(),
        Body::Executes(_) => None,
    };
    let Some(changes) = changes else {
        let context = format!("node '{}' cannot be changed", view.node(index).name());
        return (Err(BlockError::new(ErrorKind::ReadOnly, context)), lease);
    };
    let _recorded = match Recorded::begin(changes, &rq, Next::new(view, index)).await {
        Ok(recorded) => recorded,
        Err(error) => return (Err(super::at_node(view, index, error)), lease),
    };
    let held = around(rq.range, view.limits_of(index).granule);
    let _lock = view.node(index).state().locks.exclusive(held).await;
    let result = if rq.flags.has(Flags::UNCHANGED) {
        change_unheld(view, index, changes, rq).await
    } else {
        changes.change(rq, Next::new(view, index)).await
    };
    (result.map_err(|e| super::at_node(view, index, e)), lease)
}

/// Zeroes only what the node does not hold. What lies behind the end of the layer below is zeroed as well: it shall
/// stay zero whatever comes to lie below.
async fn change_unheld(view: &View, index: ViewIndex, changes: &dyn Changes, rq: Request) -> Result<()> {
    let bottom = Some(view.node(index).id());
    let mut rest = rq.range;
    while !rest.is_empty() {
        let (whence, len) = super::whence(view, index, bottom, rest).await?;
        if whence != Whence::Here {
            changes.change(rq.on(rest.head(len)), Next::new(view, index)).await?;
        }
        rest = rest.skip(len);
    }
    Ok(())
}

/// Makes everything acknowledged durable: the format's tables and what lies in its children.
pub(super) async fn flush(
    view: &View,
    index: ViewIndex,
    format: &dyn Format,
    rq: Request,
    lease: Lease,
) -> (Result<()>, Lease) {
    let mut rq = rq.on(ByteRange::default());
    rq.op = Op::Flush;
    let result = match format.changes() {
        Some(changes) => changes.change(rq, Next::new(view, index)).await,
        // Nothing was ever written through a layer that cannot change.
        None => Ok(()),
    };
    (result.map_err(|e| super::at_node(view, index, e)), lease)
}
