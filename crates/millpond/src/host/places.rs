//! Where a pond and its sockets are unless somebody says otherwise.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use block::{BlockError, ErrorKind, Result};

/// The folders of one pond.
#[derive(Clone, Debug)]
pub(super) struct Places {
    /// Caches and records.
    pub(super) pond: PathBuf,
    /// Sockets.
    pub(super) runtime: PathBuf,
}

impl Places {
    /// Those that are named, else the usual ones.
    pub(super) fn of(pond: Option<&Path>, runtime: Option<&Path>) -> Result<Self> {
        let root = std::fs::metadata("/proc/self").is_ok_and(|me| me.uid() == 0);
        let usual = match root {
            true => Some(PathBuf::from("/var/lib/millpond")),
            false => variable("XDG_STATE_HOME")
                .or_else(|| Some(variable("HOME")?.join(".local/state")))
                .map(|folder| folder.join("millpond")),
        };
        let pond = pond.map(absolute).transpose()?.or_else(|| usual.clone());
        let pond = pond.ok_or_else(|| missing("the pond", "--pond"))?;
        if let Some(runtime) = runtime {
            return Ok(Self { pond, runtime: absolute(runtime)? });
        }
        let runtime = match root {
            true => Some(PathBuf::from("/run/millpond")),
            false => variable("XDG_RUNTIME_DIR").map(|folder| folder.join("millpond")),
        };
        let runtime = runtime.ok_or_else(|| missing("the sockets", "--runtime"))?;
        // Another pond has other sockets.
        let runtime = if Some(&pond) == usual.as_ref() { runtime } else { runtime.join(mark(&pond)) };
        Ok(Self { pond, runtime })
    }

    /// Where the daemon takes commands.
    pub(super) fn control(&self) -> PathBuf {
        self.runtime.join("control.sock")
    }

    /// Where VMs find their disks.
    pub(super) fn sockets(&self) -> PathBuf {
        self.runtime.join("clones")
    }
}

/// A path that means the same for the daemon.
pub(super) fn absolute(path: &Path) -> Result<PathBuf> {
    let whole = std::path::absolute(path);
    whole.map_err(|e| BlockError::system(format!("cannot tell where '{}' is", path.display()), e))
}

fn variable(name: &str) -> Option<PathBuf> {
    std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute())
}

fn missing(what: &str, option: &str) -> BlockError {
    let context = format!("nothing in the environment says where {what} should be: say {option} DIR");
    BlockError::new(ErrorKind::Invalid, context)
}

/// A short name for a path: names of sockets have little room.
fn mark(path: &Path) -> String {
    use std::hash::{DefaultHasher, Hash, Hasher};
    let mut hasher = DefaultHasher::new();
    path.hash(&mut hasher);
    format!("{:08x}", hasher.finish() as u32)
}
