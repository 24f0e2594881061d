//! An image that nobody changes for a while.
//!
//! Those who allocate, zero or discard wait for the lock of the whole node, which the caller holds. Those who write in
//! place ask nobody: from now on no cluster is said to be writable in place, and whoever found one before has to end
//! first. Readers go on.

use std::sync::Arc;
use std::time::Duration;

use block::{ByteRange, Result};
use flow::Next;

use super::super::image::Image;

/// How long to wait before looking again whether the last one has ended.
const PAUSE: Duration = Duration::from_millis(1);

/// Nobody writes in place until this is dropped.
pub(super) struct Still(Arc<Image>);

impl Still {
    /// Nobody ever does again, and whoever wants to change something is told why.
    pub(super) fn for_ever(&self) {
        self.0.writer.iter().for_each(|writer| writer.set_unknown());
    }
}

impl Drop for Still {
    fn drop(&mut self) {
        self.0.writer.iter().for_each(|writer| writer.set_still(false));
    }
}

impl Image {
    /// Waits until nobody changes anything any more, and all of it is durable. The caller holds the lock of the node.
    pub(super) async fn keep_still(self: &Arc<Self>, next: Next<'_>) -> Result<Still> {
        let writer = self.writer()?;
        writer.set_still(true);
        let still = Still(self.clone());
        let tag = next.reclaim().tag();
        while !next.reclaim().writers_passed(tag) {
            io::sleep(PAUSE).await;
        }
        self.flush(next).await?;
        // What was given up and has not landed yet holds its slice.
        while writer.books.lock().is_pinned(ByteRange::between(0, u64::MAX)) {
            io::sleep(PAUSE).await;
        }
        Ok(still)
    }
}
