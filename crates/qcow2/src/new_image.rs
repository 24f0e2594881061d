//! Fresh images: what the file of an empty image holds.
//!
//! Layout as QEMU's: header, refcount table, refcount blocks, L1 table, each in whole clusters; with preallocation the
//! L2 tables follow, and then the clusters of data.
//!
//! Invariant: all of it is accounted for, and the refcount table is long enough for the whole disk, so that it need
//! not grow unless much leaks.

use block::{BlockError, ErrorKind};

use crate::extension::{DATA_FILE_NAME, FEATURE_NAMES};
use crate::feature::{COMPRESSION_TYPE, DATA_FILE, DATA_FILE_RAW, EXTENDED_L2, LAZY_REFCOUNTS};
use crate::header::layout::{self, Layout};
use crate::header::{Backing, DataFile, Version};
use crate::l2_entry::COPIED;
use crate::{Compression, HostOffset, L1Table, RefcountTable, UnknownExtension};

/// Largest disk in bytes: offsets in files are signed.
const MAX_SIZE: u64 = i64::MAX as u64;
/// Smallest clusters that can have subclusters, in bits.
const MIN_EXTENDED_BITS: u32 = 14;

/// What a fresh image shall be like.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct NewImage {
    /// Size of the virtual disk in bytes.
    pub size: u64,
    /// Base-2 logarithm of the cluster size, 9..=21; QEMU's default is 16.
    pub cluster_bits: u32,
    /// Its version; what version 2 cannot have is refused.
    pub version: Version,
    /// Width of a refcount in bits: 1, 2, 4, 8, 16 (QEMU's default), 32 or 64.
    pub refcount_bits: u32,
    /// Whether refcounts may be written late.
    pub lazy_refcounts: bool,
    /// Whether clusters have subclusters.
    pub extended_l2: bool,
    /// How compressed clusters are compressed.
    pub compression: Compression,
    /// Where guest data lies, if not in the image file.
    pub data_file: Option<DataFile>,
    /// Whether every cluster has its place from the start.
    pub preallocated: bool,
    /// Its backing image.
    pub backing: Option<Backing>,
    /// Extensions of its header that are not the format's own.
    pub extensions: Vec<UnknownExtension>,
    /// Autoclear bits to be set, such as [`crate::cache::AUTOCLEAR`].
    pub autoclear: u64,
}

/// The file of a fresh image.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct FreshImage {
    /// What to write where; all other bytes are zeros. The header is the last one, to be written behind `tables`.
    pub pieces: Vec<(HostOffset, Vec<u8>)>,
    /// The tables of a preallocated image.
    pub tables: Option<Preallocated>,
    /// The clusters of header and tables end here; what lies behind is room for data, of which it does not matter what
    /// it holds.
    pub tables_len: u64,
    /// Length of the file in bytes. Where nothing follows the L1 table it ends with that, as QEMU's does.
    pub len: u64,
}

/// The tables of a preallocated image, a cluster at a time: together they may be large.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Preallocated {
    plan: Plan,
    external: bool,
    next: u64,
}

impl NewImage {
    /// An image of version 3 without anything that can be left out.
    pub fn new(size: u64, cluster_bits: u32) -> Self {
        Self {
            size,
            cluster_bits,
            version: Version::V3,
            refcount_bits: 16,
            lazy_refcounts: false,
            extended_l2: false,
            compression: Compression::Deflate,
            data_file: None,
            preallocated: false,
            backing: None,
            extensions: Vec::new(),
            autoclear: 0,
        }
    }

    /// The same over a backing image.
    #[must_use]
    pub fn over(mut self, name: &str, format: &str) -> Self {
        self.backing = Some(Backing { name: name.to_owned(), format: Some(format.to_owned()) });
        self
    }

    /// What its file holds. `Invalid` where the cluster size is not one, the disk too large for it, the header
    /// does not fit a cluster, or options exclude one another.
    pub fn bytes(&self) -> Result<FreshImage, BlockError> {
        self.check()?;
        let plan = Plan::new(self)?;
        let cluster = plan.cluster();
        let blocks_at = (1 + plan.table) * cluster;
        let table: Vec<u8> = (0..plan.blocks).flat_map(|i| (blocks_at + i * cluster).to_be_bytes()).collect();
        let mut pieces = vec![(HostOffset(cluster), table)];
        let tables = self.preallocated.then(|| Preallocated {
            plan: plan.clone(),
            external: self.data_file.is_some(),
            next: 0,
        });
        if self.preallocated {
            let l2_at = plan.l2_at() * cluster;
            let l1 = (0..plan.l2).flat_map(|i| ((l2_at + i * cluster) | COPIED).to_be_bytes()).collect();
            pieces.push((HostOffset(plan.l1_at() * cluster), l1));
        } else {
            pieces.push((HostOffset(blocks_at), ones(plan.used(), self.refcount_bits)));
        }
        pieces.push((HostOffset(0), self.header(&plan)?));
        let (tables_len, used) = (plan.data_at() * cluster, plan.used() * cluster);
        let len = if self.preallocated { used } else { plan.l1_at() * cluster + plan.l1_entries * 8 };
        Ok(FreshImage { pieces, tables, tables_len, len })
    }

