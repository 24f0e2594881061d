//! What an image is, as `query-named-block-nodes` tells it.

use engine::{Fact, NodeInfo, facts_json};
use qmp::schema::{Form, Nothing};
use serde_json::json;

use super::number::number;
use super::snapshot_info::SnapshotDescription;

/// What sizes are told in, in bytes.
const SECTOR: u64 = 512;

qmp::structure! {
    /// An image.
    pub struct ImageDescription {
        /// The file that it lies on, or what else it is.
        "filename" => filename: String,
        /// Its format.
        "format" => format: String,
        /// Whether its counts may be late.
        "dirty-flag" => dirty_flag: Option<bool>,
        /// Bytes that it takes on a disk.
        "actual-size" => actual_size: Option<i64>,
        /// Its size in bytes, as guests see it.
        "virtual-size" => virtual_size: i64,
        /// Bytes of a cluster, where it has any.
        "cluster-size" => cluster_size: Option<i64>,
        /// The backing image that it names.
        "backing-filename" => backing_filename: Option<String>,
        /// The same, as seen from where the daemon runs.
        "full-backing-filename" => full_backing_filename: Option<String>,
        /// The format that it names with it.
        "backing-filename-format" => backing_filename_format: Option<String>,
        /// Its internal snapshots, if it has any.
        "snapshots" => snapshots: Option<Vec<SnapshotDescription>>,
        /// The image below it.
        "backing-image" => backing_image: Option<Box<ImageDescription>>,
        /// What its format has to tell.
        "format-specific" => format_specific: Option<FormatFacts>,
    }
}

qmp::union! {
    /// What a format has to tell.
    pub struct FormatFacts {
        base: Nothing,
        /// The formats.
        pub enum FormatKind by "type" {
            /// Of qcow2 images.
            Qcow2(Qcow2Data) = "qcow2",
            /// Of files.
            File(FileData) = "file",
        }
    }
}

qmp::structure! {
    /// Members that lie in `data`.
    pub struct Qcow2Data {
        /// They.
        "data" => data: Qcow2Facts,
    }
}

qmp::structure! {
    /// Members that lie in `data`.
    pub struct FileData {
        /// They.
        "data" => data: Nothing,
    }
}

qmp::structure! {
    /// What an image of qcow2 has to tell.
    pub struct Qcow2Facts {
        /// Its version: `0.10` or `1.1`.
        "compat" => compat: String,
        /// The name that it stores of its data file.
        "data-file" => data_file: Option<String>,
        /// Whether the data file reads as the disk by itself.
        "data-file-raw" => data_file_raw: Option<bool>,
        /// Whether clusters have subclusters.
        "extended-l2" => extended_l2: Option<bool>,
        /// Whether counts may be written late.
        "lazy-refcounts" => lazy_refcounts: Option<bool>,
        /// Whether it is marked as corrupt.
        "corrupt" => corrupt: Option<bool>,
        /// Width of a refcount.
        "refcount-bits" => refcount_bits: i64,
        /// Its persistent bitmaps, as they are in the file.
        "bitmaps" => bitmaps: Option<Vec<StoredBitmap>>,
        /// How clusters are compressed.
        "compression-type" => compression_type: CompressionType,
        /// Most bytes that it takes as a cache.
        "cache-img-quota" => cache_img_quota: Option<u64>,
    }
}

qmp::structure! {
    /// A persistent bitmap, as it is in the file.
    pub struct StoredBitmap {
        /// Its name.
        "name" => name: String,
        /// Bytes that a bit stands for.
        "granularity" => granularity: u64,
        /// What is said of it.
        "flags" => flags: Vec<BitmapFlag>,
    }
}

qmp::enumeration! {
    /// What a file says of a bitmap.
    pub enum BitmapFlag {
        /// Its content is not to be believed.
        InUse = "in-use",
        /// It is kept up to date.
        Auto = "auto",
    }
}

qmp::enumeration! {
    /// How clusters are compressed.
    pub enum CompressionType {
        /// Deflate.
        Zlib = "zlib",
        /// Zstandard.
        Zstd = "zstd",
    }
}

impl ImageDescription {
    /// The image in a node, over the one that shows through it.
    pub fn of(node: &NodeInfo, below: Option<Box<Self>>) -> Self {
        let NodeInfo { facts, driver, .. } = node;
        let backing = facts.backing.as_ref();
        Self {
            filename: node.full_name.clone(),
            format: (*driver).to_owned(),
            dirty_flag: facts.storage.map(|storage| storage.is_dirty),
            actual_size: facts.allocated.map(number),
            // In whole sectors, as QEMU has it.
            virtual_size: number(node.size.div_ceil(SECTOR).saturating_mul(SECTOR)),
            cluster_size: facts.storage.and_then(|storage| storage.cluster_size).map(number),
            backing_filename: backing.map(|backing| backing.name.clone()),
            full_backing_filename: backing.map(|backing| backing.full.clone()),
            backing_filename_format: backing.and_then(|backing| backing.format.clone()),
            snapshots: (!facts.snapshots.is_empty())
                .then(|| facts.snapshots.iter().map(SnapshotDescription::of).collect()),
            backing_image: below,
            format_specific: facts.specific.as_deref().and_then(|facts| specific(driver, facts)),
        }
    }
}

/// Nothing where QMP has no place for that driver's facts.
fn specific(driver: &str, facts: &[(&'static str, Fact)]) -> Option<FormatFacts> {
    let named = json!({ "type": driver, "data": facts_json(facts) });
    qmp::schema::parse(named.as_object()?.clone(), Form::Json).ok()
}
