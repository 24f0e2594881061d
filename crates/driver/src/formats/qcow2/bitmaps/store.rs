//! Bitmaps on disk: when they are marked as in use, and how they are stored.
//!
//! Order, when the image comes to rest: bits, tables and a new directory go to new clusters; a flush makes them
//! durable, with what counts them; then the header points to the new directory, in which what was stored is not marked
//! as in use; barrier; then the old clusters are free. The mark itself is a bit in place, durable before the first
//! change.
//!
//! Invariant: what could not be stored stays marked on disk, and in memory as it was.

use std::sync::Arc;

use block::{BitmapPart, BlockError, DirtyBitmap, ErrorKind, Result};
use flow::Next;
use flow::sabotage::Rule;
use io::Lease;
use qcow2::{BitmapCluster, BitmapEntry, BitmapsExtension, HeaderEdit, HostOffset};

use super::super::image::Image;
use super::super::space::Run;
use super::super::space::structures::Structure;
use super::super::writing::allocate::Room;
use super::super::writing::writer::Turn;
use super::{Bitmaps, Tracked};

/// What is stored whole or not at all.
const SECTOR: usize = 512;
/// Tables and directories end in a block of their own; what follows in their clusters takes no room on the disk.
const BLOCK: usize = 4096;

/// What is to be in the file next.
#[derive(Default)]
pub(super) struct Fresh {
    /// New entries.
    entries: Vec<BitmapEntry>,
    /// Clusters that nothing points to before the header does.
    rooms: Vec<Arc<Room>>,
    /// Clusters that nothing points to once it does.
    gone: Vec<Run>,
}

impl Fresh {
    /// Nothing new, and these clusters go.
    pub(super) fn without(gone: Vec<Run>) -> Self {
        Self { gone, ..Self::default() }
    }
}

/// Marks that were taken to be stored; what is not goes back.
struct Taken<'a> {
    bitmaps: &'a Bitmaps,
    marks: Vec<(Vec<u8>, Option<DirtyBitmap>)>,
}

impl Drop for Taken<'_> {
    fn drop(&mut self) {
        let mut book = self.bitmaps.book();
        for (name, marks) in self.marks.drain(..) {
            if let (Some(marks), Ok(bitmap)) = (marks, book.find(&name)) {
                bitmap.merge(&marks);
            }
        }
    }
}

impl Bitmaps {
    fn take_marks(&self) -> Taken<'_> {
        let mut book = self.book();
        let stored = book.all.iter_mut().filter(|bitmap| bitmap.is_to_be_stored());
        let marks = stored.map(|bitmap| (bitmap.name.clone(), bitmap.marks.take())).collect();
        Taken { bitmaps: self, marks }
    }

    /// The directory with more marks, as writes of the sectors that change; and its entries.
    fn marking(&self, which: impl Fn(&Tracked) -> bool) -> (Vec<(u64, Vec<u8>)>, Vec<BitmapEntry>) {
        let book = self.book();
        let Some(place) = book.place else { return Default::default() };
        let marked = |bitmap: &Tracked| {
            let entry = bitmap.entry.clone()?;
            let in_use = entry.is_in_use() || which(bitmap);
            Some(entry.with_in_use(in_use))
        };
        let entries: Vec<_> = book.all.iter().filter_map(marked).collect();
        let (old, new) = (in_sectors(&book.entries()), in_sectors(&entries));
        let sectors = old.chunks(SECTOR).zip(new.chunks(SECTOR)).enumerate();
        let changed = sectors.filter(|(_, (old, new))| old != new);
        let write =
            |number: usize, bytes: &[u8]| (place.directory.0 + (number * SECTOR) as u64, bytes.to_vec());
        (changed.map(|(number, (_, new))| write(number, new)).collect(), entries)
    }

    /// The directory is there now, and these are its entries; answers where it was.
    fn note_directory(
        &self,
        place: Option<BitmapsExtension>,
        entries: &[BitmapEntry],
    ) -> Option<BitmapsExtension> {
        self.note_entries(entries);
        std::mem::replace(&mut self.book().place, place)
    }

    fn note_entries(&self, entries: &[BitmapEntry]) {
        let mut book = self.book();
        for entry in entries {
            if let Ok(bitmap) = book.find(&entry.name) {
                (bitmap.entry, bitmap.doubtful) = (Some(entry.clone()), false);
            }
        }
    }

    /// The directory may have these entries now, or some of them.
    fn doubt(&self, entries: &[BitmapEntry]) {
        let mut book = self.book();
        for entry in entries {
            if let Ok(bitmap) = book.find(&entry.name) {
                bitmap.doubtful |= bitmap.entry.as_ref() != Some(entry);
            }
        }
    }

    /// What these were is on disk now.
    fn note_stored(&self, names: &[Vec<u8>]) {
        let mut book = self.book();
        let stored = book.all.iter_mut().filter(|bitmap| names.contains(&bitmap.name));
        stored.for_each(|bitmap| bitmap.based = true);
    }

    /// The directory as it is to be: with new entries in the place of old ones, and without one.
    fn next_directory(&self, fresh: &[BitmapEntry], without: Option<&[u8]>) -> Vec<BitmapEntry> {
        let entry = |bitmap: &Tracked| {
            let new = fresh.iter().find(|entry| entry.name == bitmap.name);
            new.or(bitmap.entry.as_ref()).filter(|_| without != Some(&bitmap.name)).cloned()
        };
        self.book().all.iter().filter_map(entry).collect()
    }
}

