//! What may be opened because an image says so.
//!
//! Names inside images are not to be trusted: whoever could write the image chose them.

use std::path::{Component, Path, PathBuf};

use block::{BlockError, ErrorKind, Result};

/// Where the files may lie that images name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ImagePolicy {
    /// Anywhere, and over the network: for images that the operator trusts.
    Anywhere,
    /// Below these directories (absolute), nowhere else, and nothing over the network.
    Below(Vec<PathBuf>),
}

impl ImagePolicy {
    /// Whether an image may name this file. Symbolic links are followed first; what cannot be followed is refused.
    pub fn allow_file(&self, path: &Path) -> Result<()> {
        let Self::Below(directories) = self else { return Ok(()) };
        let real = path.canonicalize().map_err(|e| {
            BlockError::system(format!("cannot open '{}', which an image names", path.display()), e)
        })?;
        if directories.iter().any(|directory| real.starts_with(directory)) {
            return Ok(());
        }
        Err(refused(&real.display().to_string(), directories))
    }

    /// Whether an image may name something that is no file.
    pub fn allow_network(&self, name: &str) -> Result<()> {
        match self {
            Self::Anywhere => Ok(()),
            Self::Below(directories) => Err(refused(name, directories)),
        }
    }

    /// Below these directories; relative ones and those with `..` are refused.
    pub fn below(directories: Vec<PathBuf>) -> Result<Self> {
        for directory in &directories {
            let plain = directory.is_absolute() && directory.components().all(|c| c != Component::ParentDir);
            if !plain {
                let context = format!("'{}' is no absolute path of a directory", directory.display());
                return Err(BlockError::new(ErrorKind::Invalid, context));
            }
        }
        Ok(Self::Below(directories))
    }
}

fn refused(name: &str, directories: &[PathBuf]) -> BlockError {
    let list: Vec<_> = directories.iter().map(|d| d.display().to_string()).collect();
    let context = format!(
        "an image names '{name}', which lies outside of what may be opened ({}): allow its directory, or name the child yourself",
        list.join(", ")
    );
    BlockError::new(ErrorKind::NotPermitted, context)
}
