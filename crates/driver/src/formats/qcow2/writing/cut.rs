//! Cutting off the end of the file, which a shorter disk has left unused.
//!
//! Order: nothing on disk refers to what is cut off, durably, before it goes. Afterwards the file holds all that is in
//! use, whether the cut is on disk or not.
//!
//! Invariant: nobody takes or frees clusters meanwhile, other than those who free what they were given before.

use std::sync::Arc;

use block::Result;
use flow::Next;
use flow::sabotage::{self, Rule};
use qcow2::FILE_CHILD;

use super::super::image::Image;
use super::super::space::refcounts::End;

/// Most refcount blocks that are read for it. A file that stays longer takes room and does no other harm.
const LOADS_MAX: usize = 1024;

impl Image {
    /// The disk is shorter, durably, and what was dropped is free: the file ends with the last cluster in use. Where
    /// that cannot be, the file stays as long as it is, which is told.
    pub(crate) async fn cut_file(self: &Arc<Self>, next: Next<'_>) {
        if let Err(error) = self.cut_unused(next).await {
            let error = self.refused(error, next);
            self.events.failed(error.within("cannot cut off the unused end of its file"));
        }
    }

    async fn cut_unused(self: &Arc<Self>, next: Next<'_>) -> Result<()> {
        let Some(cluster) = self.end_of_use(next).await? else { return Ok(()) };
        let end = self.host(cluster).0;
        if end >= next.size(FILE_CHILD)? {
            return Ok(());
        }
        self.alone(async |turn| {
            if !sabotage::broken(Rule::CutBarrier) {
                self.flush_once(turn, next).await?;
            }
            next.resize(FILE_CHILD, end).await
        })
        .await
    }

    /// The first cluster behind all that is in use; `None` where that would take too long to find out.
    async fn end_of_use(&self, next: Next<'_>) -> Result<Option<u64>> {
        let (writer, mut last) = (self.writer()?, u64::MAX);
        for _ in 0..LOADS_MAX {
            let end = writer.books.lock().refcounts.end_of_use(last);
            match end {
                End::At(cluster) => return Ok(Some(cluster)),
                End::Load(block) => {
                    self.load_block(block, next).await?;
                    last = block;
                }
            }
        }
        Ok(None)
    }
}
