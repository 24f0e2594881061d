//! An image that is open, and who uses it.

use std::rc::Rc;
use std::sync::Arc;

use engine::{Engine, Event};
use flow::{BitmapInfo, Root};
use graph::{Demand, RootId, User};
use qcow2::Header;

use crate::failure::Result;
use crate::session::{Listener, Session};

/// Sizes of raw images are shown in whole sectors, as QEMU does.
pub(crate) const SECTOR: u64 = 512;
/// Granularity of bitmaps, and the smallest, unless another is given.
const GRANULARITY: u64 = 64 << 10;
const GRANULARITY_MIN: u64 = 4 << 10;

/// An open image. Close it, or what was written to it is not all in its file.
pub(crate) struct Image {
    engine: Arc<Engine>,
    /// Who is told of what is lost when it is closed.
    listener: Rc<dyn Listener>,
    /// Its driver.
    pub(crate) format: &'static str,
    /// Its node.
    pub(crate) node: String,
    /// The header of a qcow2 image, as it was when it was opened.
    pub(crate) header: Option<Header>,
    /// Its use for as long as it is open.
    user: RootId,
}

/// A use of an image, for requests.
pub(crate) struct Use {
    engine: Arc<Engine>,
    id: RootId,
    /// Where requests enter.
    pub(crate) root: Arc<Root>,
}

impl Image {
    /// Takes a node that was opened, for `demand`: other programs see it from now on.
    pub(crate) fn taken(
        session: &Session,
        format: &'static str,
        node: String,
        header: Option<Header>,
        demand: Demand,
    ) -> Result<Self> {
        let (engine, listener) = (session.engine.clone(), session.listener.clone());
        let (user, _) = engine.attach(&node, User::named("img"), demand)?;
        Ok(Self { engine, listener, format, node, header, user })
    }

    /// Size of the virtual disk in bytes.
    pub(crate) fn size(&self) -> Result<u64> {
        Ok(self.engine.size(&self.node)?)
    }

    /// The same in whole sectors.
    pub(crate) fn size_in_sectors(&self) -> Result<u64> {
        Ok(self.size()?.next_multiple_of(SECTOR))
    }

    /// Its dirty bitmaps.
    pub(crate) async fn bitmaps(&self) -> Result<Vec<BitmapInfo>> {
        Ok(self.engine.bitmaps(&self.node).await?)
    }

    /// The granularity of a bitmap for which none is given: QEMU's.
    pub(crate) fn bitmap_granularity(&self) -> u64 {
        let cluster = self.header.as_ref().map_or(GRANULARITY, |header| 1 << header.cluster_bits);
        cluster.clamp(GRANULARITY_MIN, GRANULARITY)
    }

    /// Begins to use it.
    pub(crate) fn attach(&self, demand: Demand) -> Result<Use> {
        Ok(self.attach_plainly(demand)?)
    }

    /// The same, with the error as it is.
    pub(crate) fn attach_plainly(&self, demand: Demand) -> block::Result<Use> {
        Use::of(&self.engine, &self.node, demand)
    }

    /// Closes it: what was written to it is in its file then, and durable as its cache mode says. Of what could not be
    /// stored any more, its bitmaps, it is told, which is no failure, as with qemu-img.
    pub(crate) async fn close(self) -> Result<()> {
        let mut events = self.engine.events().subscribe();
        self.engine.detach(self.user).await?;
        let closed = self.engine.delete_node(&self.node).await;
        while let Some(event) = events.try_next() {
            if let Event::NodeGivenUp { error, .. } = event {
                self.listener.complain(&error);
            }
        }
        Ok(closed?)
    }
}

impl Use {
    /// Begins to use a node, of an image or below one.
    pub(crate) fn of(engine: &Arc<Engine>, node: &str, demand: Demand) -> block::Result<Self> {
        let (id, root) = engine.attach(node, User::named("img"), demand)?;
        Ok(Self { engine: engine.clone(), id, root })
    }

    /// Gives the image up; what was written is in its file then.
    pub(crate) async fn end(self) -> Result<()> {
        Ok(self.end_plainly().await?)
    }

    /// The same, with the error as it is.
    pub(crate) async fn end_plainly(self) -> block::Result<()> {
        self.engine.detach(self.id).await
    }
}
