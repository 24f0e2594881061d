//! What `query-named-block-nodes` answers. Members that QEMU has for limits of a device are there, and 0: limits are
//! a filter's here.

use super::dirty_bitmap::BitmapDescription;
use super::image_info::ImageDescription;
use super::node_options::DetectZeroes;

qmp::structure! {
    /// A node.
    pub struct NodeDescription {
        /// The file that it lies on, or what else it is.
        "file" => file: String,
        /// Its name.
        "node-name" => node_name: Option<String>,
        /// Whether it refuses writes.
        "ro" => read_only: bool,
        /// Its driver.
        "drv" => driver: String,
        /// Its dirty bitmaps, newest first, if it has any.
        "dirty-bitmaps" => dirty_bitmaps: Option<Vec<BitmapDescription>>,
        /// The file that its backing node lies on.
        "backing_file" => backing_file: Option<String>,
        /// How many nodes show through it, one below the other; 0 in a flat list.
        "backing_file_depth" => backing_file_depth: i64,
        /// True: nodes are not handed over to another process.
        "active" => active: bool,
        /// False: encryption is not there yet.
        "encrypted" => encrypted: bool,
        /// What becomes of writes of zeros.
        "detect_zeroes" => detect_zeroes: DetectZeroes,
        /// 0.
        "bps" => bps: i64,
        /// 0.
        "bps_rd" => bps_read: i64,
        /// 0.
        "bps_wr" => bps_write: i64,
        /// 0.
        "iops" => iops: i64,
        /// 0.
        "iops_rd" => iops_read: i64,
        /// 0.
        "iops_wr" => iops_write: i64,
        /// The image.
        "image" => image: ImageDescription,
        /// How the host caches it.
        "cache" => cache: CacheDescription,
        /// 0: there is no threshold.
        "write_threshold" => write_threshold: i64,
    }
}

qmp::structure! {
    /// How the host caches.
    pub struct CacheDescription {
        /// Whether writes are answered before they are durable.
        "writeback" => writeback: bool,
        /// Whether the host's page cache is bypassed.
        "direct" => direct: bool,
        /// Whether flushes are ignored.
        "no-flush" => no_flush: bool,
    }
}

qmp::structure! {
    /// Data of `BLOCK_IMAGE_CORRUPTED`.
    pub struct BlockImageCorrupted {
        /// Nothing: nodes belong to no device.
        "device" => device: String,
        /// The format node.
        "node-name" => node_name: Option<String>,
        /// What is wrong.
        "msg" => msg: String,
        /// Where in the image file something would have been written over.
        "offset" => offset: Option<i64>,
        /// How many bytes.
        "size" => size: Option<i64>,
        /// Whether the image is not written any more.
        "fatal" => fatal: bool,
    }
}
