//! Which files of this machine go into the image.
//!
//! Invariant: on an unchanged machine the choice is the same each time.

use std::ffi::OsString;
use std::fs::{self, File};
use std::path::{Path, PathBuf};

use block::{BlockError, ErrorKind, Result};

use super::super::worker::CallOff;

/// Larger ones are left out, so that there are many.
const FILE_MAX: u64 = 4 << 20;
/// As many at most.
const FILES_MAX: usize = 20_000;

/// A file that goes in.
pub(super) struct Chosen {
    /// Where it is.
    pub(super) path: PathBuf,
    /// Its path inside the image.
    pub(super) inside: PathBuf,
    /// Its length in bytes when it was chosen.
    #[cfg(test)]
    pub(super) len: u64,
}

/// Readable files below `top`, in order, of about `bytes` bytes together.
pub(super) fn choose(top: &Path, bytes: u64, call_off: &CallOff) -> Result<Vec<Chosen>> {
    let mut walk = Walk { top, chosen: Vec::new(), left: bytes, call_off };
    walk.enter(top)?;
    if walk.chosen.is_empty() {
        let context = format!("no readable files in '{}': bring an image with --image", top.display());
        return Err(BlockError::new(ErrorKind::NotFound, context));
    }
    Ok(walk.chosen)
}

struct Walk<'a> {
    top: &'a Path,
    chosen: Vec<Chosen>,
    left: u64,
    call_off: &'a CallOff,
}

impl Walk<'_> {
    /// Files of a directory first, then its directories. What cannot be read is passed over.
    fn enter(&mut self, directory: &Path) -> Result<()> {
        self.call_off.check()?;
        let Ok(entries) = fs::read_dir(directory) else { return Ok(()) };
        let mut entries: Vec<(OsString, fs::FileType)> =
            entries.flatten().filter_map(|e| Some((e.file_name(), e.file_type().ok()?))).collect();
        entries.sort_by(|a, b| (a.1.is_dir(), &a.0).cmp(&(b.1.is_dir(), &b.0)));
        for (name, kind) in entries {
            if self.left == 0 || self.chosen.len() == FILES_MAX {
                break;
            }
            let path = directory.join(name);
            if kind.is_dir() {
                self.enter(&path)?;
            } else if kind.is_file() {
                self.take(path);
            }
        }
        Ok(())
    }

    fn take(&mut self, path: PathBuf) {
        let Ok(meta) = File::open(&path).and_then(|file| file.metadata()) else { return };
        let (len, inside) = (meta.len(), path.strip_prefix(self.top).map(Path::to_owned));
        if len > FILE_MAX {
            return;
        }
        if let Ok(inside) = inside {
            self.left = self.left.saturating_sub(len);
            self.chosen.push(Chosen {
                path,
                inside,
                #[cfg(test)]
                len,
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_come_in_order_until_there_is_enough() {
        let top = tempfile::tempdir().unwrap();
        for (name, len) in [("b", 10), ("a", 20), ("d/x", 30), ("c/z/y", 40), ("c/k", 50)] {
            let path = top.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, vec![1; len]).unwrap();
        }
        std::os::unix::fs::symlink("/etc/passwd", top.path().join("c/link")).unwrap();
        let names = |bytes| {
            let chosen = choose(top.path(), bytes, &CallOff::default()).unwrap();
            chosen.iter().map(|c| (c.inside.display().to_string(), c.len)).collect::<Vec<_>>()
        };
        let all = [("a", 20), ("b", 10), ("c/k", 50), ("c/z/y", 40), ("d/x", 30)];
        let all = all.map(|(name, len)| (name.to_owned(), len));
        assert_eq!(names(1000), all);
        assert_eq!(names(81), all[..4]);
        assert_eq!(names(80), all[..3]);
        assert!(choose(&top.path().join("missing"), 1, &CallOff::default()).is_err());
    }
}
