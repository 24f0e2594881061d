//! Files that a verb has made, or emptied to make an image in them, and not finished.
//!
//! Invariants: a file that was there before is never removed. An unfinished image in it would look like a whole one, so
//! it is emptied; what it held is gone since the verb began. Files that have taken the name of ours meanwhile, and
//! links to ours, stay as they are. While a file is being opened it counts as made: it may be there before anybody
//! knows whose it is.

use std::cell::{Cell, RefCell};
use std::path::{Path, PathBuf};

use io::folders::FileId;
use io::{OpenOptions, World};

/// What becomes of a file when the verb does not end well.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Undo {
    Remove,
    Empty,
}

/// A file of ours.
#[derive(Debug)]
struct Ours {
    /// Where it is, behind all links.
    path: PathBuf,
    id: FileId,
    undo: Undo,
}

/// The files; none once the verb is through.
#[derive(Debug, Default)]
pub(crate) struct Made {
    files: RefCell<Vec<Ours>>,
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
        for Ours { path, id, undo } in made {
            let is_ours = world.folders().about(&path).await.is_ok_and(|about| about.id == id);
            // It may be gone already; there is nobody left to tell.
            let _ = match undo {
                _ if !is_ours => Ok(()),
                Undo::Remove => world.folders().remove(&path).await,
                Undo::Empty => empty(world, &path).await,
            };
        }
    }
}

impl Opening<'_> {
    /// It was not there before, and is locked: ours.
    pub(crate) async fn made(self, world: &dyn World, path: &Path) -> std::io::Result<()> {
        self.note(world, path, Undo::Remove).await
    }

    /// It was there before, is locked and going to be emptied: ours now.
    pub(crate) async fn taken(self, world: &dyn World, path: &Path) -> std::io::Result<()> {
        self.note(world, path, Undo::Empty).await
    }

    async fn note(self, world: &dyn World, path: &Path, undo: Undo) -> std::io::Result<()> {
        let path = world.folders().resolve(path).await?;
        let id = world.folders().about(&path).await?.id;
        self.0.files.borrow_mut().push(Ours { path, id, undo });
        Ok(())
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