    /// Refuses what cannot be had together.
    fn check(&self) -> Result<(), BlockError> {
        let old = self.version == Version::V2;
        let raw_data = self.data_file.as_ref().is_some_and(|file| file.raw);
        let why = if !self.refcount_bits.is_power_of_two() || self.refcount_bits > 64 {
            "refcounts must have a power of two of bits, at most 64"
        } else if old && self.refcount_bits != 16 {
            "images of version 2 have refcounts of 16 bits"
        } else if old && (self.lazy_refcounts || self.extended_l2 || self.data_file.is_some()) {
            "images of version 2 have no lazy refcounts, no extended L2 entries and no data file"
        } else if old && self.compression != Compression::Deflate {
            "images of version 2 are compressed with zlib"
        } else if self.extended_l2 && self.cluster_bits < MIN_EXTENDED_BITS {
            "extended L2 entries need clusters of 16 KiB at least"
        } else if raw_data && self.backing.is_some() {
            "an image whose data file is raw has no backing file"
        } else if self.preallocated && self.backing.is_some() && !self.extended_l2 {
            "an image with a backing file is preallocated only with extended L2 entries"
        } else {
            return Ok(());
        };
        Err(invalid(why.to_owned()))
    }

    fn header(&self, plan: &Plan) -> Result<Vec<u8>, BlockError> {
        let cluster = plan.cluster();
        let mut fixed = match self.version {
            Version::V2 => layout::fixed_v2(self.cluster_bits, self.size),
            Version::V3 => layout::fixed_v3(self.cluster_bits, self.size, self.refcount_bits.ilog2()),
        };
        // At most 4 Mi entries and 16 Ki clusters.
        let l1_at = if plan.l1_entries == 0 { 0 } else { plan.l1_at() * cluster };
        layout::put_tables(&mut fixed, (l1_at, plan.l1_entries as u32), (cluster, plan.table as u32));
        let mut layout =
            Layout { fixed, extensions: Vec::new(), backing_name: None, cluster_size: cluster as usize };
        if self.version == Version::V3 {
            self.put_features(&mut layout);
        }
        layout.set_backing(self.backing.as_ref())?;
        for extension in &self.extensions {
            layout.set_extension(extension.kind, &extension.data);
        }
        layout.bytes()
    }

    fn put_features(&self, layout: &mut Layout) {
        let bit = |wanted: bool, bit: u64| if wanted { bit } else { 0 };
        let zstd = self.compression == Compression::Zstd;
        let incompatible = bit(self.data_file.is_some(), DATA_FILE)
            | bit(zstd, COMPRESSION_TYPE)
            | bit(self.extended_l2, EXTENDED_L2);
        let compatible = bit(self.lazy_refcounts, LAZY_REFCOUNTS);
        layout::put_features(&mut layout.fixed, incompatible, compatible, u8::from(zstd));
        if let Some(DataFile { name: Some(name), .. }) = &self.data_file {
            layout.set_extension(DATA_FILE_NAME, name.as_bytes());
        }
        layout.set_extension(FEATURE_NAMES, &layout::feature_names());
        let raw = self.data_file.as_ref().is_some_and(|file| file.raw);
        layout.change_autoclear(self.autoclear | bit(raw, DATA_FILE_RAW), 0);
    }
}

/// So many counters of one, from the front of refcount blocks on.
fn ones(count: u64, bits: u32) -> Vec<u8> {
    match bits {
        8.. => {
            let width = (bits / 8) as usize;
            let mut bytes = vec![0; count as usize * width];
            bytes.chunks_exact_mut(width).for_each(|counter| counter[width - 1] = 1);
            bytes
        }
        _ => {
            let mut bytes = vec![0; (count * u64::from(bits)).div_ceil(8) as usize];
            for at in 0..count * u64::from(bits) {
                if at % u64::from(bits) == 0 {
                    bytes[(at / 8) as usize] |= 1 << (at % 8);
                }
            }
            bytes
        }
    }
}

impl Iterator for Preallocated {
    type Item = (HostOffset, Vec<u8>);