fn in_sectors(entries: &[BitmapEntry]) -> Vec<u8> {
    let mut bytes = BitmapEntry::directory_bytes(entries);
    bytes.resize(bytes.len().next_multiple_of(SECTOR), 0);
    bytes
}

impl Image {
    /// Before the first change of the disk: what it would make wrong is marked as in use, durably.
    pub(crate) async fn mark_recording(&self, turn: &Turn, next: Next<'_>) -> Result<()> {
        self.mark_bitmaps(Tracked::is_to_be_marked, turn, next).await
    }

    /// The same for one bitmap, before it changes.
    pub(super) async fn mark_bitmap(&self, name: &[u8], next: Next<'_>) -> Result<()> {
        self.alone(async |turn| self.mark_bitmaps(|bitmap| bitmap.name == name, turn, next).await).await
    }

    pub(super) async fn mark_bitmaps(
        &self,
        which: impl Fn(&Tracked) -> bool,
        turn: &Turn,
        next: Next<'_>,
    ) -> Result<()> {
        let (writes, entries) = self.bitmaps.marking(which);
        if writes.is_empty() {
            return Ok(());
        }
        self.bitmaps.doubt(&entries);
        for (at, bytes) in writes {
            self.write_table(at, Lease::copy_of(&bytes), turn, next).await?;
        }
        self.barrier(Rule::BitmapMark, next).await?;
        self.bitmaps.note_entries(&entries);
        Ok(())
    }

    /// Stores what is not on disk as it is. The first failure is told, and the others are stored.
    pub(crate) async fn store_bitmaps(self: &Arc<Self>, next: Next<'_>) -> Result<()> {
        if !self.bitmaps.book().all.iter().any(Tracked::is_to_be_stored) {
            return Ok(());
        }
        self.begin_change(next).await?;
        let _hand = self.bitmaps.hand().await?;
        // Whoever changes the disk from now on marks them again first.
        self.writer()?.set_changing(false);
        let mut taken = self.bitmaps.take_marks();
        let (mut fresh, mut outcome) = (Fresh::default(), Ok(()));
        for (name, marks) in &taken.marks {
            outcome = outcome.and(self.store_bitmap(name, marks.as_ref(), &mut fresh, next).await);
        }
        let stored: Vec<_> = fresh.entries.iter().map(|entry| entry.name.clone()).collect();
        self.switch_directory(fresh, None, next).await?;
        taken.marks.retain(|(name, _)| !stored.contains(name));
        self.bitmaps.note_stored(&stored);
        outcome.and(self.flush(next).await)
    }

    /// Puts the bits of one bitmap into new clusters. All or nothing of it is in `fresh` then.
    async fn store_bitmap(
        self: &Arc<Self>,
        name: &[u8],
        marks: Option<&DirtyBitmap>,
        fresh: &mut Fresh,
        next: Next<'_>,
    ) -> Result<()> {
        let (mut bits, old, based, recording) = {
            let mut book = self.bitmaps.book();
            let bitmap = book.find(name)?;
            if let Some(why) = self.bitmap_refusal(name, bitmap.granularity, bitmap.size) {
                let context = format!("bitmap '{}' cannot be stored: {why}", String::from_utf8_lossy(name));
                return Err(BlockError::new(ErrorKind::Invalid, context));
            }
            (bitmap.clean(), bitmap.entry.clone(), bitmap.based, bitmap.recording)
        };
        if let Some(entry) = old.as_ref().filter(|_| based) {
            bits = self.load_bitmap(entry, bits, next).await?;
        }
        marks.into_iter().for_each(|marks| bits.merge(marks));
        let mut rooms = Vec::new();
        let (table, entries) = self.write_bits(&bits, &mut rooms, next).await?;
        let granularity_bits = bits.granularity().trailing_zeros() as u8;
        let new = match &old {
            Some(old) => old.clone().with_in_use(false).with_auto(recording),
            None => BitmapEntry::new(name.to_vec(), granularity_bits, recording),
        };
        fresh.entries.push(BitmapEntry { table, table_entries: entries, ..new });
        fresh.rooms.extend(rooms);
        if let Some(old) = old {
            // What cannot be read leaks.
            fresh.gone.extend(self.clusters_of_bitmap(&old, next).await.unwrap_or_default());
        }
        Ok(())
    }

