//! A temporary directory that does not outlive the demo.

use std::fs::DirBuilder;
use std::io::{self, ErrorKind};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use block::{BlockError, Result};

use crate::output;

/// The directory; dropping it removes it with all that is in it.
pub(super) struct Scratch(PathBuf);

impl Scratch {
    /// Makes one below `parent`, or where the system keeps such things.
    pub(super) fn new(parent: Option<&Path>) -> Result<Self> {
        let parent = parent.map_or_else(std::env::temp_dir, Path::to_owned);
        Self::below(&parent).map_err(|error| {
            let context =
                format!("cannot make a directory in '{}' (choose one with --dir)", parent.display());
            BlockError::system(context, error)
        })
    }

    fn below(parent: &Path) -> io::Result<Self> {
        let parent = parent.canonicalize()?;
        for number in 0.. {
            let path = parent.join(format!("millpond-demo-{}-{number}", std::process::id()));
            // Left behind by a process of the same number that was killed, perhaps by another user.
            match DirBuilder::new().mode(0o700).create(&path) {
                Err(error) if error.kind() == ErrorKind::AlreadyExists && number < 1000 => {}
                made => return made.map(|()| Self(path)),
            }
        }
        Err(ErrorKind::AlreadyExists.into())
    }

    /// The path of `name` in it.
    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_dir_all(&self.0) {
            output::tell_line(format_args!("millpond: cannot remove '{}': {error}", self.0.display()));
        }
    }
}