    /// The next table: refcount blocks first, then L2 tables.
    fn next(&mut self) -> Option<Self::Item> {
        let (plan, at) = (&self.plan, self.next);
        self.next += 1;
        let cluster = plan.cluster();
        if at < plan.blocks {
            let per_block = plan.per_block();
            let count = plan.used().saturating_sub(at * per_block).min(per_block);
            return Some((HostOffset((1 + plan.table + at) * cluster), ones(count, plan.refcount_bits)));
        }
        let table = at - plan.blocks;
        if table >= plan.l2 {
            return None;
        }
        let first = table * plan.per_table();
        let entries = plan.per_table().min(plan.guest_clusters - first);
        let base = if self.external { 0 } else { plan.data_at() * cluster };
        let mut bytes = Vec::with_capacity((entries * plan.entry_bytes) as usize);
        for guest in first..first + entries {
            bytes.extend_from_slice(&((base + guest * cluster) | COPIED).to_be_bytes());
            // No subcluster has data yet.
            bytes.resize(bytes.len() + plan.entry_bytes as usize - 8, 0);
        }
        Some((HostOffset((plan.l2_at() + table) * cluster), bytes))
    }
}

/// How many clusters of what there are.
#[derive(Clone, PartialEq, Eq, Debug)]
struct Plan {
    cluster_bits: u32,
    refcount_bits: u32,
    entry_bytes: u64,
    guest_clusters: u64,
    table: u64,
    blocks: u64,
    l1: u64,
    l1_entries: u64,
    /// L2 tables that are there from the start.
    l2: u64,
    /// Clusters of guest data in this file that are there from the start.
    data: u64,
}

impl Plan {
    fn new(image: &NewImage) -> Result<Self, BlockError> {
        let (size, cluster_bits) = (image.size, image.cluster_bits);
        if !(9..=21).contains(&cluster_bits) {
            return Err(invalid(format!(
                "cluster size 2^{cluster_bits}: must be 512 B (2^9) to 2 MiB (2^21)"
            )));
        }
        let cluster = 1u64 << cluster_bits;
        let entry_bytes = if image.extended_l2 { 16 } else { 8 };
        let guest_clusters = size.div_ceil(cluster);
        // An empty disk has none, and gets them when it grows.
        let l1_entries = guest_clusters.div_ceil(cluster / entry_bytes);
        if size > MAX_SIZE || l1_entries * 8 > L1Table::BYTES_MAX {
            return Err(too_large(size, cluster));
        }
        let l1 = (l1_entries * 8).div_ceil(cluster);
        let external = image.data_file.is_some();
        let mut plan = Self {
            cluster_bits,
            refcount_bits: image.refcount_bits,
            entry_bytes,
            guest_clusters,
            table: 1,
            blocks: 1,
            l1,
            l1_entries,
            l2: if image.preallocated { l1_entries } else { 0 },
            data: if image.preallocated && !external { guest_clusters } else { 0 },
        };
        // Room to count all that the disk may hold, as far as a table can: a disk need never be full.
        let most = RefcountTable::BYTES_MAX / cluster;
        plan.table = plan.table_clusters(guest_clusters + l1_entries + l1 + 1).min(most);
        while plan.blocks < plan.used().div_ceil(plan.per_block()) {
            plan.blocks = plan.used().div_ceil(plan.per_block());
        }
        if plan.blocks * 8 > plan.table * cluster {
            return Err(too_large(size, cluster));
        }
        Ok(plan)
    }

    fn cluster(&self) -> u64 {
        1 << self.cluster_bits
    }

    /// Counters of a refcount block.
    fn per_block(&self) -> u64 {
        self.cluster() * 8 / u64::from(self.refcount_bits)
    }

    /// Entries of an L2 table.
    fn per_table(&self) -> u64 {
        self.cluster() / self.entry_bytes
    }

    fn l1_at(&self) -> u64 {
        1 + self.table + self.blocks
    }

    fn l2_at(&self) -> u64 {
        self.l1_at() + self.l1
    }

    fn data_at(&self) -> u64 {
        self.l2_at() + self.l2
    }

    fn used(&self) -> u64 {
        self.data_at() + self.data
    }

    /// Clusters of a refcount table that accounts for so many clusters, for the blocks that do so, and for itself.
    fn table_clusters(&self, clusters: u64) -> u64 {
        let (mut blocks, mut table) = (1, 1);
        loop {
            let wanted = (clusters + blocks + table).div_ceil(self.per_block()).max(1);
            let needed = (wanted * 8).div_ceil(self.cluster());
            if (wanted, needed) == (blocks, table) {
                return table;
            }
            (blocks, table) = (wanted, needed);
        }
    }
}

fn too_large(size: u64, cluster: u64) -> BlockError {
    invalid(format!(
        "a disk of {size} bytes is too large for clusters of {cluster} bytes: choose larger ones"
    ))
}

