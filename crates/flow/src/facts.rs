//! What is known of an image, for those who show it.

use crate::powers::SnapshotInfo;

/// Knowing what kind of image it is, and what it names. No request is sent for it; how much room a file takes, its file
/// system is asked.
pub trait Facts: Sync {
    /// What is known by now.
    fn facts(&self) -> ImageFacts;
}

/// Facts of an image, or of what it lies on.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ImageFacts {
    /// Bytes that it takes on a disk, where that can be found out.
    pub allocated: Option<u64>,
    /// How what it holds is stored.
    pub storage: Option<Storage>,
    /// The image that it names to lie below it.
    pub backing: Option<StoredBacking>,
    /// Its internal snapshots, oldest first, as far as they are in memory; none where their table could not be read.
    pub snapshots: Vec<SnapshotInfo>,
    /// What only its format has to tell, by QMP's names, in their order; `None` where QMP knows of nothing.
    pub specific: Option<Vec<(&'static str, Fact)>>,
}

/// How the bytes of an image are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Storage {
    /// In bytes, where there are clusters.
    pub cluster_size: Option<u64>,
    /// Whether its counts may be late.
    pub is_dirty: bool,
}

/// A backing image, as it is stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredBacking {
    /// Its name.
    pub name: String,
    /// The name as seen from where the image itself was opened.
    pub full: String,
    /// Its format, where that is stored.
    pub format: Option<String>,
}

/// A fact of a format.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fact {
    /// A name or a word.
    Text(String),
    /// A size or a width.
    Number(u64),
    /// Whether it is so.
    Flag(bool),
    /// Words.
    Words(Vec<&'static str>),
    /// The facts of each of some things.
    Each(Vec<Vec<(&'static str, Fact)>>),
}
