//! What is written down of images and clones beside the caches: small JSON files, each replaced as a whole.
//!
//! Invariant: a record is never the only place of a truth about bytes: whether a cache is complete is said by its own
//! header, and a record that is behind the cache does no harm.

use std::path::Path;

use block::{BlockError, ErrorKind};
use io::World;
use io::folders::NewFile;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::refusal::{Refusal, Remedy, Result};

/// Records are longer only if somebody damaged them.
const LEN_MAX: usize = 64 << 10;
/// The version that is written, and the only one that is read.
const VERSION: u32 = 1;

/// How a cache is run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Mode {
    /// Everything is fetched, then the link is cut.
    Complete,
    /// Only what is read is fetched; the link stays.
    WorkingSet,
}

/// An image and its cache.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct ImageRecord {
    version: u32,
    /// As the user named it, made absolute.
    pub source: String,
    /// What it was when the cache was begun, as the source's driver knows it again.
    pub identity: String,
    /// What the repository states of its version; without it only the size is checked.
    pub stated: Option<String>,
    /// How the cache is run.
    pub mode: Mode,
    /// Virtual size in bytes.
    pub size: u64,
}

/// What a new cache is to hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Holding {
    /// How it is run.
    pub mode: Mode,
    /// Most bytes that its file shall take, of a working set.
    pub quota: Option<u64>,
}

impl Holding {
    /// Everything.
    pub const COMPLETE: Self = Self { mode: Mode::Complete, quota: None };
    /// Whatever is read.
    pub const WORKING_SET: Self = Self { mode: Mode::WorkingSet, quota: None };

    /// `Invalid` where a cache that is to hold everything is given a quota.
    pub(crate) fn check(self) -> Result<()> {
        if self.mode == Mode::Complete && self.quota.is_some() {
            let context =
                "a quota is for a cache that holds a working set, and this one is to hold everything";
            return Err(BlockError::new(ErrorKind::Invalid, context).into());
        }
        Ok(())
    }
}

impl ImageRecord {
    /// A new one.
    pub fn new(source: String, identity: String, stated: Option<String>, mode: Mode, size: u64) -> Self {
        Self { version: VERSION, source, identity, stated, mode, size }
    }
}

/// A VM's disk on a cache.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct CloneRecord {
    version: u32,
    /// The overlay's absolute path.
    pub overlay: String,
    /// Name of the image in the pond.
    pub image: String,
    /// What the image was when the clone was made; a later version of it has nothing below this overlay.
    pub identity: String,
    /// Virtual size of the overlay in bytes.
    pub size: u64,
    /// Whether the overlay names the cache itself by now.
    pub pivoted: bool,
}

impl CloneRecord {
    /// A new one, that names a socket.
    pub fn new(overlay: String, image: String, identity: String, size: u64) -> Self {
        Self { version: VERSION, overlay, image, identity, size, pivoted: false }
    }
}

/// What records have in common.
pub(crate) trait Record: DeserializeOwned {
    /// What helps when one is damaged.
    const REMEDY: Remedy;
}

impl Record for ImageRecord {
    const REMEDY: Remedy = Remedy::RemoveImage;
}

impl Record for CloneRecord {
    const REMEDY: Remedy = Remedy::RemoveFile;
}

/// Reads a record.
pub(crate) async fn load<T: Record>(world: &dyn World, path: &Path) -> Result<T> {
    let bytes = world.read_file(path, LEN_MAX).await;
    let bytes = bytes.map_err(|e| BlockError::system(format!("cannot read '{}'", path.display()), e))?;
    parse(&bytes).map_err(|why| {
        Refusal::new(ErrorKind::Corrupt, format!("'{}' is damaged ({why})", path.display()), T::REMEDY)
    })
}

/// A record as it stands in its file; else why it is none.
pub(crate) fn parse<T: Record>(bytes: &[u8]) -> std::result::Result<T, String> {
    let value: serde_json::Value = serde_json::from_slice(bytes).map_err(|e| e.to_string())?;
    let version = value.get("version").and_then(serde_json::Value::as_u64);
    if version != Some(VERSION.into()) {
        return Err(format!("its version is not {VERSION}"));
    }
    serde_json::from_value(value).map_err(|e| e.to_string())
}

/// Writes a record, in place of the one that was there.
pub(crate) async fn save<T: Serialize>(world: &dyn World, path: &Path, record: &T) -> block::Result<()> {
    let failed = |e| BlockError::system(format!("cannot write '{}'", path.display()), e);
    let mut bytes = serde_json::to_vec_pretty(record).map_err(|e| failed(e.into()))?;
    bytes.push(b'\n');
    world.folders().put(path, NewFile::of(bytes)).await.map_err(failed)
}
