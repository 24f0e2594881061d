//! What the fields of a header must satisfy. The limits are the specification's and QEMU's.

use block::BlockError;

use crate::header::Version;
use crate::header::fixed::Fixed;
use crate::{Compression, HostOffset, L1Table, RefcountTable, corrupt, unsupported};

const MIN_CLUSTER_BITS: u32 = 9;
const MAX_CLUSTER_BITS: u32 = 21;
/// 32 subclusters of at least 512 bytes.
const MIN_EXTENDED_CLUSTER_BITS: u32 = 14;
const MIN_V3_LEN: u32 = 104;
const MAX_REFCOUNT_ORDER: u32 = 6;
/// Offsets in the file stay below 2^56.
const MAX_HOST_OFFSET: u64 = 1 << 56;

pub(super) fn header_len(fixed: &Fixed) -> Result<(), BlockError> {
    let len = fixed.header_len;
    if fixed.version == Version::V3 && (len < MIN_V3_LEN || !len.is_multiple_of(8)) {
        return Err(corrupt(format!(
            "header length {len}: must be a multiple of 8 and at least {MIN_V3_LEN}"
        )));
    }
    Ok(())
}

pub(super) fn encryption(fixed: &Fixed) -> Result<(), BlockError> {
    let method = match fixed.crypt_method {
        0 => return Ok(()),
        1 => "AES-CBC (method 1)".to_owned(),
        2 => "LUKS (method 2)".to_owned(),
        other => format!("unknown method {other}"),
    };
    Err(unsupported(format!("the image is encrypted with {method}, which is not supported")))
}

pub(super) fn cluster_bits(fixed: &Fixed) -> Result<(), BlockError> {
    let bits = fixed.cluster_bits;
    let fail = |rule: &str| Err(corrupt(format!("cluster size 2^{bits}: {rule}")));
    if !(MIN_CLUSTER_BITS..=MAX_CLUSTER_BITS).contains(&bits) {
        return fail("must be 512 B (2^9) to 2 MiB (2^21)");
    }
    if fixed.features.extended_l2() && bits < MIN_EXTENDED_CLUSTER_BITS {
        return fail("extended L2 entries need at least 16 KiB (2^14)");
    }
    if u64::from(fixed.header_len) > 1 << bits {
        return fail(&format!("too small for a header of {} bytes", fixed.header_len));
    }
    Ok(())
}

pub(super) fn compression(fixed: &Fixed) -> Result<Compression, BlockError> {
    let bit = fixed.features.compression_type();
    match (fixed.compression_type, bit) {
        (0, false) => Ok(Compression::Deflate),
        (1, true) => Ok(Compression::Zstd),
        (0, true) => Err(corrupt("the compression type is deflate, but the feature bit says another one")),
        (kind, false) => Err(corrupt(format!("compression type {kind} without its feature bit"))),
        (kind, true) => Err(unsupported(format!(
            "compression type {kind} is not supported, only deflate (0) and zstd (1)"
        ))),
    }
}

/// The three tables that the header points to.
pub(super) fn tables(fixed: &Fixed) -> Result<(), BlockError> {
    if fixed.refcount_order > MAX_REFCOUNT_ORDER {
        return Err(corrupt(format!(
            "refcount order {}: at most {MAX_REFCOUNT_ORDER}",
            fixed.refcount_order
        )));
    }
    aligned(fixed, "refcount table", fixed.refcount_offset)?;
    let refcount_bytes = u64::from(fixed.refcount_clusters) << fixed.cluster_bits;
    // Without any it can be checked, and repaired.
    if refcount_bytes > RefcountTable::BYTES_MAX {
        return Err(corrupt(format!("refcount table of {refcount_bytes} bytes, more than 8 MiB")));
    }
    aligned(fixed, "snapshot table", fixed.snapshots_offset)?;
    aligned(fixed, "L1 table", fixed.l1_offset)?;
    l1_size(fixed)
}

fn l1_size(fixed: &Fixed) -> Result<(), BlockError> {
    let bytes = u64::from(fixed.l1_entries) * 8;
    if bytes > L1Table::BYTES_MAX {
        return Err(corrupt(format!("L1 table of {bytes} bytes, more than 32 MiB")));
    }
    let l2_entry_bits = if fixed.features.extended_l2() { 4 } else { 3 };
    let guest_bits = 2 * fixed.cluster_bits - l2_entry_bits;
    let needed = fixed.size.div_ceil(1 << guest_bits);
    if u64::from(fixed.l1_entries) < needed {
        // In the words of QEMU.
        let is_possible = needed <= L1Table::BYTES_MAX / 8;
        return Err(corrupt(if is_possible { "L1 table is too small" } else { "Image is too big" }));
    }
    Ok(())
}

/// Offsets of tables are multiples of the cluster size below 2^56.
pub(super) fn aligned(fixed: &Fixed, what: &str, offset: HostOffset) -> Result<(), BlockError> {
    if offset.0 >= MAX_HOST_OFFSET || !offset.is_aligned(fixed.cluster_bits) {
        return Err(corrupt(format!(
            "{what} at {offset}: must be a multiple of the cluster size 2^{} below 2^56",
            fixed.cluster_bits
        )));
    }
    Ok(())
}
