//! What may be opened because an image says so.
//!
//! Names inside images are not to be trusted: whoever could write the image chose them. Where the policy allows
//! everything the operator has said that the images are trusted; else nothing is opened but files below the
//! directories that are allowed.

use std::path::{Path, PathBuf};

use block::{BlockError, ErrorKind, Result};
use driver::Kind;
use serde_json::Value;

use crate::options::{ChildOptions, NodeOptions};

/// Where the files may lie that images name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ImagePolicy {
    /// Anywhere, and over the network: for images that the operator trusts.
    Anywhere,
    /// Below these directories (absolute), nowhere else, and nothing over the network.
    Below(Vec<PathBuf>),
}

impl ImagePolicy {
    /// Below these directories, which must exist; relative ones are refused. Symbolic links in their names are
    /// followed now.
    pub fn below(directories: Vec<PathBuf>) -> Result<Self> {
        let real = directories.into_iter().map(|directory| {
            if !directory.is_absolute() {
                let context = format!("'{}' is no absolute path of a directory", directory.display());
                return Err(BlockError::new(ErrorKind::Invalid, context));
            }
            let failed = |e| BlockError::system(format!("cannot allow '{}'", directory.display()), e);
            directory.canonicalize().map_err(failed)
        });
        Ok(Self::Below(real.collect::<Result<_>>()?))
    }

    /// Whether an image may name this file. Symbolic links are followed first; what cannot be followed is refused.
    pub fn allow_file(&self, path: &Path) -> Result<()> {
        let Self::Below(directories) = self else { return Ok(()) };
        let real = path.canonicalize().map_err(|e| {
            BlockError::system(format!("cannot open '{}', which an image names", path.display()), e)
        })?;
        if directories.iter().any(|directory| real.starts_with(directory)) {
            return Ok(());
        }
        Err(refused(&format!("'{}'", real.display()), directories))
    }

    /// Whether an image may name something that is no file.
    pub fn allow_network(&self, name: &str) -> Result<()> {
        match self {
            Self::Anywhere => Ok(()),
            Self::Below(directories) => Err(refused(&format!("'{name}'"), directories)),
        }
    }

    /// Whether an image may name this tree of nodes. Of protocols only files are known to stay on this machine, and
    /// nodes that are there already may show anything.
    pub(crate) fn allow_nodes(&self, options: &NodeOptions) -> Result<()> {
        let Self::Below(directories) = self else { return Ok(()) };
        if options.driver.kind == Kind::Protocol {
            match (options.driver.name, options.own.get("filename")) {
                ("file", Some(Value::String(path))) => self.allow_file(Path::new(path))?,
                (driver, _) => return Err(refused(&format!("a '{driver}' node"), directories)),
            }
        }
        options.children.iter().try_for_each(|(_, child)| match child {
            ChildOptions::Inline(inner) => self.allow_nodes(inner),
            ChildOptions::Existing(name) => Err(refused(&format!("the node '{name}'"), directories)),
            ChildOptions::Partial(_) => Err(refused("options of another image", directories)),
            ChildOptions::Nothing => Ok(()),
        })
    }
}

fn refused(what: &str, directories: &[PathBuf]) -> BlockError {
    let list: Vec<_> = directories.iter().map(|d| format!("'{}'", d.display())).collect();
    let context = format!(
        "an image names {what}, but images may only name files below {}: allow its directory, or name the child yourself",
        list.join(", ")
    );
    BlockError::new(ErrorKind::NotPermitted, context)
}
