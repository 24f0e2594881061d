//! Verbs on dirty bitmaps, and the rest that stores them.
//!
//! Invariant: a bitmap counts as recording when no request uses a view any more that does not show it.

use std::sync::Arc;

use block::{BlockError, DirtyBitmap, ErrorKind, Result};
use flow::{BitmapChange, BitmapInfo, Bitmaps, NodeId, View, seam};
use graph::{Edit, Reopen};

use crate::engine::Engine;

impl Engine {
    /// The dirty bitmaps of a node, oldest first; none where its driver has no place for any.
    pub async fn bitmaps(&self, node: &str) -> Result<Vec<BitmapInfo>> {
        let view = self.view_of(node)?;
        match view.root().powers().bitmaps {
            Some(power) => power.list(view.next()).await,
            None => Ok(Vec::new()),
        }
    }

    /// One dirty bitmap of a node as it is now.
    pub async fn bitmap(&self, node: &str, name: &str) -> Result<DirtyBitmap> {
        let view = self.view_of(node)?;
        match view.root().powers().bitmaps {
            Some(power) => power.content(name, view.next()).await,
            None => Err(BlockError::new(ErrorKind::NotFound, format!("Dirty bitmap '{name}' not found"))),
        }
    }

    /// Changes a dirty bitmap of a node. What is stored of it follows when the node comes to rest; a removal is durable
    /// at once. Ready when all requests see the change.
    pub async fn change_bitmap(&self, node: &str, name: &str, change: BitmapChange) -> Result<()> {
        let shows =
            matches!(change, BitmapChange::Add { .. } | BitmapChange::Record(_) | BitmapChange::Remove);
        let id = {
            let view = self.view_of(node)?;
            power(&view, name, &change)?.change(name, change, view.next()).await?;
            view.root().id()
        };
        if shows {
            let drained = self.graph().edit(&[Edit::Reopen(Reopen::new(id))])?;
            drained.await;
        }
        Ok(())
    }

    /// Has a node note in its file that nobody is changing it, until somebody does: its bitmaps are stored. Everything
    /// is durable then.
    pub async fn rest(&self, node: &str) -> Result<()> {
        let view = self.view_of(node)?;
        seam::rest(&view).await
    }

    /// The same for a node that is about to go, and for those that go with it. Each is tried, the first failure told.
    pub(crate) async fn rest_all_below(&self, node: NodeId) -> Result<()> {
        let (mut outcome, mut ahead) = (Ok(()), vec![node]);
        while let Some(at) = ahead.pop() {
            let view = {
                let graph = self.graph();
                let Ok(info) = graph.node(at) else { continue };
                let goes = |child: NodeId| {
                    graph.node(child).is_ok_and(|below| !below.owned && below.references == 1)
                };
                ahead.extend(info.children.iter().map(|edge| edge.child).filter(|child| goes(*child)));
                graph.view(at)?
            };
            outcome = outcome.and(seam::rest(&view).await);
        }
        outcome
    }

    /// The same for all nodes: the process is about to end. Each is tried, the first failure told.
    pub async fn rest_all(&self) -> Result<()> {
        let nodes: Vec<_> = self.graph().nodes().map(|info| info.node.id()).collect();
        let mut outcome = Ok(());
        for node in nodes {
            // One that is gone has come to rest before.
            let view = self.graph().view(node);
            if let Ok(view) = view {
                outcome = outcome.and(seam::rest(&view).await);
            }
        }
        outcome
    }

    fn view_of(&self, node: &str) -> Result<Arc<View>> {
        let graph = self.graph();
        graph.view(graph.find(node)?)
    }
}

/// What has the bitmaps of the root; in QEMU's words where nothing does.
fn power<'a>(view: &'a View, name: &str, change: &BitmapChange) -> Result<&'a dyn Bitmaps> {
    let node = view.root().name();
    let (kind, context) = match (view.root().powers().bitmaps, change) {
        (Some(power), _) => return Ok(power),
        (None, BitmapChange::Add { persistent: true, .. }) => (
            ErrorKind::Unsupported,
            format!("Can't store persistent bitmaps to {node}: Operation not supported"),
        ),
        (None, BitmapChange::Add { .. }) => (
            ErrorKind::Unsupported,
            format!("node '{node}': driver '{}' records no changes yet", view.root().driver()),
        ),
        (None, _) => (ErrorKind::NotFound, format!("Dirty bitmap '{name}' not found")),
    };
    Err(BlockError::new(kind, context))
}
