//! Arguments of `blockdev-add`: they are checked here, and read by the drivers.
//!
//! A driver that is not in QEMU is described by its children alone: what else it takes, it checks by itself.

use qmp::schema::{Builder, Given, Member, Members, Nothing, Object, Refusal, Type};
use serde_json::{Map, Value};

use super::address::SocketAddress;
use super::checked::checked;

/// The arguments, checked, as they were given.
#[derive(Clone, Debug, PartialEq)]
pub struct NodeArguments(pub Map<String, Value>);

checked!(NodeArguments, NodeOptions);

qmp::union! {
    /// A node.
    pub struct NodeOptions {
        base: NodeBase,
        /// Its drivers.
        pub enum DriverOptions by "driver" {
            /// See the manual, as for all of them.
            CopyOnRead(CopyOnReadOptions) = "copy-on-read",
            /// One of ours.
            Delay(Own) = "delay",
            /// One of ours.
            Fault(Own) = "fault",
            /// A file.
            File(FileOptions) = "file",
            /// One of ours.
            Memory(Own) = "memory",
            /// One of ours.
            MemoryFormat(Own) = "memory-format",
            /// An export of an NBD server.
            Nbd(NbdOptions) = "nbd",
            /// Nowhere.
            NullAio(NullOptions) = "null-aio",
            /// Nowhere.
            NullCo(NullOptions) = "null-co",
            /// QEMU's image format.
            Qcow2(Qcow2Options) = "qcow2",
            /// As they are.
            Raw(RawOptions) = "raw",
            /// Within limits.
            Throttle(ThrottleOptions) = "throttle",
        }
    }
}

qmp::alternate! {
    /// A node that is there, by its name, or one to be opened along.
    pub enum NodeReference: "BlockdevRef" {
        /// To be opened.
        Definition(Box<NodeOptions>) = object,
        /// There.
        Name(String) = string,
    }
}

qmp::alternate! {
    /// The same, or explicitly none.
    pub enum NodeReferenceOrNull: "BlockdevRefOrNull" {
        /// To be opened.
        Definition(Box<NodeOptions>) = object,
        /// There.
        Name(String) = string,
        /// None.
        Nothing(()) = null,
    }
}

qmp::enumeration! {
    /// What becomes of discards.
    pub enum Discard {
        /// Nothing.
        Ignore = "ignore",
        /// They are passed on.
        Unmap = "unmap",
    }
}

qmp::enumeration! {
    /// What becomes of writes of zeros.
    pub enum DetectZeroes {
        /// They are written.
        Off = "off",
        /// They are told as zeros.
        On = "on",
        /// They may become holes.
        Unmap = "unmap",
    }
}

qmp::structure! {
    /// How the host caches.
    pub struct CacheOptions {
        /// Bypass the host's page cache.
        "direct" => direct: Option<bool>,
        /// Never wait for the disk.
        "no-flush" => no_flush: Option<bool>,
    }
}

qmp::structure! {
    /// What all nodes have.
    pub struct NodeBase {
        /// Its name.
        "node-name" => node_name: Option<String>,
        /// What becomes of discards.
        "discard" => discard: Option<Discard>,
        /// How the host caches.
        "cache" => cache: Option<CacheOptions>,
        /// Refuse writes.
        "read-only" => read_only: Option<bool>,
        /// Refuse them where they cannot be carried out.
        "auto-read-only" => auto_read_only: Option<bool>,
        /// Read without locks, whatever others do meanwhile.
        "force-share" => force_share: Option<bool>,
        /// What becomes of writes of zeros.
        "detect-zeroes" => detect_zeroes: Option<DetectZeroes>,
    }
}

/// Options of a driver of ours: the driver checks them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Own;

impl Type for Own {
    fn describe(schema: &mut Builder) -> String {
        Nothing::describe(schema)
    }
    fn parse(_given: Given) -> Result<Self, Refusal> {
        Ok(Self)
    }
    fn show(&self) -> Value {
        Nothing.show()
    }
}

impl Object for Own {
    fn members(_schema: &mut Builder) -> Vec<Member> {
        Vec::new()
    }
    fn take(from: &mut Members) -> Result<Self, Refusal> {
        from.leave();
        Ok(Self)
    }
    fn put(&self, _into: &mut Map<String, Value>) {}
}

qmp::structure! {
    /// Copy-on-read.
    pub struct CopyOnReadOptions {
        /// What it filters.
        "file" => file: NodeReference,
        /// The lowest layer whose data is stored.
        "bottom" => bottom: Option<String>,
    }
}

qmp::enumeration! {
    /// Whether a file is locked.
    pub enum Locking {
        /// Where the file system can.
        Auto = "auto",
        /// Or it cannot be used.
        On = "on",
        /// No.
        Off = "off",
    }
}

qmp::enumeration! {
    /// How requests that would wait are carried out.
    pub enum Aio {
        /// By a pool of threads.
        Threads = "threads",
        /// As the machine does best.
        Native = "native",
        /// By io_uring.
        IoUring = "io_uring",
    }
}

qmp::structure! {
    /// A file.
    pub struct FileOptions {
        /// Its path.
        "filename" => filename: String,
        /// Whether it is locked.
        "locking" => locking: Option<Locking>,
        /// How requests that would wait are carried out.
        "aio" => aio: Option<Aio>,
        /// Without effect.
        "aio-max-batch" => aio_max_batch: Option<i64>,
        /// Without effect.
        "drop-cache" => drop_cache: Option<bool>,
    }
}

