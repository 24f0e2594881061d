//! The options of `file`.

use io::file::Engine;
use serde::Deserialize;
use serde_json::{Map, Value};

use crate::options::Count;

/// Options, as QEMU's.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Options {
    /// Path of the file or block device.
    pub filename: String,
    /// Whether other processes are kept off.
    #[serde(default)]
    pub locking: Locking,
    /// How requests that would wait are carried out.
    #[serde(default)]
    pub aio: Aio,
    /// Taken for QEMU's sake, without effect.
    pub aio_max_batch: Option<Count<u64>>,
    /// Taken for QEMU's sake, without effect: it is about migration.
    pub drop_cache: Option<bool>,
}

/// The name of the file that `options` name; one that would stand for a protocol begins with a folder.
pub fn filename(options: &Map<String, Value>) -> Option<String> {
    let name = options.get("filename")?.as_str()?;
    Some(if qcow2::scheme(name).is_some() { format!("./{name}") } else { name.to_owned() })
}

/// Whether other processes are kept off the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Locking {
    /// Where the file system can.
    #[default]
    Auto,
    /// Yes, or the file cannot be used.
    On,
    /// No: whoever says so sees to it by other means. Nothing is lent then.
    Off,
}

/// How requests that would wait are carried out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Aio {
    /// A small pool of threads.
    Threads,
    /// Whatever the machine does best, which is what nobody has to name.
    #[default]
    #[serde(skip)]
    Best,
    /// Linux AIO in QEMU; here the same as the best, and as there only past the page cache.
    Native,
    /// io_uring, or the file cannot be opened.
    IoUring,
}

impl Aio {
    pub(super) fn engine(self) -> Engine {
        match self {
            Self::Threads => Engine::Pool,
            Self::Best | Self::Native => Engine::Auto,
            Self::IoUring => Engine::Uring,
        }
    }
}
