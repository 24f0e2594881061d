//! Internal snapshots: the first node below filters has them, or nobody.

use block::{BlockError, ChildIndex, ErrorKind, Result};

use crate::next::Next;
use crate::node::Body;
use crate::powers::Snapshots;
use crate::view::{View, ViewIndex};

/// The power of the node that stores what is written to the root, and what it is called with.
pub(crate) fn snapshots(view: &View) -> Result<(&dyn Snapshots, Next<'_>)> {
    let mut index = ViewIndex::ROOT;
    loop {
        let node = view.node(index);
        match (node.powers().snapshots, node.body(), view.child(index, ChildIndex(0))) {
            (Some(power), ..) => return Ok((power, Next::new(view, index))),
            (None, Body::Executes(body), Ok(child)) if body.size().is_none() => index = child,
            _ => {
                let context = format!("driver '{}' does not support internal snapshots", node.driver());
                return Err(BlockError::new(ErrorKind::Unsupported, context));
            }
        }
    }
}