    /// Writes a bitmap to new clusters; answers where its table is, and how many entries that has.
    async fn write_bits(
        self: &Arc<Self>,
        bits: &DirtyBitmap,
        rooms: &mut Vec<Arc<Room>>,
        next: Next<'_>,
    ) -> Result<(HostOffset, u32)> {
        let cluster = self.geometry.cluster_size();
        let mut table = Vec::new();
        for start in (0..bits.stored_len()).step_by(cluster as usize) {
            let cell = match bits.stored(start, cluster as usize) {
                BitmapPart::Clean => BitmapCluster::Zeros,
                BitmapPart::Dirty => BitmapCluster::Ones,
                BitmapPart::Bytes(mut bytes) => {
                    bytes.resize(cluster as usize, 0);
                    BitmapCluster::At(self.write_fresh(bytes, rooms, next).await?)
                }
            };
            table.extend(cell.entry().to_be_bytes());
        }
        let entries = (table.len() / 8) as u32;
        Ok((self.write_fresh(table, rooms, next).await?, entries))
    }

    /// Writes these bytes to clusters of their own that lie together; answers where.
    async fn write_fresh(
        self: &Arc<Self>,
        mut bytes: Vec<u8>,
        rooms: &mut Vec<Arc<Room>>,
        next: Next<'_>,
    ) -> Result<HostOffset> {
        let cluster = self.geometry.cluster_size();
        let room = self.take_together((bytes.len() as u64).div_ceil(cluster), next).await?;
        bytes.resize(bytes.len().next_multiple_of(BLOCK.min(cluster as usize)), 0);
        let mut lease = Lease::copy_of(&bytes);
        // The room stays taken until the I/O has ended, whatever becomes of us.
        lease.carry(room.clone());
        let offset = self.host(room.run.first);
        self.write_file(offset.0, lease, next).await?;
        rooms.push(room);
        Ok(offset)
    }

    /// Has the header point to a new directory: with what is fresh, and without one bitmap. That is durable then; that
    /// what is gone is free is so with the next flush. The caller has the hand.
    pub(super) async fn switch_directory(
        self: &Arc<Self>,
        mut fresh: Fresh,
        without: Option<&[u8]>,
        next: Next<'_>,
    ) -> Result<()> {
        let entries = self.bitmaps.next_directory(&fresh.entries, without);
        let place = self.write_directory(&entries, &mut fresh.rooms, next).await?;
        self.flush(next).await?;
        self.alone(async |turn| {
            // Whatever comes of it, the header may point there.
            fresh.rooms.iter().for_each(|room| room.keep());
            self.say(&HeaderEdit::Bitmaps(place), Rule::BitmapSwitch, turn, next).await
        })
        .await?;
        let writer = self.writer()?;
        let run = |place: BitmapsExtension| Run {
            first: place.directory.0 >> self.geometry.cluster_bits(),
            count: place.directory_len.div_ceil(self.geometry.cluster_size()),
        };
        if let Some(place) = place {
            writer.books.lock().refcounts.structures.moved_to(Structure::BitmapDirectory, run(place));
        }
        fresh.gone.extend(self.bitmaps.note_directory(place, &entries).map(run));
        fresh.gone.into_iter().for_each(|run| writer.books.lock().abandon(run));
        Ok(())
    }

    async fn write_directory(
        self: &Arc<Self>,
        entries: &[BitmapEntry],
        rooms: &mut Vec<Arc<Room>>,
        next: Next<'_>,
    ) -> Result<Option<BitmapsExtension>> {
        if entries.is_empty() {
            return Ok(None);
        }
        let bytes = BitmapEntry::directory_bytes(entries);
        let directory_len = bytes.len() as u64;
        if entries.len() > BitmapsExtension::COUNT_MAX || directory_len > BitmapsExtension::DIRECTORY_MAX {
            let context = "its bitmaps do not fit a directory: remove some, or give them shorter names";
            return Err(BlockError::new(ErrorKind::NoSpace, context));
        }
        let directory = self.write_fresh(bytes, rooms, next).await?;
        Ok(Some(BitmapsExtension { count: entries.len() as u32, directory_len, directory }))
    }
}
