//! What is done with bitmaps.
//!
//! Invariant: a bitmap that is on disk is marked as in use there before it changes in memory; it is stored when the
//! image comes to rest. Only its removal is on disk at once.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use block::{BlockError, DirtyBitmap, ErrorKind, Result};
use flow::{BitmapChange, BitmapInfo, Next};
use io::LocalFut;
use io::sync::SemaphorePermit;
use qcow2::BitmapsExtension;

use super::super::Qcow2;
use super::super::image::Image;
use super::super::writing::writer::stopped;
use super::store::Fresh;
use super::{Bitmaps, Tracked};

impl Bitmaps {
    /// Waits until nobody else changes or reads what is stored.
    pub(crate) async fn hand(&self) -> Result<SemaphorePermit<'_>> {
        self.hand.acquire().await.map_err(|_| stopped())
    }

    fn check_readable(&self) -> Result<()> {
        match &self.book().unreadable {
            Some(why) => Err(BlockError::new(ErrorKind::Corrupt, why.clone())),
            None => Ok(()),
        }
    }

    /// Changes a bitmap in memory.
    fn update(&self, name: &[u8], change: impl FnOnce(&mut Tracked)) -> Result<()> {
        change(self.book().usable(name)?);
        self.note_recording();
        Ok(())
    }

    fn remove(&self, name: &[u8]) {
        self.book().all.retain(|bitmap| bitmap.name != name);
        self.note_recording();
    }
}

impl Image {
    /// What a bitmap is now. The caller has the hand.
    async fn bitmap_content(&self, name: &[u8], next: Next<'_>) -> Result<DirtyBitmap> {
        let (mut bits, entry, marks) = {
            let mut book = self.bitmaps.book();
            let bitmap = book.usable(name)?;
            (bitmap.clean(), bitmap.entry.clone().filter(|_| bitmap.based), bitmap.marks.clone())
        };
        if let Some(entry) = entry {
            bits = self.load_bitmap(&entry, bits, next).await.map_err(|error| self.named(error))?;
        }
        marks.iter().for_each(|marks| bits.merge(marks));
        Ok(bits)
    }

    async fn list_bitmaps(&self, next: Next<'_>) -> Result<Vec<BitmapInfo>> {
        let _hand = self.bitmaps.hand().await?;
        self.bitmaps.check_readable().map_err(|error| self.named(error))?;
        let about = |bitmap: &Tracked| {
            let name = String::from_utf8_lossy(&bitmap.name).into_owned();
            let Tracked { granularity, recording, persistent, inconsistent, .. } = *bitmap;
            (
                bitmap.name.clone(),
                BitmapInfo { name, granularity, count: 0, recording, persistent, inconsistent },
            )
        };
        let known: Vec<_> = self.bitmaps.book().all.iter().map(about).collect();
        let mut list = Vec::with_capacity(known.len());
        for (name, mut info) in known {
            if !info.inconsistent {
                info.count = self.bitmap_content(&name, next).await?.count();
            }
            list.push(info);
        }
        Ok(list)
    }

    async fn change_bitmap(self: &Arc<Self>, name: &str, change: BitmapChange, next: Next<'_>) -> Result<()> {
        let bytes = name.as_bytes();
        if let BitmapChange::Add { granularity, recording, persistent } = change {
            let _hand = self.bitmaps.hand().await?;
            return self.add_bitmap(name, (granularity, recording, persistent), next);
        }
        self.bitmaps.book().find(bytes)?;
        // What is written to the file is a change like others.
        self.begin_change(next).await.map_err(|error| self.refused(error, next))?;
        let _hand = self.bitmaps.hand().await?;
        if change == BitmapChange::Remove {
            return self.remove_bitmap(bytes, next).await;
        }
        self.may_change(bytes, &change)?;
        self.mark_bitmap(bytes, next).await.map_err(|error| self.refused(error, next))?;
        self.bitmaps.update(bytes, |bitmap| match change {
            BitmapChange::Clear => (bitmap.based, bitmap.marks) = (false, None),
            BitmapChange::Record(recording) => bitmap.recording = recording,
            BitmapChange::Merge(other) => bitmap.merge(&other),
            BitmapChange::Add { .. } | BitmapChange::Remove => {}
        })
    }

