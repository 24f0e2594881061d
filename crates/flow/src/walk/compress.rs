//! Writing compressed: the first format below filters does it, or nobody.

use block::{Alignment, BlockError, ByteRange, ChildIndex, ErrorKind, Result};
use io::Lease;

use crate::next::Next;
use crate::node::Body;
use crate::recorder::Recorded;
use crate::request::{Op, Request};
use crate::view::{View, ViewIndex};

/// Stores `bytes` compressed at `start`, holding the clusters concerned.
pub(crate) async fn write_compressed(view: &View, start: u64, bytes: Lease) -> Result<()> {
    let index = compressing(view)?;
    let node = view.node(index);
    let Some(power) = node.powers().compress else { return Err(cannot(view, index)) };
    let (range, granule) = (ByteRange::new(start, bytes.len() as u64), view.limits_of(index).granule);
    let unit = Alignment::new(granule).unwrap_or_default();
    if !unit.fits(range.start()) || !unit.fits(range.end()) && range.end() != view.size_of(index) {
        let context = format!("{range}: compressed writes are whole clusters of {granule} bytes");
        return Err(BlockError::new(ErrorKind::Invalid, context));
    }
    let changes = match node.body() {
        Body::Maps(format) => format.changes(),
        Body::Executes(_) => None,
    };
    let _recorded = match changes {
        Some(changes) => {
            Some(Recorded::begin(changes, &Request::new(Op::Write, range), Next::new(view, index)).await?)
        }
        None => None,
    };
    let _lock = node.state().locks.exclusive(unit.around(range)).await;
    let written = power.write_compressed(start, bytes, Next::new(view, index)).await;
    written.map_err(|error| super::at_node(view, index, error))
}

/// The node that stores what is written to the root.
fn compressing(view: &View) -> Result<ViewIndex> {
    let mut index = ViewIndex::ROOT;
    loop {
        let node = view.node(index);
        match (node.body(), view.child(index, ChildIndex(0))) {
            _ if node.powers().compress.is_some() => return Ok(index),
            (Body::Executes(body), Ok(child)) if body.size().is_none() => index = child,
            _ => return Err(cannot(view, index)),
        }
    }
}

#[cold]
fn cannot(view: &View, index: ViewIndex) -> BlockError {
    let node = view.node(index);
    let context = format!("node '{}': driver '{}' cannot write compressed data", node.name(), node.driver());
    BlockError::new(ErrorKind::Unsupported, context)
}
