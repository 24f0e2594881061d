//! Bitmaps of a disk that becomes longer or shorter.
//!
//! A bitmap that is not in use covers the disk, in a file that others can read. So before the size changes all are held
//! in memory and marked as in use; what is new is clean, and they are stored when the image comes to rest.

use std::sync::Arc;

use block::{BlockError, ErrorKind, Result};
use flow::Next;
use io::sync::SemaphorePermit;
use qcow2::BitmapEntry;

use super::super::image::Image;
use super::{Bitmaps, inconsistent};

impl Bitmaps {
    /// The disk is so long from now on.
    pub(crate) fn resize(&self, size: u64) {
        for bitmap in &mut self.book().all {
            bitmap.size = size;
            bitmap.marks.iter_mut().for_each(|marks| marks.resize(size));
        }
    }
}

impl Image {
    /// Fails where a stored bitmap of a disk of `size` bytes would be longer than the format allows: nobody opens an
    /// image with such a one.
    pub(crate) fn keeps_bitmaps(&self, size: u64) -> Result<()> {
        let book = self.bitmaps.book();
        let refused =
            book.all.iter().filter(|bitmap| bitmap.persistent).find_map(|bitmap| {
                Some((bitmap, self.bitmap_refusal(&bitmap.name, bitmap.granularity, size)?))
            });
        refused.map_or(Ok(()), |(bitmap, why)| {
            let name = String::from_utf8_lossy(&bitmap.name);
            let context = format!("bitmap '{name}' cannot cover {size} bytes ({why}): remove it first");
            Err(BlockError::new(ErrorKind::Invalid, context))
        })
    }

    /// Why such a bitmap of a disk of `size` bytes cannot be stored, in QEMU's words.
    pub(super) fn bitmap_refusal(&self, name: &[u8], granularity: u64, size: u64) -> Option<String> {
        BitmapEntry::refusal(name, granularity, self.geometry.cluster_bits(), size)
    }

    /// Has all bitmaps in memory, marked as in use, and nobody change them as long as the answer lives.
    pub(crate) async fn hold_bitmaps<'a>(self: &'a Arc<Self>, next: Next<'_>) -> Result<SemaphorePermit<'a>> {
        let hand = loop {
            self.begin_change(next).await?;
            let hand = self.bitmaps.hand().await?;
            // It may have come to rest in between.
            if self.writer()?.is_changing() {
                break hand;
            }
        };
        if let Some(lost) = self.bitmaps.book().all.iter().find(|bitmap| bitmap.inconsistent) {
            return Err(BlockError::new(ErrorKind::Invalid, inconsistent(&lost.name)));
        }
        let stored: Vec<_> = {
            let book = self.bitmaps.book();
            let based = book.all.iter().filter(|bitmap| bitmap.based);
            based
                .filter_map(|bitmap| Some((bitmap.name.clone(), bitmap.entry.clone()?, bitmap.clean())))
                .collect()
        };
        // One that cannot be read changes nothing.
        let mut loaded = Vec::new();
        for (name, entry, clean) in stored {
            loaded.push((name, self.load_bitmap(&entry, clean, next).await?));
        }
        self.alone(async |turn| self.mark_bitmaps(|_| true, turn, next).await).await?;
        for (name, bits) in loaded {
            let mut book = self.bitmaps.book();
            let bitmap = book.find(&name)?;
            bitmap.merge(&bits);
            bitmap.based = false;
        }
        Ok(hand)
    }
}
