//! Changing the header of an image in use.
//!
//! Invariant: whoever writes it holds the [`super::writing::writer::Writer::turn`], so that it is read as it is.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use block::{BlockError, ErrorKind, Result};
use flow::sabotage::Rule;
use flow::{Backing, BackingName, Naming, Next};
use io::{Lease, LocalFut};
use qcow2::{FILE_CHILD, Header, HeaderEdit};

use super::Qcow2;
use super::image::Image;
use super::writing::writer::Turn;

impl Image {
    /// Before the first change of anything else: clears the autoclear bits that we do not keep, marks the bitmaps that
    /// would be wrong, and the image as dirty where refcounts are lazy, and makes a data file as long as the disk.
    pub(super) async fn begin_changing(&self, next: Next<'_>) -> Result<()> {
        let writer = self.writer()?;
        let _hand = self.bitmaps.hand().await?;
        self.alone(async |turn| {
            if !writer.is_changing() {
                // Where the header was written last and nobody knows whether it is there, bitmaps may count as stored.
                writer.check_kept()?;
                self.check_structures()?;
                if writer.to_clear != 0 {
                    let edit = HeaderEdit::ClearAutoclear(writer.to_clear);
                    self.write_header(&edit, Rule::HeaderBarrier, turn, next).await?;
                }
                if writer.lazy {
                    self.write_header(&HeaderEdit::Dirty(true), Rule::HeaderBarrier, turn, next).await?;
                    writer.dirty.store(true, Ordering::SeqCst);
                }
                self.mark_recording(turn, next).await?;
                self.stretch_data_file(next).await?;
            }
            writer.set_changing(true);
            Ok(())
        })
        .await
    }

    /// Nobody is going to change it for now: its bitmaps are stored, and it is marked clean.
    pub(super) async fn come_to_rest(self: &Arc<Self>, next: Next<'_>) -> Result<()> {
        // In QEMU's words.
        let lost = |error: BlockError| {
            let node = next.node().name();
            error.within(format_args!("Lost persistent bitmaps during inactivation of node '{node}'"))
        };
        self.store_bitmaps(next).await.map_err(lost)?;
        let writer = self.writer()?;
        if !writer.dirty.load(Ordering::SeqCst) {
            // What was freed after the last flush counts as taken in the file.
            return if writer.is_changing() { self.flush(next).await } else { Ok(()) };
        }
        let _hand = self.bitmaps.hand().await?;
        self.alone(async |turn| {
            // Whoever changes something from now on marks it again first, after us.
            writer.set_changing(false);
            self.flush_once(turn, next).await?;
            self.write_header(&HeaderEdit::Dirty(false), Rule::LastBarrier, turn, next).await?;
            writer.dirty.store(false, Ordering::SeqCst);
            Ok(())
        })
        .await
    }

    /// No cluster is two structures of the image.
    fn check_structures(&self) -> Result<()> {
        let books = self.writer()?.books.lock();
        let clash = books.refcounts.structures.clash();
        clash.map_or(Ok(()), |(cluster, what)| self.own(Err(books.refcounts.overlap(cluster, what))))
    }

    /// Names another backing image, or none, once all that was acknowledged is durable.
    async fn name_backing(self: &Arc<Self>, backing: Option<BackingName>, next: Next<'_>) -> Result<()> {
        let writer = self.writer()?;
        if backing.is_some() && writer.raw_data {
            let context = "an image whose data file is raw cannot have a backing file";
            return Err(BlockError::new(ErrorKind::Invalid, context));
        }
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
        self.alone(async |turn| self.write_header(&edit, Rule::NameBarrier, turn, next).await).await
    }

    /// Writes what later flushes rely on to the header. Where that fails nobody knows which of the two the disk says,
    /// and nothing is made durable any more.
    pub(super) async fn say(&self, edit: &HeaderEdit, rule: Rule, turn: &Turn, next: Next<'_>) -> Result<()> {
        let written = self.write_header(edit, rule, turn, next).await;
        if written.is_err() {
            self.writer()?.lose();
        }
        written
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
        let mut first = self.read_file(0, len as usize, next).await?.to_vec();
        first.resize(self.geometry.cluster_size() as usize, 0);
        for write in edit.writes(&first[..len as usize])? {
            let at = write.offset as usize;
            first[at..at + write.bytes.len()].copy_from_slice(&write.bytes);
            self.write_table(write.offset, Lease::copy_of(&write.bytes), turn, next).await?;
            self.barrier(rule, next).await?;
        }
        self.known_header.store(Arc::new(Header::parse(&first)?));
        Ok(())
    }
}

impl Naming for Qcow2 {
    fn backing(&self) -> Option<PathBuf> {
        let header = self.image.known_header.load();
        header.backing.as_ref().map(|backing| qcow2::full_name(&backing.name, &self.image.name).into())
    }
}

impl Backing for Qcow2 {
    fn set_backing<'a>(&'a self, backing: Option<BackingName>, next: Next<'a>) -> LocalFut<'a, Result<()>> {
        let work = |image: &Arc<Image>, next| {
            let image = image.clone();
            async move { image.name_backing(backing, next).await.map_err(|error| image.refused(error, next)) }
        };
        Box::pin(work(&self.image, next))
    }
}