fn invalid(context: String) -> BlockError {
    BlockError::new(ErrorKind::Invalid, context)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Geometry, Header};

    fn file(image: &NewImage) -> Vec<u8> {
        let fresh = image.bytes().expect("fine");
        let mut bytes = vec![0; fresh.len as usize];
        for (at, piece) in fresh.pieces {
            bytes[at.0 as usize..][..piece.len()].copy_from_slice(&piece);
        }
        bytes
    }

    #[test]
    fn a_fresh_image_reads_as_it_was_asked_for() {
        for cluster_bits in 9..=21 {
            for size in [0, 1, 512, 1 << 20, (1 << 30) + 7] {
                let image = NewImage::new(size, cluster_bits);
                let bytes = file(&image);
                let header = Header::parse(&bytes[..1 << cluster_bits]).expect("a good header");
                assert_eq!((header.virtual_size, header.backing.clone()), (size, None));
                let l1 = Geometry::new(&header).l1_range(bytes.len() as u64).expect("inside the file");
                assert!(bytes[l1.start() as usize..l1.end() as usize].iter().all(|byte| *byte == 0));
            }
        }
    }

    #[test]
    fn names_and_extensions_are_there() {
        let data = b"future".to_vec();
        let extension = UnknownExtension { kind: 0x1234_5678, data };
        let image = NewImage {
            extensions: vec![extension.clone()],
            autoclear: 1 << 40,
            ..NewImage::new(1 << 30, 16).over("base.raw", "raw")
        };
        let header = Header::parse(&file(&image)[..1 << 16]).expect("a good header");
        assert_eq!(header.backing, image.backing);
        assert_eq!(header.unknown_extensions, [extension]);
        assert_eq!(header.features.autoclear, 1 << 40);
        // Where there is little room the names of features go first.
        let small = NewImage::new(1 << 20, 9).over(&"n".repeat(300), "qcow2");
        assert_eq!(Header::parse(&file(&small)[..512]).expect("a good header").backing, small.backing);
    }

    #[test]
    fn what_is_impossible_is_refused() {
        let refused = |image: NewImage| {
            assert_eq!(image.bytes().expect_err("refused").kind(), ErrorKind::Invalid, "{image:?}");
        };
        refused(NewImage::new(1, 8));
        refused(NewImage::new(1, 22));
        refused(NewImage::new(u64::MAX, 21));
        refused(NewImage::new(1 << 40, 9));
        refused(NewImage::new(1, 16).over(&"n".repeat(1024), "raw"));
        refused(NewImage::new(1, 16).over("", "raw"));
        refused(NewImage::new(1, 9).over(&"n".repeat(400), "raw"));
    }

    #[test]
    fn the_refcount_table_is_long_enough_for_the_whole_disk() {
        for cluster_bits in [9, 12, 16] {
            let size = 3 << 30;
            let plan = Plan::new(&NewImage::new(size, cluster_bits)).expect("fine");
            let cluster = 1u64 << cluster_bits;
            let accounted = plan.table * (cluster / 8) * (cluster / 2);
            let blocks = accounted.div_ceil(cluster / 2);
            assert!(accounted >= size / cluster + plan.l1_entries + plan.l1 + 1 + plan.table);
            assert!(blocks <= plan.table * (cluster / 8));
        }
    }

    #[test]
    fn features_are_in_the_header() {
        let image = NewImage {
            refcount_bits: 64,
            lazy_refcounts: true,
            extended_l2: true,
            compression: Compression::Zstd,
            data_file: Some(DataFile { name: Some("d".to_owned()), raw: true }),
            preallocated: true,
            ..NewImage::new(1 << 20, 16)
        };
        let header = Header::parse(&file(&image)[..1 << 16]).expect("a good header");
        assert_eq!(header.refcount_table.bits, 64);
        assert!(header.features.lazy_refcounts() && header.features.extended_l2());
        assert_eq!((header.compression, header.data_file), (Compression::Zstd, image.data_file.clone()));
        let old = NewImage { version: Version::V2, ..NewImage::new(1 << 20, 16) };
        assert_eq!(Header::parse(&file(&old)[..1 << 16]).expect("good").version, Version::V2);
        let refused = |image: NewImage| assert!(image.bytes().is_err(), "{image:?}");
        refused(NewImage { refcount_bits: 8, ..old.clone() });
        refused(NewImage { extended_l2: true, ..old });
        refused(NewImage { refcount_bits: 3, ..NewImage::new(1, 16) });
        refused(NewImage { extended_l2: true, ..NewImage::new(1, 13) });
        refused(NewImage { preallocated: true, ..NewImage::new(1, 16).over("b", "raw") });
    }
}
