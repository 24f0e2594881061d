//! The file that says which process serves.
//!
//! Invariants: a regular file is locked until the process ends, as QEMU's programs lock theirs, so that no two have the
//! same one; one that could not be written to the end is removed.

use std::fs::{self, File, Metadata, OpenOptions};
use std::io::{self, ErrorKind, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process;

use rustix::fs::{FlockOperation, OFlags, fcntl_lock};
use rustix::io::Errno;

use crate::real::folders::file_id;

/// A file with the id of this process.
#[derive(Debug)]
pub struct PidFile {
    file: File,
    path: PathBuf,
}

impl PidFile {
    /// Writes it, in the place of what a process that has ended left there. What is no regular file is written to.
    ///
    /// Errors: those of the system; `ResourceBusy` where another process holds it.
    pub fn write(path: &Path) -> io::Result<Self> {
        let held = Self::hold(path)?;
        let (regular, id) = (held.file.metadata()?.is_file(), format!("{}\n", process::id()));
        let emptied = if regular { held.file.set_len(0) } else { Ok(()) };
        match emptied.and_then(|()| (&held.file).write_all(id.as_bytes())) {
            Ok(()) => Ok(held),
            Err(error) => {
                held.remove();
                Err(error)
            }
        }
    }

    fn hold(path: &Path) -> io::Result<Self> {
        loop {
            // A pipe that nobody reads would keep us here.
            let flags = OFlags::NONBLOCK.bits() as i32;
            let mut options = OpenOptions::new();
            let file = options.write(true).create(true).truncate(false).custom_flags(flags).open(path)?;
            let held = Self { file, path: path.to_owned() };
            if !held.file.metadata()?.is_file() {
                return Ok(held);
            }
            match fcntl_lock(&held.file, FlockOperation::NonBlockingLockExclusive) {
                Err(Errno::AGAIN | Errno::ACCESS) => {
                    return Err(io::Error::new(ErrorKind::ResourceBusy, "another process holds it"));
                }
                locked => locked?,
            }
            // Whoever had it before may have removed it between the two.
            if held.has_its_name() {
                return Ok(held);
            }
        }
    }

    /// Removes it, unless somebody else's is there by now, or it is no regular file.
    pub fn remove(&self) {
        if self.has_its_name() {
            // Gone already: fine.
            let _ = fs::remove_file(&self.path);
        }
    }

    fn has_its_name(&self) -> bool {
        let regular = |about: Metadata| about.is_file().then(|| file_id(&about));
        let ours = self.file.metadata().ok().and_then(regular);
        ours.is_some() && ours == fs::metadata(&self.path).ok().and_then(regular)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_takes_the_place_of_one_that_was_left() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("pid");
        fs::write(&path, "12345678901\n").unwrap();
        let file = PidFile::write(&path).unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), format!("{}\n", process::id()));
        file.remove();
        assert!(!path.exists());
        fs::write(&path, "somebody else's").unwrap();
        file.remove();
        assert_eq!(fs::read_to_string(&path).unwrap(), "somebody else's");
    }

    #[test]
    fn what_is_no_file_is_written_to_and_stays() {
        let null = PidFile::write(Path::new("/dev/null")).unwrap();
        null.remove();
        assert!(Path::new("/dev/null").exists());
        assert_eq!(PidFile::write(Path::new("/dev/full")).unwrap_err().kind(), ErrorKind::StorageFull);
        assert!(Path::new("/dev/full").exists());
    }
}
