//! Fresh images: what the file of an empty version 3 image holds.
//!
//! Layout as QEMU's: header, refcount table, refcount blocks, L1 table, each in whole clusters.
//!
//! Invariant: all of it is accounted for, and the refcount table is long enough for the whole disk, so that it need
//! not grow unless much leaks.

use block::{BlockError, ErrorKind};

use crate::extension::FEATURE_NAMES;
use crate::header::Backing;
use crate::header::layout::{self, Layout};
use crate::{HostOffset, UnknownExtension};

/// Refcounts have 2^4 bits, as QEMU's default.
pub(crate) const REFCOUNT_ORDER: u32 = 4;
const REFCOUNT_BYTES: u64 = 2;
const MAX_L1_BYTES: u64 = 32 << 20;
const MAX_REFCOUNT_TABLE_BYTES: u64 = 8 << 20;
/// Largest disk in bytes: offsets in files are signed.
const MAX_SIZE: u64 = i64::MAX as u64;

/// What a fresh image shall be like.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct NewImage {
    /// Size of the virtual disk in bytes.
    pub size: u64,
    /// Base-2 logarithm of the cluster size, 9..=21; QEMU's default is 16.
    pub cluster_bits: u32,
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
    /// What to write where; all other bytes are zeros. The header is the last one.
    pub pieces: Vec<(HostOffset, Vec<u8>)>,
    /// Length of the file in bytes, a multiple of the cluster size.
    pub len: u64,
}

impl NewImage {
    /// An image without backing image and extensions.
    pub fn new(size: u64, cluster_bits: u32) -> Self {
        Self { size, cluster_bits, backing: None, extensions: Vec::new(), autoclear: 0 }
    }

    /// The same over a backing image.
    #[must_use]
    pub fn over(mut self, name: &str, format: &str) -> Self {
        self.backing = Some(Backing { name: name.to_owned(), format: Some(format.to_owned()) });
        self
    }

    /// What its file holds. `Invalid` where the cluster size is not one, the disk too large for it, or the header
    /// does not fit a cluster.
    pub fn bytes(&self) -> Result<FreshImage, BlockError> {
        let plan = Plan::new(self.size, self.cluster_bits)?;
        let cluster = 1u64 << self.cluster_bits;
        let blocks_at = (1 + plan.table) * cluster;
        let table: Vec<u8> = (0..plan.blocks).flat_map(|i| (blocks_at + i * cluster).to_be_bytes()).collect();
        let counts = 1u16.to_be_bytes().repeat(plan.used() as usize);
        let pieces = vec![
            (HostOffset(cluster), table),
            (HostOffset(blocks_at), counts),
            (HostOffset(0), self.header(&plan)?),
        ];
        Ok(FreshImage { pieces, len: plan.used() * cluster })
    }

    fn header(&self, plan: &Plan) -> Result<Vec<u8>, BlockError> {
        let cluster = 1 << self.cluster_bits;
        let mut fixed = layout::fixed_v3(self.cluster_bits, self.size);
        let l1 = (1 + plan.table + plan.blocks) * cluster;
        // At most 4 Mi entries and 16 Ki clusters.
        layout::put_tables(&mut fixed, (l1, plan.l1_entries as u32), (cluster, plan.table as u32));
        let mut layout =
            Layout { fixed, extensions: Vec::new(), backing_name: None, cluster_size: cluster as usize };
        layout.set_backing(self.backing.as_ref())?;
        layout.set_extension(FEATURE_NAMES, &layout::feature_names());
        for extension in &self.extensions {
            layout.set_extension(extension.kind, &extension.data);
        }
        layout.change_autoclear(self.autoclear, 0);
        layout.bytes()
    }
}

/// How many clusters of what there are.
struct Plan {
    table: u64,
    blocks: u64,
    l1: u64,
    l1_entries: u64,
}

impl Plan {
    fn new(size: u64, cluster_bits: u32) -> Result<Self, BlockError> {
        if !(9..=21).contains(&cluster_bits) {
            return Err(invalid(format!(
                "cluster size 2^{cluster_bits}: must be 512 B (2^9) to 2 MiB (2^21)"
            )));
        }
        let cluster = 1u64 << cluster_bits;
        // An empty disk has a table, too: it may grow.
        let l1_entries = size.div_ceil(cluster * (cluster / 8)).max(1);
        if size > MAX_SIZE || l1_entries * 8 > MAX_L1_BYTES {
            return Err(too_large(size, cluster));
        }
        let l1 = (l1_entries * 8).div_ceil(cluster);
        let table = table_clusters(size.div_ceil(cluster) + l1_entries + l1 + 1, cluster);
        if table * cluster > MAX_REFCOUNT_TABLE_BYTES {
            return Err(too_large(size, cluster));
        }
        let mut plan = Self { table, blocks: 1, l1, l1_entries };
        while plan.blocks * (cluster / REFCOUNT_BYTES) < plan.used() {
            plan.blocks += 1;
        }
        Ok(plan)
    }

    fn used(&self) -> u64 {
        1 + self.table + self.blocks + self.l1
    }
}

/// Clusters of a refcount table that accounts for so many clusters, for the blocks that do so, and for itself.
fn table_clusters(clusters: u64, cluster: u64) -> u64 {
    let per_block = cluster / REFCOUNT_BYTES;
    let (mut blocks, mut table) = (1, 1);
    loop {
        let wanted = (clusters + blocks + table).div_ceil(per_block).max(1);
        let needed = (wanted * 8).div_ceil(cluster);
        if (wanted, needed) == (blocks, table) {
            return table;
        }
        (blocks, table) = (wanted, needed);
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
            let plan = Plan::new(size, cluster_bits).expect("fine");
            let cluster = 1u64 << cluster_bits;
            let accounted = plan.table * (cluster / 8) * (cluster / 2);
            let blocks = accounted.div_ceil(cluster / 2);
            assert!(accounted >= size / cluster + plan.l1_entries + plan.l1 + 1 + plan.table);
            assert!(blocks <= plan.table * (cluster / 8));
        }
    }
}