    fn may_change(&self, name: &[u8], change: &BitmapChange) -> Result<()> {
        let size = self.bitmaps.book().usable(name)?.size;
        match change {
            BitmapChange::Merge(other) if other.size() != size => {
                let context = format!(
                    "Bitmaps are of different sizes (destination size is {size}, source size is {}) and can't be merged",
                    other.size()
                );
                Err(BlockError::new(ErrorKind::Invalid, context))
            }
            _ => Ok(()),
        }
    }

    fn add_bitmap(
        &self,
        name: &str,
        (granularity, recording, persistent): (u64, bool, bool),
        next: Next<'_>,
    ) -> Result<()> {
        let size = self.size.load(Ordering::Acquire);
        let invalid = |context: String| Err(BlockError::new(ErrorKind::Invalid, context));
        if name.is_empty() {
            return invalid("Bitmap name cannot be empty".to_owned());
        }
        if DirtyBitmap::new(size, granularity).is_none() {
            return invalid("Granularity must be power of 2 and at least 512".to_owned());
        }
        let mut book = self.bitmaps.book();
        if book.find(name.as_bytes()).is_ok() {
            return Err(BlockError::new(ErrorKind::Exists, format!("Bitmap already exists: {name}")));
        }
        let stored = book.all.iter().filter(|bitmap| bitmap.persistent).count();
        if let Some(why) = self.cannot_store(name, granularity, stored).filter(|_| persistent) {
            let node = next.node().name();
            return invalid(format!("Can't make bitmap '{name}' persistent in '{node}': {why}"));
        }
        book.all.push(Tracked {
            name: name.as_bytes().to_vec(),
            granularity,
            persistent,
            recording,
            inconsistent: false,
            entry: None,
            doubtful: false,
            based: false,
            marks: None,
            size,
        });
        drop(book);
        self.bitmaps.note_recording();
        Ok(())
    }

    /// Why another bitmap cannot be stored, in QEMU's words.
    fn cannot_store(&self, name: &str, granularity: u64, stored: usize) -> Option<String> {
        let size = self.size.load(Ordering::Acquire);
        if !self.geometry.has_zeros() {
            return Some("Cannot store dirty bitmaps in qcow2 v2 files".to_owned());
        }
        if stored >= BitmapsExtension::COUNT_MAX {
            return Some("Maximum number of persistent bitmaps is already reached".to_owned());
        }
        if size == 0 {
            return Some("The disk has no bytes".to_owned());
        }
        self.bitmap_refusal(name.as_bytes(), granularity, size)
    }

    async fn remove_bitmap(self: &Arc<Self>, name: &[u8], next: Next<'_>) -> Result<()> {
        let entry = self.bitmaps.book().find(name)?.entry.clone();
        let Some(entry) = entry else {
            self.bitmaps.remove(name);
            return Ok(());
        };
        // What cannot be read leaks.
        let gone = self.clusters_of_bitmap(&entry, next).await.unwrap_or_default();
        let removed = async {
            self.switch_directory(Fresh::without(gone), Some(name), next).await?;
            // Its clusters are somebody else's soon, whatever comes of the flush that frees them.
            self.bitmaps.remove(name);
            self.flush(next).await
        };
        removed.await.map_err(|error| self.refused(error, next))
    }
}

impl flow::Bitmaps for Qcow2 {
    fn list<'a>(&'a self, next: Next<'a>) -> LocalFut<'a, Result<Vec<BitmapInfo>>> {
        Box::pin(self.image.list_bitmaps(next))
    }

    fn content<'a>(&'a self, name: &'a str, next: Next<'a>) -> LocalFut<'a, Result<DirtyBitmap>> {
        Box::pin(async move {
            let _hand = self.image.bitmaps.hand().await?;
            self.image.bitmaps.check_readable().map_err(|error| self.image.named(error))?;
            self.image.bitmap_content(name.as_bytes(), next).await
        })
    }

    fn change<'a>(&'a self, name: &'a str, change: BitmapChange, next: Next<'a>) -> LocalFut<'a, Result<()>> {
        Box::pin(async move {
            if !self.changing {
                let context = format!("Bitmap '{name}' is readonly and cannot be modified");
                return Err(BlockError::new(ErrorKind::ReadOnly, context));
            }
            let name = name.to_owned();
            let work = self.image.in_background(next, move |image, next| {
                Box::pin(async move { image.change_bitmap(&name, change, next).await })
            });
            work.await
        })
    }
}
