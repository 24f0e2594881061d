//! Dropping all that an image holds, so that what lies below shows.
//!
//! Order: entries, durably; then the L2 tables, durably. A crash leaves some clusters dropped and others not: whoever
//! empties an image has seen to it that both read the same (a commit has made what lies below durable).

use std::sync::Arc;

use block::{ByteRange, Result};
use flow::Next;
use io::LocalFut;

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
        self.drop_tables_from(0, size, next).await
    }
}
