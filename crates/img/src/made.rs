//! Files that a verb has made, or emptied to make an image in them, and not finished.
//!
//! Invariant: a file that was there before is never removed. An unfinished image in it would look like a whole one, so
//! it is emptied; what it held is gone since the verb began. While a file is being opened it counts as made: it may be
//! there before anybody knows whose it is.

use std::cell::{Cell, RefCell};
use std::path::{Path, PathBuf};

use io::{OpenOptions, World};

/// What becomes of a file when the verb does not end well.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Undo {
    Remove,
    Empty,
}

/// The files; none once the verb is through.
#[derive(Debug, Default)]
pub(crate) struct Made {
    files: RefCell<Vec<(PathBuf, Undo)>>,
    opening: Cell<bool>,
}

/// A file that is being opened, until it is noted or given up.
pub(crate) struct Opening<'m>(&'m Made);

impl Made {
    /// A file is going to be opened, which may make it.
    pub(crate) fn open(&self) -> Opening<'_> {
        self.opening.set(true);
        Opening(self)
    }

    fn note(&self, path: &Path, undo: Undo) {
        self.files.borrow_mut().push((path.to_owned(), undo));
    }

    /// All of them are whole and stay.
    pub(crate) fn keep(&self) {
        self.files.borrow_mut().clear();
    }

    /// Whether nothing is being made.
    pub(crate) fn is_empty(&self) -> bool {
        !self.opening.get() && self.files.borrow().is_empty()
    }

    /// Removes those that were made, and empties the others.
    pub(crate) async fn undo(&self, world: &dyn World) {
        let made = std::mem::take(&mut *self.files.borrow_mut());
        for (path, undo) in made {
            // It may be gone already; there is nobody left to tell.
            let _ = match undo {
                Undo::Remove => world.folders().remove(&path).await,
                Undo::Empty => empty(world, &path).await,
            };
        }
    }
}

impl Opening<'_> {
    /// It was not there before, and is locked: ours.
    pub(crate) fn made(self, path: &Path) {
        self.0.note(path, Undo::Remove);
    }

    /// It was there before, is locked and going to be emptied: ours now.
    pub(crate) fn taken(self, path: &Path) {
        self.0.note(path, Undo::Empty);
    }
}

impl Drop for Opening<'_> {
    fn drop(&mut self) {
        self.0.opening.set(false);
    }
}

async fn empty(world: &dyn World, path: &Path) -> std::io::Result<()> {
    let options = OpenOptions { write: true, ..OpenOptions::default() };
    world.open(path, options).await?.set_len(0).await
}
