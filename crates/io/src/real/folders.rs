//! Names of files on this machine.
//!
//! A new file has no name until it is whole and durable (`O_TMPFILE`); where the file system cannot do that, or
//! something is to be replaced, it has a hidden one beside the place, which [`put`] removes if anything fails.

use std::fs::{self, File};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{DirBuilderExt, FileExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, UNIX_EPOCH};

use rustix::fs::{AtFlags, CWD, Mode, OFlags, RenameFlags};
use rustix::io::Errno;

use super::RealWorld;
use crate::LocalFut;
use crate::folders::{About, FileId, Folders, Kind, NewFile, Owner};

impl Folders for RealWorld {
    fn list<'a>(&'a self, folder: &'a Path) -> LocalFut<'a, io::Result<Vec<PathBuf>>> {
        self.in_pool(folder, |folder| fs::read_dir(folder)?.map(|entry| Ok(entry?.path())).collect())
    }

    fn about<'a>(&'a self, path: &'a Path) -> LocalFut<'a, io::Result<About>> {
        self.in_pool(path, |path| about(&path))
    }

    fn resolve<'a>(&'a self, path: &'a Path) -> LocalFut<'a, io::Result<PathBuf>> {
        self.in_pool(path, fs::canonicalize)
    }

    fn make<'a>(&'a self, folder: &'a Path, mode: u32) -> LocalFut<'a, io::Result<()>> {
        self.in_pool(folder, move |folder| make(&folder, mode))
    }

    fn set_mode<'a>(&'a self, path: &'a Path, mode: u32) -> LocalFut<'a, io::Result<()>> {
        self.in_pool(path, move |path| fs::set_permissions(path, fs::Permissions::from_mode(mode)))
    }

    fn set_owner<'a>(&'a self, path: &'a Path, owner: Owner) -> LocalFut<'a, io::Result<()>> {
        self.in_pool(path, move |path| std::os::unix::fs::lchown(path, Some(owner.user), Some(owner.group)))
    }

    fn link<'a>(&'a self, path: &'a Path, name: &'a Path) -> LocalFut<'a, io::Result<()>> {
        let name = name.to_owned();
        self.in_pool(path, move |path| link(&path, &name))
    }

    fn put<'a>(&'a self, path: &'a Path, file: NewFile) -> LocalFut<'a, io::Result<()>> {
        self.in_pool(path, move |path| put(&path, &file))
    }

    fn remove<'a>(&'a self, path: &'a Path) -> LocalFut<'a, io::Result<()>> {
        self.in_pool(path, |path| {
            fs::remove_file(&path)?;
            sync_folder(&path)
        })
    }

    fn remove_folder<'a>(&'a self, folder: &'a Path) -> LocalFut<'a, io::Result<()>> {
        self.in_pool(folder, |folder| {
            fs::remove_dir(&folder)?;
            sync_folder(&folder)
        })
    }
}

fn about(path: &Path) -> io::Result<About> {
    let found = fs::metadata(path)?;
    let kind = match found.file_type() {
        kind if kind.is_file() => Kind::File,
        kind if kind.is_dir() => Kind::Folder,
        _ => Kind::Other,
    };
    let modified = found.modified()?.duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
    let owner = Owner { user: found.uid(), group: found.gid() };
    Ok(About { kind, len: found.len(), modified, owner, id: file_id(&found) })
}

/// Which file it is that this is known of.
pub(super) fn file_id(about: &fs::Metadata) -> FileId {
    FileId(about.dev(), about.ino())
}

/// Makes a folder. Blocks.
fn make(folder: &Path, mode: u32) -> io::Result<()> {
    let missing: Vec<_> = folder.ancestors().take_while(|folder| !folder.is_dir()).collect();
    fs::DirBuilder::new().recursive(true).mode(mode).create(folder)?;
    missing.into_iter().filter(|made| made.file_name().is_some()).try_for_each(sync_folder)
}

/// Gives a file one more name. Blocks.
fn link(path: &Path, name: &Path) -> io::Result<()> {
    match fs::hard_link(path, name) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            // Beside the file: the folder of the name may be one in which others change names.
            let hidden = hidden(path);
            fs::hard_link(path, &hidden)?;
            let placed = fs::rename(&hidden, name);
            // A rename from one name of a file to another does nothing, and fails where a folder is in its way.
            let _ = fs::remove_file(&hidden);
            placed?;
        }
        linked => linked?,
    }
    sync_folder(name)
}

/// Puts a whole file there. Blocks.
fn put(path: &Path, new: &NewFile) -> io::Result<()> {
    let nameless = match new.replace {
        true => Err(Errno::OPNOTSUPP.into()),
        false => put_nameless(path, new),
    };
    match nameless {
        Err(error) if error.raw_os_error() == Some(Errno::OPNOTSUPP.raw_os_error()) => put_beside(path, new)?,
        outcome => outcome?,
    }
    sync_folder(path)
}

