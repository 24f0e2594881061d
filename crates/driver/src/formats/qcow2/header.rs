//! Changing the header of an image in use.
//!
//! Invariant: whoever writes it holds the [`super::writer::Writer::turn`], so that it is read as it is.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use block::Result;
use flow::sabotage::Rule;
use flow::{Backing, BackingName, Next};
use io::{Lease, LocalFut};
use qcow2::{FILE_CHILD, HeaderEdit};

use super::Qcow2;
use super::image::Image;
use super::writer::Turn;

impl Image {
    /// Before the first change of anything else: clears the autoclear bits that we do not keep, and makes a data file as
    /// long as the disk.
    pub(super) async fn begin_changing(&self, next: Next<'_>) -> Result<()> {
        let writer = self.writer()?;
        self.alone(async |turn| {
            if !writer.is_changing() {
                if writer.to_clear != 0 {
                    let edit = HeaderEdit::ClearAutoclear(writer.to_clear);
                    self.write_header(&edit, Rule::HeaderBarrier, turn, next).await?;
                }
                self.stretch_data_file(next).await?;
            }
            writer.set_changing();
            Ok(())
        })
        .await
    }

    /// Names another backing image, or none, once all that was acknowledged is durable.
    async fn name_backing(self: &Arc<Self>, backing: Option<BackingName>, next: Next<'_>) -> Result<()> {
        let writer = self.writer()?;
        self.begin_change(next).await?;
        self.flush(next).await?;
        let edit = match backing {
            None => HeaderEdit::NoBacking,
            Some(BackingName { name, format }) => {
                // What is dropped from now on is zeroed for its sake.
                writer.backed.store(true, Ordering::SeqCst);
                HeaderEdit::Backing(qcow2::Backing { name, format: Some(format) })
            }
        };
        self.alone(async |turn| self.write_header(&edit, Rule::LastBarrier, turn, next).await).await
    }

    /// Carries the change out, each step durable before the next one. The caller holds the turn.
    pub(super) async fn write_header(
        &self,
        edit: &HeaderEdit,
        rule: Rule,
        turn: &Turn,
        next: Next<'_>,
    ) -> Result<()> {
        let len = self.geometry.cluster_size().min(next.size(FILE_CHILD)?);
        let first = self.read_file(0, len as usize, next).await?;
        for write in edit.writes(&first)? {
            self.write_table(write.offset, Lease::copy_of(&write.bytes), turn, next).await?;
            self.barrier(rule, next).await?;
        }
        Ok(())
    }
}

impl Backing for Qcow2 {
    fn set_backing<'a>(&'a self, backing: Option<BackingName>, next: Next<'a>) -> LocalFut<'a, Result<()>> {
        let work = |image: &Arc<Image>, next| {
            let image = image.clone();
            async move { image.name_backing(backing, next).await.map_err(|error| image.named(error)) }
        };
        Box::pin(work(&self.image, next))
    }
}
