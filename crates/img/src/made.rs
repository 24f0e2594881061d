//! Files that a verb has made, or emptied to make an image in them, and not finished.
//!
//! Invariant: a file that was there before is never removed. An unfinished image in it would look like a whole one, so
//! it is emptied; what it held is gone since the verb began.

use std::cell::RefCell;
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
pub(crate) struct Made(RefCell<Vec<(PathBuf, Undo)>>);

impl Made {
    /// Notes a file that was not there before.
    pub(crate) fn note(&self, path: &Path) {
        self.0.borrow_mut().push((path.to_owned(), Undo::Remove));
    }

    /// Notes a file that was there before and is ours now: it is locked.
    pub(crate) fn note_emptied(&self, path: &Path) {
        self.0.borrow_mut().push((path.to_owned(), Undo::Empty));
    }

    /// All of them are whole and stay.
    pub(crate) fn keep(&self) {
        self.0.borrow_mut().clear();
    }

    /// Whether nothing is being made.
    pub(crate) fn is_empty(&self) -> bool {
        self.0.borrow().is_empty()
    }

    /// Removes those that were made, and empties the others.
    pub(crate) async fn undo(&self, world: &dyn World) {
        let made = std::mem::take(&mut *self.0.borrow_mut());
        for (path, undo) in made {
            // It may be gone already; there is nobody left to tell.
            let _ = match undo {
                Undo::Remove => world.folders().remove(&path).await,
                Undo::Empty => empty(world, &path).await,
            };
        }
    }
}

async fn empty(world: &dyn World, path: &Path) -> std::io::Result<()> {
    let options = OpenOptions { write: true, ..OpenOptions::default() };
    world.open(path, options).await?.set_len(0).await
}