fn put_nameless(path: &Path, new: &NewFile) -> io::Result<()> {
    let flags = OFlags::TMPFILE | OFlags::WRONLY | OFlags::CLOEXEC;
    let opened = rustix::fs::open(folder(path), flags, Mode::from_raw_mode(new.mode));
    let file = File::from(opened.map_err(|error| match error {
        // Kernels and file systems that do not know it see an attempt to write a folder.
        Errno::ISDIR | Errno::INVAL | Errno::OPNOTSUPP => Errno::OPNOTSUPP,
        other => other,
    })?);
    write(&file, new)?;
    let source = format!("/proc/self/fd/{}", file.as_raw_fd());
    match rustix::fs::linkat(CWD, source, CWD, path, AtFlags::SYMLINK_FOLLOW) {
        // No /proc here.
        Err(Errno::NOENT) if !Path::new("/proc/self/fd").exists() => Err(Errno::OPNOTSUPP.into()),
        outcome => Ok(outcome?),
    }
}

fn put_beside(path: &Path, new: &NewFile) -> io::Result<()> {
    let hidden = hidden(path);
    let file = File::options().write(true).create_new(true).mode(new.mode).open(&hidden)?;
    let flags = if new.replace { RenameFlags::empty() } else { RenameFlags::NOREPLACE };
    let placed =
        write(&file, new).and_then(|()| Ok(rustix::fs::renameat_with(CWD, &hidden, CWD, path, flags)?));
    placed.inspect_err(|_| {
        // What went wrong first is what counts.
        let _ = fs::remove_file(&hidden);
    })
}

/// A name beside `path` that nothing has.
fn hidden(path: &Path) -> PathBuf {
    static NUMBER: AtomicU64 = AtomicU64::new(0);
    let number = NUMBER.fetch_add(1, Ordering::Relaxed);
    let mut hidden = std::ffi::OsString::from(".");
    hidden.push(path.file_name().unwrap_or_default());
    hidden.push(format!(".{}-{number}.tmp", std::process::id()));
    folder(path).join(hidden)
}

fn write(file: &File, new: &NewFile) -> io::Result<()> {
    if let Some(owner) = new.owner {
        std::os::unix::fs::fchown(file, Some(owner.user), Some(owner.group))?;
    }
    file.set_len(new.len)?;
    for (at, bytes) in &new.parts {
        file.write_all_at(bytes, *at)?;
    }
    file.sync_all()
}

fn folder(path: &Path) -> &Path {
    match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    }
}

fn sync_folder(path: &Path) -> io::Result<()> {
    File::open(folder(path))?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(folder: &Path) -> Vec<String> {
        let entries = fs::read_dir(folder).unwrap();
        let mut names: Vec<_> =
            entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    #[test]
    fn files_are_put_whole_or_not_at_all() {
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join("file");
        let new = |byte, replace| NewFile {
            parts: vec![(0, vec![byte; 3]), (10, vec![byte; 2])],
            len: 20,
            mode: 0o600,
            owner: None,
            replace,
        };
        type Put = fn(&Path, &NewFile) -> io::Result<()>;
        for (number, way) in [put as Put, put_beside].into_iter().enumerate() {
            let byte = number as u8 + 1;
            way(&path, &new(byte, false)).unwrap();
            let expected = [&[byte; 3][..], &[0; 7], &[byte; 2], &[0; 8]].concat();
            assert_eq!(fs::read(&path).unwrap(), expected);
            let refused = way(&path, &new(9, false)).unwrap_err();
            assert_eq!(refused.kind(), io::ErrorKind::AlreadyExists);
            assert_eq!(fs::read(&path).unwrap(), expected);
            way(&path, &NewFile::of(vec![7])).unwrap();
            assert_eq!(fs::read(&path).unwrap(), [7]);
            assert_eq!(names(place.path()), ["file"]);
            fs::remove_file(&path).unwrap();
        }
        let nowhere = place.path().join("none/file");
        assert_eq!(put(&nowhere, &new(1, false)).unwrap_err().kind(), io::ErrorKind::NotFound);
    }

    #[test]
    fn a_file_gets_a_second_name_whatever_has_it() {
        let place = tempfile::tempdir().unwrap();
        let path = |name: &str| place.path().join(name);
        fs::write(path("file"), "ours").unwrap();
        fs::write(path("foreign"), "theirs").unwrap();
        std::os::unix::fs::symlink("foreign", path("trap")).unwrap();
        fs::create_dir(path("folder")).unwrap();
        let inode = fs::metadata(path("file")).unwrap().ino();
        for name in ["new", "new", "trap", "file"] {
            link(&path("file"), &path(name)).unwrap();
            assert_eq!(fs::symlink_metadata(path(name)).unwrap().ino(), inode, "{name}");
        }
        assert_eq!(fs::read(path("foreign")).unwrap(), b"theirs");
        link(&path("file"), &path("folder")).unwrap_err();
        assert_eq!(link(&path("none"), &path("x")).unwrap_err().kind(), io::ErrorKind::NotFound);
        assert_eq!(names(place.path()), ["file", "folder", "foreign", "new", "trap"]);
    }
}
