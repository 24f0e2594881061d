//! The fields of fixed place, read but not yet checked (see `docs/formats/qcow2.md`, "Header").

use block::BlockError;

use crate::big_endian::{be32, be64};
use crate::header::Version;
use crate::{Features, HostOffset, corrupt, unsupported};

const MAGIC: u32 = u32::from_be_bytes(*b"QFI\xfb");
/// Length of a version 2 header.
const V2_LEN: u32 = 72;
/// Refcount width of version 2: 16 bits.
const V2_REFCOUNT_ORDER: u32 = 4;
/// Where the first optional field of version 3 is.
const COMPRESSION_TYPE_AT: u32 = 104;

/// The header as stored, with version 3's fields filled in for version 2.
pub(super) struct Fixed {
    pub(super) version: Version,
    pub(super) backing_offset: u64,
    pub(super) backing_len: u32,
    pub(super) cluster_bits: u32,
    pub(super) size: u64,
    pub(super) crypt_method: u32,
    pub(super) l1_entries: u32,
    pub(super) l1_offset: HostOffset,
    pub(super) refcount_offset: HostOffset,
    pub(super) refcount_clusters: u32,
    pub(super) snapshots: u32,
    pub(super) snapshots_offset: HostOffset,
    pub(super) features: Features,
    pub(super) refcount_order: u32,
    pub(super) header_len: u32,
    pub(super) compression_type: u8,
}

impl Fixed {
    /// Reads the fields; errors when this is no qcow2 image, one of another version, or cut short.
    pub(super) fn read(bytes: &[u8]) -> Result<Self, BlockError> {
        let version = version(bytes)?;
        let v2 = Self::read_v2(bytes, version);
        let whole = match version {
            Version::V2 => v2,
            Version::V3 => v2.and_then(|v2| v2.read_v3(bytes)),
        };
        whole.ok_or_else(|| {
            corrupt(format!("the file ends in the middle of the header ({} bytes)", bytes.len()))
        })
    }

    fn read_v2(bytes: &[u8], version: Version) -> Option<Self> {
        Some(Self {
            version,
            backing_offset: be64(bytes, 8)?,
            backing_len: be32(bytes, 16)?,
            cluster_bits: be32(bytes, 20)?,
            size: be64(bytes, 24)?,
            crypt_method: be32(bytes, 32)?,
            l1_entries: be32(bytes, 36)?,
            l1_offset: HostOffset(be64(bytes, 40)?),
            refcount_offset: HostOffset(be64(bytes, 48)?),
            refcount_clusters: be32(bytes, 56)?,
            snapshots: be32(bytes, 60)?,
            snapshots_offset: HostOffset(be64(bytes, 64)?),
            features: Features::default(),
            refcount_order: V2_REFCOUNT_ORDER,
            header_len: V2_LEN,
            compression_type: 0,
        })
    }

    fn read_v3(self, bytes: &[u8]) -> Option<Self> {
        let header_len = be32(bytes, 100)?;
        let compression_type =
            if header_len > COMPRESSION_TYPE_AT { *bytes.get(COMPRESSION_TYPE_AT as usize)? } else { 0 };
        let features = Features {
            incompatible: be64(bytes, 72)?,
            compatible: be64(bytes, 80)?,
            autoclear: be64(bytes, 88)?,
        };
        Some(Self { features, refcount_order: be32(bytes, 96)?, header_len, compression_type, ..self })
    }
}

fn version(bytes: &[u8]) -> Result<Version, BlockError> {
    if be32(bytes, 0) != Some(MAGIC) {
        return Err(corrupt("not a qcow2 image: it does not start with a qcow2 image's magic number"));
    }
    match be32(bytes, 4) {
        Some(2) => Ok(Version::V2),
        Some(3) => Ok(Version::V3),
        Some(other) => Err(unsupported(format!("qcow version {other} is not supported, only 2 and 3"))),
        None => Err(corrupt("the file ends in the middle of the header")),
    }
}
