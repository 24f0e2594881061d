//! What jobs ask of the engine.

use std::sync::MutexGuard;

use block::Result;
use flow::{BackingName, NodeId};
use graph::Graph;
use io::LocalFut;

/// Where jobs work: the graph, and what only the engine knows of its nodes.
pub trait House: Send + Sync {
    /// The graph. Never held across an await.
    fn graph(&self) -> MutexGuard<'_, Graph>;

    /// How an image would name `node`, or what it filters, as its backing image. `mask_protocol`: a protocol's format
    /// is `raw` then.
    fn backing_name(&self, node: NodeId, mask_protocol: bool) -> Result<BackingName>;

    /// Makes an image take or refuse writes, with the files below it that are only its own. Ready when it does so.
    fn set_read_only(&self, node: NodeId, read_only: bool) -> LocalFut<'_, Result<()>>;
}
