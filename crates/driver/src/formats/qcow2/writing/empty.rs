//! Dropping all that an image holds, so that what lies below shows.
//!
//! Order: entries, durably; then the L2 tables, durably; then what lies in a data file goes. A crash leaves
//! some clusters dropped and others not: whoever empties an image has seen to it that both read the same (a commit has
//! made what lies below durable).

use std::sync::Arc;

use block::{ByteRange, Result};
use flow::{Next, Op, Request};
use io::{Lease, LocalFut};
use qcow2::DATA_FILE_CHILD;

use super::super::Qcow2;
use super::super::image::Image;

impl flow::Empty for Qcow2 {
    fn make_empty<'a>(&'a self, next: Next<'a>) -> LocalFut<'a, Result<()>> {
        Box::pin(self.image.in_background(next, move |image, next| {
            Box::pin(async move {
                let _alone = next.lock_all().await;
                image.make_empty(next).await.map_err(|error| image.refused(error, next))
            })
        }))
    }
}

impl Image {
    async fn make_empty(self: &Arc<Self>, next: Next<'_>) -> Result<()> {
        self.begin_change(next).await?;
        let size = self.bound();
        self.drop_entries(ByteRange::new(0, self.cluster().up(size)), next).await?;
        self.drop_tables_from(0, size, next).await?;
        self.discard_data(next).await
    }

    /// What lies in a data file of its own leaves it: nothing refers to it any more. A file that keeps it takes more
    /// space than it has to, that is all.
    async fn discard_data(&self, next: Next<'_>) -> Result<()> {
        let writer = self.writer()?;
        if self.is_apart() && writer.passes.snapshot && writer.readers_left(next.reclaim()).await {
            let all = Request::new(Op::Discard, ByteRange::new(0, next.size(DATA_FILE_CHILD)?));
            let _ = next.execute(DATA_FILE_CHILD, all, Lease::empty()).await;
        }
        Ok(())
    }
}
