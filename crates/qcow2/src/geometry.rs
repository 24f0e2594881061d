//! The arithmetic of an image: sizes and shifts that follow from its header.
//!
//! Invariant: every shift is below 64 and every span of guest bytes fits `u64`, since clusters have at most
//! 21 bits and L2 tables at most 18.

use block::{BlockError, ByteRange, ChildIndex};

use crate::header::Version;
use crate::l2_entry::{RESERVED, ZERO};
use crate::{Header, HostOffset, Snapshot, corrupt};

/// The child that holds the image file: metadata, and guest data unless there is a data file.
pub const FILE_CHILD: ChildIndex = ChildIndex(0);
/// The child that holds guest data of an image with an external data file.
pub const DATA_FILE_CHILD: ChildIndex = ChildIndex(1);

/// Bytes of an L2 slice unless [`Geometry::with_slice_bytes`] says otherwise.
const DEFAULT_SLICE_BYTES: usize = 4096;
/// Smallest slice: the smallest cluster.
const MIN_SLICE_BYTES: usize = 512;

/// Sizes and shifts of one image. Cheap to copy, never changes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Geometry {
    pub(crate) virtual_size: u64,
    pub(crate) cluster_bits: u32,
    /// Base-2 logarithm of the number of entries in an L2 table.
    pub(crate) l2_bits: u32,
    /// Base-2 logarithm of the number of entries in a slice.
    pub(crate) slice_bits: u32,
    /// Whether L2 entries have 128 bits.
    pub(crate) extended: bool,
    /// Whether guest data lies in an external data file.
    pub(crate) external: bool,
    /// Bits of a standard L2 entry that must be clear.
    pub(crate) reserved: u64,
    /// Whether tables are taken for what can be made of them.
    pub(crate) salvaging: bool,
    l1_offset: HostOffset,
    l1_entries: u32,
}

impl Geometry {
    /// The geometry that `header` describes, with slices of 4 KiB.
    pub fn new(header: &Header) -> Self {
        let extended = header.features.extended_l2();
        let has_zero_flag = header.version >= Version::V3 && !extended;
        let l2_bits = header.cluster_bits - if extended { 4 } else { 3 };
        Self {
            virtual_size: header.virtual_size,
            cluster_bits: header.cluster_bits,
            l2_bits,
            slice_bits: l2_bits,
            extended,
            external: header.data_file.is_some(),
            reserved: if has_zero_flag { RESERVED } else { RESERVED | ZERO },
            salvaging: false,
            l1_offset: header.l1_offset,
            l1_entries: header.l1_entries,
        }
        .with_slice_bytes(DEFAULT_SLICE_BYTES)
    }

    /// The same with slices of `bytes`, brought to a power of two from 512 to the cluster size. Slices of
    /// different lengths must not meet in one cache.
    #[must_use]
    pub fn with_slice_bytes(self, bytes: usize) -> Self {
        let largest = 1 << self.cluster_bits;
        let bytes = bytes.clamp(MIN_SLICE_BYTES, largest).next_power_of_two();
        Self { slice_bits: bytes.ilog2() - self.entry_bits(), ..self }
    }

    /// The same for who reads what is left of a broken image: reserved bits say nothing, and what is missing of an L2
    /// table maps nothing, as in QEMU. Not for images that are written to.
    #[must_use]
    pub fn salvaging(self) -> Self {
        // A zero flag where there is none could mean zeros: that one is still a lie.
        Self { salvaging: true, reserved: self.reserved & ZERO, ..self }
    }

    /// The same of the disk as an internal snapshot has it. `Corrupt` where its L1 table is none
    /// ([`Snapshot::check_l1`]), or too short for the disk.
    pub fn of_snapshot(self, snapshot: &Snapshot) -> Result<Self, BlockError> {
        let (offset, entries) = (snapshot.l1_offset, snapshot.l1_entries);
        let size = snapshot.disk_size.unwrap_or(self.virtual_size);
        snapshot.check_l1(self.cluster_bits)?;
        if u64::from(entries) < size.div_ceil(self.table_span()) {
            let name = String::from_utf8_lossy(&snapshot.name).into_owned();
            return Err(corrupt(format!(
                "internal snapshot '{name}': an L1 table of {entries} entries is too short for {size} bytes"
            )));
        }
        Ok(Self { virtual_size: size, l1_offset: offset, l1_entries: entries, ..self })
    }

    /// Size of the virtual disk in bytes.
    pub const fn virtual_size(&self) -> u64 {
        self.virtual_size
    }

    /// Size of a cluster in bytes, 512 to 2 MiB.
    pub const fn cluster_size(&self) -> u64 {
        1 << self.cluster_bits
    }

    /// Base-2 logarithm of the cluster size.
    pub const fn cluster_bits(&self) -> u32 {
        self.cluster_bits
    }

    /// Where the active L1 table begins.
    pub const fn l1_offset(&self) -> HostOffset {
        self.l1_offset
    }

    /// Size in bytes of what is allocated as one: a subcluster with extended L2 entries, else a cluster.
    pub const fn subcluster_size(&self) -> u64 {
        1 << self.subcluster_bits()
    }

    /// Guest bytes that one L2 table maps.
    pub const fn table_span(&self) -> u64 {
        1 << self.table_span_bits()
    }

    /// Guest bytes that one slice of an L2 table maps.
    pub const fn slice_span(&self) -> u64 {
        1 << self.slice_span_bits()
    }

    /// Bytes of a slice in the file.
    pub const fn slice_bytes(&self) -> usize {
        1 << (self.slice_bits + self.entry_bits())
    }

    /// Number of entries of the active L1 table.
    pub const fn l1_entries(&self) -> u32 {
        self.l1_entries
    }

    /// Which child [`block::Place::Data`] names: [`FILE_CHILD`], or [`DATA_FILE_CHILD`] where there is one.
    pub const fn data_child(&self) -> ChildIndex {
        if self.external { DATA_FILE_CHILD } else { FILE_CHILD }
    }

    /// Which bytes of the image file are the active L1 table: at most 32 MiB, none for an empty disk, wherever the
    /// header has its table. `Corrupt` where a file of `file_len` bytes does not hold them.
    pub fn l1_range(&self, file_len: u64) -> Result<ByteRange, BlockError> {
        if self.l1_entries == 0 {
            return Ok(ByteRange::between(0, 0));
        }
        let len = u64::from(self.l1_entries) * 8;
        // The header's check keeps the offset below 2^56 and the length below 2^26.
        let range = ByteRange::new(self.l1_offset.0, len);
        if range.end() > file_len {
            return Err(corrupt(format!(
                "L1 table ({len} bytes at {}) leaves the file of {file_len} bytes",
                self.l1_offset
            )));
        }
        Ok(range)
    }

    /// Base-2 logarithm of the bytes of an L2 entry.
    pub(crate) const fn entry_bits(&self) -> u32 {
        if self.extended { 4 } else { 3 }
    }

    pub(crate) const fn subcluster_bits(&self) -> u32 {
        if self.extended { self.cluster_bits - 5 } else { self.cluster_bits }
    }

    pub(crate) const fn table_span_bits(&self) -> u32 {
        self.cluster_bits + self.l2_bits
    }

    pub(crate) const fn slice_span_bits(&self) -> u32 {
        self.cluster_bits + self.slice_bits
    }
}