qmp::structure! {
    /// An export of an NBD server.
    pub struct NbdOptions {
        /// Where the server is.
        "server" => server: SocketAddress,
        /// Name of the export.
        "export" => export: Option<String>,
        /// Seconds that requests wait for a lost server.
        "reconnect-delay" => reconnect_delay: Option<u32>,
        /// Seconds that opening waits for the server.
        "open-timeout" => open_timeout: Option<u32>,
    }
}

qmp::structure! {
    /// Nothing, of some size.
    pub struct NullOptions {
        /// Its size.
        "size" => size: Option<i64>,
        /// How long requests take.
        "latency-ns" => latency_ns: Option<u64>,
        /// Whether it reads as zeros.
        "read-zeroes" => read_zeroes: Option<bool>,
    }
}

qmp::structure! {
    /// A window of a node.
    pub struct RawOptions {
        /// Of which.
        "file" => file: NodeReference,
        /// Where it begins.
        "offset" => offset: Option<i64>,
        /// How long it is.
        "size" => size: Option<i64>,
    }
}

qmp::structure! {
    /// Within limits.
    pub struct ThrottleOptions {
        /// Whose limits.
        "throttle-group" => throttle_group: String,
        /// What is limited.
        "file" => file: NodeReference,
    }
}

qmp::enumeration! {
    /// Which of an image's structures nothing else is written over.
    pub enum OverlapTemplate {
        /// None.
        Nothing = "none",
        /// Those that lie where they lie.
        Constant = "constant",
        /// Those that are in memory.
        Cached = "cached",
        /// All.
        All = "all",
    }
}

qmp::structure! {
    /// A template, and what differs from it.
    pub struct OverlapFlags {
        /// The template.
        "template" => template: Option<OverlapTemplate>,
        /// The header.
        "main-header" => main_header: Option<bool>,
        /// The active L1 table.
        "active-l1" => active_l1: Option<bool>,
        /// The tables that it points to.
        "active-l2" => active_l2: Option<bool>,
        /// The refcount table.
        "refcount-table" => refcount_table: Option<bool>,
        /// The blocks that it points to.
        "refcount-block" => refcount_block: Option<bool>,
        /// The table of snapshots.
        "snapshot-table" => snapshot_table: Option<bool>,
        /// Their L1 tables.
        "inactive-l1" => inactive_l1: Option<bool>,
        /// The tables that those point to.
        "inactive-l2" => inactive_l2: Option<bool>,
        /// The directory of bitmaps.
        "bitmap-directory" => bitmap_directory: Option<bool>,
    }
}

qmp::alternate! {
    /// A template, by itself or with what differs from it.
    pub enum OverlapCheck: "Qcow2OverlapChecks" {
        /// With what differs.
        Flags(OverlapFlags) = object,
        /// By itself.
        Template(OverlapTemplate) = string,
    }
}

qmp::structure! {
    /// QEMU's image format.
    pub struct Qcow2Options {
        /// Where its tables are.
        "file" => file: NodeReference,
        /// What answers where it holds nothing.
        "backing" => backing: Option<NodeReferenceOrNull>,
        /// Where its data is.
        "data-file" => data_file: Option<NodeReference>,
        /// See the manual, as for all of these.
        "lazy-refcounts" => lazy_refcounts: Option<bool>,
        /// Discards of guests are passed on.
        "pass-discard-request" => pass_discard_request: Option<bool>,
        /// What deleted snapshots held is discarded.
        "pass-discard-snapshot" => pass_discard_snapshot: Option<bool>,
        /// What else becomes free is discarded.
        "pass-discard-other" => pass_discard_other: Option<bool>,
        /// Discarded clusters keep their place.
        "discard-no-unref" => discard_no_unref: Option<bool>,
        /// What nothing else is written over.
        "overlap-check" => overlap_check: Option<OverlapCheck>,
        /// Bytes for tables in memory.
        "cache-size" => cache_size: Option<i64>,
        /// Bytes for L2 tables in memory.
        "l2-cache-size" => l2_cache_size: Option<i64>,
        /// Bytes of one piece of them.
        "l2-cache-entry-size" => l2_cache_entry_size: Option<i64>,
        /// Bytes for refcounts in memory.
        "refcount-cache-size" => refcount_cache_size: Option<i64>,
        /// Seconds after which unused tables leave memory.
        "cache-clean-interval" => cache_clean_interval: Option<i64>,
        /// Ours, as those that follow: the internal snapshot that is read in place of the present state.
        "snapshot" => snapshot: Option<String>,
        /// What becomes of it where its backing file has changed.
        "backing-validation" => backing_validation: Option<BackingValidation>,
        /// Nothing is written but what its backing image reads as.
        "keep-identity" => keep_identity: Option<bool>,
        /// It is opened to be checked.
        "check-only" => check_only: Option<bool>,
        /// Its tables are taken for what can be made of them.
        "salvage" => salvage: Option<bool>,
    }
}

qmp::enumeration! {
    /// What becomes of an image whose backing file has changed.
    pub enum BackingValidation {
        /// Nobody looks.
        Off = "off",
        /// It is opened, and an event says so.
        Warn = "warn",
        /// It is not opened.
        Refuse = "refuse",
    }
}
