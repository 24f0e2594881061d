//! From the name of an export to a file below the folder, and back.

use std::path::{Component, Path, PathBuf};
use std::sync::Arc;

use block::{BlockError, ErrorKind, Result};
use io::World;
use io::folders::Kind;

/// Endings of file names, and the formats that they stand for.
const ENDINGS: [(&str, &str); 3] = [("qcow2", "qcow2"), ("raw", "raw"), ("img", "raw")];
/// Folders within folders that are looked into.
const DEPTH_MAX: usize = 16;
/// Names that are listed at most; those beyond are served all the same.
const LISTED_MAX: usize = 100_000;

/// The names below one folder.
pub(super) struct Names {
    world: Arc<dyn World>,
    folder: PathBuf,
    format: Option<String>,
}

/// A file that may be served.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Found {
    /// Without links.
    pub(super) path: PathBuf,
    pub(super) format: String,
}

impl Names {
    /// `folder` has no links in its name.
    pub(super) fn new(world: Arc<dyn World>, folder: PathBuf, format: Option<String>) -> Result<Self> {
        if let Some(format) = format.as_deref().filter(|f| !ENDINGS.iter().any(|(_, known)| known == f)) {
            let context = format!("'{format}' cannot be served: the formats are raw and qcow2");
            return Err(BlockError::new(ErrorKind::Invalid, context));
        }
        Ok(Self { world, folder, format })
    }

    pub(super) fn folder(&self) -> &Path {
        &self.folder
    }

    /// The file that `name` stands for; `None` when there is none that may be served.
    pub(super) async fn find(&self, name: &str) -> Result<Option<Found>> {
        let Some(format) = self.format_of(name).filter(|_| is_plain(name)) else { return Ok(None) };
        let folders = self.world.folders();
        let path = match folders.resolve(&self.folder.join(name)).await {
            Ok(path) => path,
            Err(error) if is_absence(&error) => return Ok(None),
            Err(error) => return Err(BlockError::system(format!("cannot look for '{name}'"), error)),
        };
        if !path.starts_with(&self.folder) {
            let context =
                format!("'{name}' leads out of '{}' (to '{}')", self.folder.display(), path.display());
            return Err(BlockError::new(ErrorKind::NotPermitted, context));
        }
        let about = folders.about(&path).await;
        let about =
            about.map_err(|e| BlockError::system(format!("cannot look at '{}'", path.display()), e))?;
        Ok((about.kind == Kind::File).then(|| Found { path, format: format.to_owned() }))
    }

    fn format_of(&self, name: &str) -> Option<&str> {
        if let Some(format) = &self.format {
            return Some(format);
        }
        let ending = Path::new(name).extension()?.to_str()?;
        ENDINGS.iter().find(|(known, _)| *known == ending).map(|(_, format)| *format)
    }

    /// All names that may be served, in order.
    pub(super) async fn list(&self) -> Vec<String> {
        let (mut found, mut folders) = (Vec::new(), vec![(self.folder.clone(), 0)]);
        while let Some((folder, depth)) = folders.pop() {
            // What cannot be read is not listed.
            let entries = self.world.folders().list(&folder).await.unwrap_or_default();
            for path in entries {
                let kind = self.world.folders().about(&path).await.map(|about| about.kind);
                match kind {
                    Ok(Kind::Folder) if depth < DEPTH_MAX && !is_hidden(&path) => {
                        folders.push((path, depth + 1))
                    }
                    Ok(Kind::File) if found.len() < LISTED_MAX => {
                        let name = path.strip_prefix(&self.folder).ok().and_then(Path::to_str);
                        if let Some(name) =
                            name.filter(|name| self.format_of(name).is_some() && is_plain(name))
                        {
                            found.push(name.to_owned());
                        }
                    }
                    _ => {}
                }
            }
        }
        found.sort();
        found
    }
}

/// Whether a name has nothing but names of folders and a file, none of them hidden.
fn is_plain(name: &str) -> bool {
    !name.is_empty()
        && !name.contains('\0')
        && Path::new(name).components().all(|part| match part {
            Component::Normal(part) => !is_hidden(Path::new(part)),
            _ => false,
        })
}

fn is_hidden(path: &Path) -> bool {
    path.file_name().is_none_or(|name| name.as_encoded_bytes().starts_with(b"."))
}

/// Whether an error says that there is no such thing, and nothing worse.
fn is_absence(error: &std::io::Error) -> bool {
    use std::io::ErrorKind as K;
    matches!(error.kind(), K::NotFound | K::NotADirectory | K::InvalidFilename | K::InvalidInput)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_plain_names_stand_for_anything() {
        for good in ["a.raw", "a/b/c.qcow2", "sp ace.img", "a..b.raw"] {
            assert!(is_plain(good), "{good}");
        }
        for bad in ["", "/a.raw", "../a.raw", "a/../b.raw", ".a.raw", "a/.b/c.raw", "a\0.raw", "."] {
            assert!(!is_plain(bad), "{bad}");
        }
    }
}
