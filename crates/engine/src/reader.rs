//! Reading a node from inside the process: for verbs that compare, copy or measure.

use std::sync::Arc;

use block::{ByteRange, Extent, Result};
use flow::{Layer, Layers, Root, Whence, seam};
use graph::{Demand, RootId, User};
use io::Lease;

use crate::engine::Engine;

/// Runs that are counted before others have their turn.
const RUNS_MAX: u32 = 256;

/// A user of a node that only reads. It keeps the node until [`Reader::close`].
pub struct Reader {
    engine: Arc<Engine>,
    id: RootId,
    root: Arc<Root>,
}

impl Engine {
    /// Begins to read `node`, whose size stays as it is, as the user `name`.
    pub fn reader(self: &Arc<Self>, name: &str, node: &str) -> Result<Reader> {
        self.reading(name, node, Demand::READ)
    }

    /// Begins to read `node`, whatever others do with it meanwhile, as the user `name`.
    pub fn look(self: &Arc<Self>, name: &str, node: &str) -> Result<Reader> {
        self.reading(name, node, Demand::LOOK)
    }

    fn reading(self: &Arc<Self>, name: &str, node: &str, demand: Demand) -> Result<Reader> {
        let (id, root) = self.attach(node, User::named(name), demand)?;
        Ok(Reader { engine: self.clone(), id, root })
    }
}

impl Reader {
    /// Virtual size in bytes.
    pub fn size(&self) -> u64 {
        self.root.view().size()
    }

    /// The bytes of `range`, which must lie within the node.
    pub async fn read(&self, range: ByteRange) -> Result<Lease> {
        seam::read(&self.root.view(), range).await
    }

    /// Which parts of `range` are data, zeros or holes: all of it, in order and without gaps.
    pub async fn extents(&self, range: ByteRange) -> Result<Vec<Extent>> {
        let mut found = Vec::new();
        let mut rest = range;
        while !rest.is_empty() {
            let known = seam::extents(&self.root.view(), rest).await?;
            let end = known.last().map_or(rest.end(), |extent| extent.range.end());
            rest = ByteRange::between(end, range.end().max(end));
            for extent in known {
                block::push_extent(&mut found, extent);
            }
        }
        Ok(found)
    }

    /// Which layer has the first bytes of `range`, and what it has there; `layers` is what is known from before.
    pub async fn layer(&self, layers: &mut Layers, range: ByteRange) -> Result<Layer> {
        seam::layer(&self.root.view(), layers, range).await
    }

    /// Bytes that the cache below holds itself, data or zeros (the first format below filters).
    pub async fn held(&self) -> Result<u64> {
        let (mut held, mut runs) = (0, 0_u32);
        let mut rest = ByteRange::between(0, self.size());
        while !rest.is_empty() {
            let (whence, len) = seam::whence(&self.root.view(), None, rest).await?;
            held += if whence == Whence::Here { len } else { 0 };
            rest = rest.skip(len);
            runs += 1;
            if runs.is_multiple_of(RUNS_MAX) {
                io::yield_now().await;
            }
        }
        Ok(held)
    }

    /// Gives the node up. Ready when no read uses it any more.
    pub async fn close(self) -> Result<()> {
        self.engine.detach(self.id).await
    }
}
