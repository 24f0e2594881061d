//! Names of files: what there is, and changing it as a whole.
//!
//! Invariants: each change is durable when it is answered; a crash leaves what was there before or what was asked for,
//! never half of it, and no name of a file that nobody asked for.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::LocalFut;

/// What a name stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A regular file.
    File,
    /// A folder.
    Folder,
    /// Anything else: a device, a socket.
    Other,
}

/// Whose a file is, by number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Owner {
    /// The user.
    pub user: u32,
    /// The group.
    pub group: u32,
}

impl Owner {
    /// Whether it stands for a user and a group: one number of each means "nobody in particular".
    pub fn is_somebody(self) -> bool {
        self.user != u32::MAX && self.group != u32::MAX
    }
}

/// What is known of a file without opening it. Links are followed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct About {
    /// What it is.
    pub kind: Kind,
    /// Its length in bytes.
    pub len: u64,
    /// When it was last changed, since 1970.
    pub modified: Duration,
    /// Whose it is.
    pub owner: Owner,
    /// Which file it is, whatever its name: no two that are there at the same time have the same one.
    pub id: FileId,
}

/// Device and inode.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct FileId(pub u64, pub u64);

/// A new file: its length, and what is not zeros in it.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct NewFile {
    /// Bytes and where they lie.
    pub parts: Vec<(u64, Vec<u8>)>,
    /// Its length; at least as far as the parts reach.
    pub len: u64,
    /// Permission bits.
    pub mode: u32,
    /// Whose it shall be, if not the caller's.
    pub owner: Option<Owner>,
    /// Whether it may take the place of a file that has the name already; else that is an error.
    pub replace: bool,
}

impl NewFile {
    /// A file of these bytes that takes the place of whatever has its name, readable by all.
    pub fn of(bytes: Vec<u8>) -> Self {
        Self { len: bytes.len() as u64, parts: vec![(0, bytes)], mode: 0o644, owner: None, replace: true }
    }
}

/// The names of files. None of these blocks the calling thread.
pub trait Folders: Send + Sync {
    /// What is in a folder, by name, in no order.
    fn list<'a>(&'a self, folder: &'a Path) -> LocalFut<'a, io::Result<Vec<PathBuf>>>;

    /// What a path stands for.
    fn about<'a>(&'a self, path: &'a Path) -> LocalFut<'a, io::Result<About>>;

    /// The path without links, `.` and `..`.
    fn resolve<'a>(&'a self, path: &'a Path) -> LocalFut<'a, io::Result<PathBuf>>;

    /// Makes a folder and those that it lies in, where they are missing.
    fn make<'a>(&'a self, folder: &'a Path, mode: u32) -> LocalFut<'a, io::Result<()>>;

    /// Sets the permission bits of a file, a folder or a socket.
    fn set_mode<'a>(&'a self, path: &'a Path, mode: u32) -> LocalFut<'a, io::Result<()>>;

    /// Gives a file, a folder or a socket to somebody. A link is not followed.
    fn set_owner<'a>(&'a self, path: &'a Path, owner: Owner) -> LocalFut<'a, io::Result<()>>;

    /// Gives the file at `path` the name `name` besides, in place of a file that has it. Both lie in one file system.
    fn link<'a>(&'a self, path: &'a Path, name: &'a Path) -> LocalFut<'a, io::Result<()>>;

    /// Puts a whole file there.
    fn put<'a>(&'a self, path: &'a Path, file: NewFile) -> LocalFut<'a, io::Result<()>>;

    /// Takes a file away; who has it open keeps it. A link is not followed.
    fn remove<'a>(&'a self, path: &'a Path) -> LocalFut<'a, io::Result<()>>;

    /// Takes an empty folder away.
    fn remove_folder<'a>(&'a self, folder: &'a Path) -> LocalFut<'a, io::Result<()>>;
}
