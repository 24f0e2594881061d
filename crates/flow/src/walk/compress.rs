//! Writing compressed: the first format below filters does it, or nobody.

use block::{Alignment, BlockError, ByteRange, ChildIndex, ErrorKind, Result};
use io::Lease;

use crate::next::Next;
use crate::node::Body;
use crate::powers::Packed;
use crate::recorder::Recorded;
use crate::request::{Op, Request};
use crate::view::{View, ViewIndex};

/// Packs one cluster, or the shorter last one, for [`store_packed`].
pub(crate) async fn pack(view: &View, bytes: Lease) -> Result<Packed> {
    let index = compressing(view)?;
    let Some(power) = view.node(index).powers().compress else { return Err(cannot(view, index)) };
    power.pack(bytes).await.map_err(|error| super::at_node(view, index, error))
}

/// Stores what was packed at `start`, holding the cluster.
pub(crate) async fn store_packed(view: &View, start: u64, packed: Packed) -> Result<()> {
    let index = compressing(view)?;
    let node = view.node(index);
    let Some(power) = node.powers().compress else { return Err(cannot(view, index)) };
    let (range, granule) = (ByteRange::new(start, packed.bytes.len() as u64), view.limits_of(index).granule);
    let unit = Alignment::new(granule).unwrap_or_default();
    let ends = range.len() == granule || range.end() == view.size_of(index);
    if !unit.fits(range.start()) || range.len() > granule || !ends {
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
    let written = power.store_packed(start, packed, Next::new(view, index)).await;
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
