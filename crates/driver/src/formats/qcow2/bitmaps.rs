//! The dirty bitmaps of an image: those that are in its file, and others.
//!
//! What is stored stays in the file until it is asked for; in memory is what has become dirty since. A bitmap whose
//! entry on disk is not marked as in use is exactly true: the mark is durable before anything is changed that it would
//! have to show ([`store`]), and goes when the image comes to rest and all is stored.
//!
//! Invariants:
//! * Who changes what is stored, or reads it, holds the [`Bitmaps::hand`]; it is taken before the turn to write tables.
//! * Changes are marked at any time. A mark that was set before a bitmap was taken to be stored is stored with it; one
//!   that is set later belongs to a change that is admitted only when the bitmap is marked as in use again.
//! * Memory: what became dirty, and one bitmap that is loaded or stored. Tables that share clusters are refused, so
//!   that a bitmap takes no more than some times the bytes that the file has.

mod load;
mod resized;
mod store;
mod verbs;

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use block::{BlockError, ByteRange, DirtyBitmap, ErrorKind, Result};
use flow::Recorder;
use io::sync::Semaphore;
use qcow2::{BitmapEntry, BitmapsExtension};

use super::image::Image;
use super::writing::writer::Writer;

/// The bitmaps of one image.
pub(super) struct Bitmaps {
    book: Mutex<Book>,
    /// Whoever changes what is stored, or reads it.
    hand: Semaphore,
    /// Whether any of them records changes.
    recording: AtomicBool,
}

/// What is known of them.
#[derive(Default)]
struct Book {
    /// Oldest first; those that are stored in the order of the directory.
    all: Vec<Tracked>,
    /// Where the directory is.
    place: Option<BitmapsExtension>,
    /// Why the directory could not be read, in an image that is only read.
    unreadable: Option<String>,
}

/// A bitmap.
struct Tracked {
    name: Vec<u8>,
    granularity: u64,
    persistent: bool,
    recording: bool,
    /// Its content is lost; it can only be removed.
    inconsistent: bool,
    /// What the directory on disk says of it.
    entry: Option<BitmapEntry>,
    /// The directory may say that it is in use, though `entry` does not: marking it has failed.
    doubtful: bool,
    /// What is stored counts.
    based: bool,
    /// What has become dirty besides.
    marks: Option<DirtyBitmap>,
    /// Bytes of the disk.
    size: u64,
}

impl Bitmaps {
    fn of(book: Book) -> Self {
        let bitmaps =
            Self { book: Mutex::new(book), hand: Semaphore::new(1), recording: AtomicBool::new(false) };
        bitmaps.note_recording();
        bitmaps
    }

    /// Whether changes are recorded.
    pub(super) fn is_recording(&self) -> bool {
        self.recording.load(Ordering::SeqCst)
    }

    /// The directory as it is on disk.
    pub(super) fn stored(&self) -> Vec<BitmapEntry> {
        self.book().entries()
    }

    fn book(&self) -> MutexGuard<'_, Book> {
        // The book is whole between any two statements that hold it.
        self.book.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn note_recording(&self) {
        let recording = self.book().all.iter().any(|bitmap| bitmap.recording);
        self.recording.store(recording, Ordering::SeqCst);
    }
}

impl Recorder for Image {
    fn mark(&self, range: ByteRange) -> bool {
        self.bitmaps
            .book()
            .all
            .iter_mut()
            .filter(|bitmap| bitmap.recording)
            .for_each(|bitmap| bitmap.mark(range));
        // Looked at behind the mark: who stores bitmaps says first that nothing is changing.
        self.writer.as_ref().is_none_or(Writer::is_changing)
    }
}

impl Book {
    fn find(&mut self, name: &[u8]) -> Result<&mut Tracked> {
        let found = self.all.iter_mut().find(|bitmap| bitmap.name == name);
        found.ok_or_else(|| {
            let context = format!("Dirty bitmap '{}' not found", String::from_utf8_lossy(name));
            BlockError::new(ErrorKind::NotFound, context)
        })
    }

    /// The same, if its content is known.
    fn usable(&mut self, name: &[u8]) -> Result<&mut Tracked> {
        let found = self.find(name)?;
        match found.inconsistent {
            false => Ok(found),
            true => Err(BlockError::new(ErrorKind::Invalid, inconsistent(name))),
        }
    }

    /// The directory as it is on disk.
    fn entries(&self) -> Vec<BitmapEntry> {
        self.all.iter().filter_map(|bitmap| bitmap.entry.clone()).collect()
    }
}

impl Tracked {
    /// One that is stored.
    fn stored(entry: BitmapEntry, size: u64) -> Self {
        Self {
            name: entry.name.clone(),
            granularity: entry.granularity(),
            persistent: true,
            recording: entry.is_auto() && entry.is_usable(),
            inconsistent: !entry.is_usable(),
            based: true,
            marks: None,
            entry: Some(entry),
            doubtful: false,
            size,
        }
    }

    /// A clean one.
    fn clean(&self) -> DirtyBitmap {
        DirtyBitmap::new(self.size, self.granularity)
            .expect("its granularity was checked when it was made or read")
    }

    fn mark(&mut self, range: ByteRange) {
        if self.marks.is_none() {
            self.marks = Some(self.clean());
        }
        self.marks.iter_mut().for_each(|marks| marks.set(range));
    }

    /// Takes in what another one has.
    fn merge(&mut self, other: &DirtyBitmap) {
        let mut marks = self.marks.take().unwrap_or_else(|| self.clean());
        marks.merge(other);
        self.marks = Some(marks);
    }

    /// Whether what is on disk is not what it is.
    fn is_to_be_stored(&self) -> bool {
        let is_stored = !self.doubtful && self.entry.as_ref().is_some_and(|entry| !entry.is_in_use());
        self.persistent && !self.inconsistent && !is_stored
    }

    /// Whether a change of the disk would make what is on disk wrong, which does not say so yet.
    fn is_to_be_marked(&self) -> bool {
        let Some(entry) = self.entry.as_ref().filter(|entry| !entry.is_in_use()) else { return false };
        self.recording || self.inconsistent && entry.is_auto()
    }
}

/// In QEMU's words.
fn inconsistent(name: &[u8]) -> String {
    format!("Bitmap '{}' is inconsistent and cannot be used", String::from_utf8_lossy(name))
}
