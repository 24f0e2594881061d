//! Where the files of a pond lie.

use std::path::{Path, PathBuf};

/// The folders of a pond.
#[derive(Clone, Debug)]
pub(crate) struct Layout {
    folder: PathBuf,
    sockets: PathBuf,
}

impl Layout {
    pub(crate) fn new(folder: PathBuf, sockets: PathBuf) -> Self {
        Self { folder, sockets }
    }

    pub(crate) fn folder(&self) -> &Path {
        &self.folder
    }

    /// Held while a daemon has the pond.
    pub(crate) fn lock(&self) -> PathBuf {
        self.folder.join("lock")
    }

    /// Caches and their records.
    pub(crate) fn images(&self) -> PathBuf {
        self.folder.join("images")
    }

    pub(crate) fn cache(&self, image: &str) -> PathBuf {
        self.images().join(format!("{image}.qcow2"))
    }

    pub(crate) fn image_record(&self, image: &str) -> PathBuf {
        self.images().join(format!("{image}.json"))
    }

    /// Records of clones.
    pub(crate) fn clones(&self) -> PathBuf {
        self.folder.join("clones")
    }

    pub(crate) fn clone_record(&self, id: &str) -> PathBuf {
        self.clones().join(format!("{id}.json"))
    }

    /// A folder for each user who reads caches without the daemon.
    pub(crate) fn readers(&self) -> PathBuf {
        self.folder.join("readers")
    }

    pub(crate) fn reader(&self, user: u32) -> PathBuf {
        self.readers().join(user.to_string())
    }

    /// The name by which a user reads a cache.
    pub(crate) fn reading(&self, user: u32, image: &str) -> PathBuf {
        Self::reading_in(&self.reader(user), image)
    }

    /// The same in the folder of a user.
    pub(crate) fn reading_in(reader: &Path, image: &str) -> PathBuf {
        reader.join(format!("{image}.qcow2"))
    }

    /// Whether a disk that was pivoted to `image` may name its cache so.
    pub(crate) fn is_reading(&self, name: &Path, image: &str) -> bool {
        let reader = name.parent().and_then(Path::parent);
        // Before there were readers, they had the cache itself.
        name == self.cache(image)
            || (reader == Some(&self.readers()) && name.file_name() == self.cache(image).file_name())
    }

    /// Sockets of clones.
    pub(crate) fn sockets(&self) -> &Path {
        &self.sockets
    }

    pub(crate) fn socket(&self, id: &str) -> PathBuf {
        self.sockets.join(format!("{id}.sock"))
    }

    /// The name of the record at `path`, if it is one.
    pub(crate) fn record_name(path: &Path) -> Option<String> {
        let is_record = path.extension().is_some_and(|ending| ending == "json");
        let stem = path.file_stem()?.to_str()?;
        (is_record && !stem.starts_with('.')).then(|| stem.to_owned())
    }
}

/// A short text that stands for a long one in names of files: 64 bits of FNV-1a, in hexadecimal.
pub(crate) fn short(text: &str) -> String {
    let hash = text.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
    });
    format!("{hash:016x}")
}
