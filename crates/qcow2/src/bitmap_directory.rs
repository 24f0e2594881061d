//! Persistent dirty bitmaps: the directory, and the table of each.
//!
//! Invariants: an entry that was parsed satisfies the format's constraints, so that its table has at most 512 MiB /
//! cluster size entries and lies at an aligned offset; a directory that is written as it was parsed is the same, byte
//! for byte, and flags change in place without tearing anything (each lies in one sector).

use block::BlockError;

use crate::big_endian::{be16, be32, be64};
use crate::{HostOffset, corrupt};

/// Bytes of an entry before its extra data.
const FIXED: usize = 24;
/// Longest name in bytes.
pub(crate) const MAX_NAME: usize = 1023;
/// Most entries of a bitmap's table.
const MAX_TABLE_ENTRIES: u32 = 0x800_0000;
/// Most bytes of a bitmap.
const MAX_BITMAP_BYTES: u64 = 0x2000_0000;
/// Flag: whoever wrote it last has not closed it.
const IN_USE: u32 = 1;
/// Flag: it is to be kept up to date whenever the image is written.
const AUTO: u32 = 2;
/// Flag: extra data may be ignored.
const EXTRA_COMPATIBLE: u32 = 4;
/// Granularities.
const MIN_GRANULARITY_BITS: u8 = 9;
const MAX_GRANULARITY_BITS: u8 = 31;
/// The only type there is.
const DIRTY_TRACKING: u8 = 1;

/// A persistent dirty bitmap, as the directory has it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct BitmapEntry {
    /// Its table.
    pub table: HostOffset,
    /// Number of its table's entries.
    pub table_entries: u32,
    /// Flags as stored.
    pub flags: u32,
    /// Base-2 logarithm of the bytes that a bit stands for, 9..=31.
    pub granularity_bits: u8,
    /// Extra data as stored.
    pub extra: Vec<u8>,
    /// Its name, at most 1023 bytes.
    pub name: Vec<u8>,
}

impl BitmapEntry {
    /// Parses the `count` entries of the directory `bytes` of an image with clusters of `2^cluster_bits` bytes and
    /// `virtual_size` bytes. `Corrupt` where it is broken or an entry breaks a constraint.
    pub fn parse_directory(
        bytes: &[u8],
        count: u32,
        cluster_bits: u32,
        virtual_size: u64,
    ) -> Result<Vec<Self>, BlockError> {
        let (mut entries, mut at) = (Vec::new(), 0);
        while at < bytes.len() {
            if entries.len() >= count as usize {
                return Err(broken(&format!("holds more than the {count} bitmaps of the header")));
            }
            let (entry, len) = Self::read(&bytes[at..]).ok_or_else(|| broken("is cut within an entry"))?;
            entry.check(&bytes[at..], cluster_bits, virtual_size)?;
            entries.push(entry);
            at += len;
        }
        if entries.len() < count as usize {
            return Err(broken(&format!("holds {} bitmaps, the header says {count}", entries.len())));
        }
        Ok(entries)
    }

    /// The bytes of a directory of these.
    pub fn directory_bytes(entries: &[Self]) -> Vec<u8> {
        let mut bytes = Vec::new();
        for entry in entries {
            let name = &entry.name[..entry.name.len().min(MAX_NAME)];
            bytes.extend(entry.table.0.to_be_bytes());
            bytes.extend(entry.table_entries.to_be_bytes());
            bytes.extend(entry.flags.to_be_bytes());
            bytes.extend([DIRTY_TRACKING, entry.granularity_bits]);
            bytes.extend((name.len() as u16).to_be_bytes());
            bytes.extend((entry.extra.len() as u32).to_be_bytes());
            bytes.extend(&entry.extra);
            bytes.extend(name);
            bytes.resize(bytes.len().next_multiple_of(8), 0);
        }
        bytes
    }

    /// The entry of a new bitmap, which is to be kept up to date or not. Its table has no place yet.
    pub fn new(name: Vec<u8>, granularity_bits: u8, auto: bool) -> Self {
        let flags = if auto { AUTO } else { 0 };
        Self { table: HostOffset(0), table_entries: 0, flags, granularity_bits, extra: Vec::new(), name }
    }

    /// The same, not closed or closed.
    #[must_use]
    pub fn with_in_use(self, in_use: bool) -> Self {
        let flags = if in_use { self.flags | IN_USE } else { self.flags & !IN_USE };
        Self { flags, ..self }
    }

    /// The same, to be kept up to date or not.
    #[must_use]
    pub fn with_auto(self, auto: bool) -> Self {
        let flags = if auto { self.flags | AUTO } else { self.flags & !AUTO };
        Self { flags, ..self }
    }

    /// Bytes that a bit stands for.
    pub const fn granularity(&self) -> u64 {
        1 << self.granularity_bits
    }

    /// Whether its content may be used: it was closed, and has no extra data that would have to be understood.
    pub const fn is_usable(&self) -> bool {
        !self.is_in_use() && (self.extra.is_empty() || self.flags & EXTRA_COMPATIBLE != 0)
    }

    /// Why a bitmap cannot be stored in an image with clusters of `2^cluster_bits` bytes and `virtual_size` bytes, in
    /// QEMU's words.
    pub fn refusal(name: &[u8], granularity: u64, cluster_bits: u32, virtual_size: u64) -> Option<String> {
        let most = (MAX_BITMAP_BYTES << 3).min(u64::from(MAX_TABLE_ENTRIES) << cluster_bits << 3);
        if granularity > 1 << MAX_GRANULARITY_BITS {
            Some(format!("Granularity exceeds maximum ({} bytes)", 1u64 << MAX_GRANULARITY_BITS))
        } else if granularity < 1 << MIN_GRANULARITY_BITS {
            Some(format!("Granularity is under minimum ({} bytes)", 1u64 << MIN_GRANULARITY_BITS))
        } else if name.len() > MAX_NAME {
            Some(format!("Name length exceeds maximum ({MAX_NAME} characters)"))
        } else if virtual_size.div_ceil(granularity) > most {
            Some("Too much space will be occupied by the bitmap. Use larger granularity".to_owned())
        } else {
            None
        }
    }

    /// Whether whoever wrote it last has not closed it: its content is not to be believed.
    pub const fn is_in_use(&self) -> bool {
        self.flags & IN_USE != 0
    }

    /// Whether it is to be kept up to date whenever the image is written.
    pub const fn is_auto(&self) -> bool {
        self.flags & AUTO != 0
    }

    /// What is wrong with a table that has more entries than a disk of `virtual_size` bytes needs: QEMU's tools open no
    /// image with one that counts.
    pub fn too_long(&self, cluster_bits: u32, virtual_size: u64) -> Option<String> {
        let bytes = virtual_size.div_ceil(self.granularity()).div_ceil(8);
        let needed = bytes.div_ceil(1 << cluster_bits).max(1);
        (!self.is_in_use() && u64::from(self.table_entries) > needed).then(|| {
            format!(
                "ERROR bitmap '{}': its table has {} entries, a disk of that size needs {needed}: remove it with 'bitmap --remove'",
                String::from_utf8_lossy(&self.name),
                self.table_entries
            )
        })
    }

    /// The first entry of `bytes`, and how many of them it takes.
    fn read(bytes: &[u8]) -> Option<(Self, usize)> {
        let name_len = usize::from(be16(bytes, 18)?);
        let extra_len = be32(bytes, 20)? as usize;
        let len = (FIXED + extra_len + name_len).next_multiple_of(8);
        let rest = bytes.get(FIXED..len)?;
        let (extra, name) = rest.split_at(extra_len);
        let entry = Self {
            table: HostOffset(be64(bytes, 0)?),
            table_entries: be32(bytes, 8)?,
            flags: be32(bytes, 12)?,
            granularity_bits: *bytes.get(17)?,
            extra: extra.to_vec(),
            name: name[..name_len].to_vec(),
        };
        Some((entry, len))
    }

    fn check(&self, bytes: &[u8], cluster_bits: u32, virtual_size: u64) -> Result<(), BlockError> {
        let name = String::from_utf8_lossy(&self.name);
        let fail = |what: &str| Err(corrupt(format!("bitmap '{name}' in the bitmap directory: {what}")));
        if bytes.get(16) != Some(&DIRTY_TRACKING) {
            return fail("it is of an unknown type");
        }
        if self.flags & !(IN_USE | AUTO | EXTRA_COMPATIBLE) != 0 {
            return fail("reserved flags are set");
        }
        if !(MIN_GRANULARITY_BITS..=MAX_GRANULARITY_BITS).contains(&self.granularity_bits)
            || self.name.len() > MAX_NAME
        {
            return fail("its granularity or its name is out of range");
        }
        let table_ok = self.table.0 != 0 && self.table.0 < 1 << 56 && self.table.is_aligned(cluster_bits);
        if !table_ok || self.table_entries == 0 || self.table_entries > MAX_TABLE_ENTRIES {
            return fail("its table lies or is empty");
        }
        // More than the disk needs is read no further than it goes, and stored right the next time.
        let bytes = u64::from(self.table_entries) << cluster_bits;
        if bytes > MAX_BITMAP_BYTES || !self.is_in_use() && virtual_size > bytes << 3 << self.granularity_bits
        {
            return fail("its size does not match that of the disk");
        }
        Ok(())
    }
}

/// An entry of a bitmap's table: where one cluster of the bitmap is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum BitmapCluster {
    /// Nowhere: all its bits are clear.
    Zeros,
    /// Nowhere: all its bits are set.
    Ones,
    /// Here.
    At(HostOffset),
}

impl BitmapCluster {
    /// The entry that says so.
    pub const fn entry(self) -> u64 {
        match self {
            Self::Zeros => 0,
            Self::Ones => 1,
            Self::At(offset) => offset.0,
        }
    }

    /// Reads an entry. `Corrupt` where reserved bits are set or the offset is not aligned.
    pub fn parse(entry: u64, cluster_bits: u32) -> Result<Self, BlockError> {
        const OFFSET: u64 = 0x00ff_ffff_ffff_fe00;
        let offset = HostOffset(entry & OFFSET);
        let lies = entry & !(OFFSET | 1) != 0 || offset.0 != 0 && entry & 1 != 0;
        if lies || !offset.is_aligned(cluster_bits) {
            return Err(corrupt(format!("entry {entry:#018x} of a bitmap table is none")));
        }
        Ok(match (offset.0, entry & 1) {
            (0, 0) => Self::Zeros,
            (0, _) => Self::Ones,
            _ => Self::At(offset),
        })
    }
}

fn broken(what: &str) -> BlockError {
    corrupt(format!("the bitmap directory {what}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(name: &str) -> BitmapEntry {
        BitmapEntry {
            table: HostOffset(0x50000),
            table_entries: 1,
            flags: AUTO,
            granularity_bits: 16,
            extra: vec![],
            name: name.into(),
        }
    }

    fn parse(bytes: &[u8], count: u32) -> Result<Vec<BitmapEntry>, BlockError> {
        BitmapEntry::parse_directory(bytes, count, 16, 1 << 30)
    }

    #[test]
    fn what_is_written_is_read() {
        let entries = vec![entry("a"), BitmapEntry { extra: vec![1, 2, 3], ..entry("another name") }];
        let bytes = BitmapEntry::directory_bytes(&entries);
        assert_eq!(parse(&bytes, 2).expect("good"), entries);
        assert!(parse(&bytes, 1).is_err() && parse(&bytes, 3).is_err());
        for len in 1..bytes.len() {
            assert!(parse(&bytes[..len], 2).is_err(), "{len} bytes");
        }
    }

    #[test]
    fn flags_change_in_place() {
        let entries =
            vec![entry("a"), BitmapEntry { extra: vec![1, 2, 3], ..entry("another name") }, entry("c")];
        let old = BitmapEntry::directory_bytes(&entries);
        let changed: Vec<_> =
            entries.into_iter().map(|entry| entry.with_in_use(true).with_auto(false)).collect();
        let new = BitmapEntry::directory_bytes(&changed);
        assert_eq!(old.len(), new.len());
        assert!(
            (0..old.len()).all(|at| old[at] == new[at] || at % 8 >= 4),
            "flags are the second half of 8 bytes"
        );
        assert_eq!(parse(&new, 3).expect("good"), changed);
    }

    #[test]
    fn extra_data_that_is_unknown_may_have_to_be_understood() {
        let extra = BitmapEntry { extra: vec![1], ..entry("a") };
        assert!(entry("a").is_usable() && !extra.is_usable());
        assert!(BitmapEntry { flags: EXTRA_COMPATIBLE, ..extra }.is_usable());
        assert!(!entry("a").with_in_use(true).is_usable());
    }

    #[test]
    fn what_cannot_be_stored_is_said_before() {
        let refusal = |granularity, size| BitmapEntry::refusal(b"b", granularity, 16, size);
        assert_eq!(refusal(65536, 1 << 40), None);
        assert!(refusal(1 << 32, 1).is_some_and(|why| why.contains("exceeds maximum")));
        assert!(refusal(256, 1).is_some_and(|why| why.contains("under minimum")));
        assert_eq!(refusal(512, 512 << 32), None);
        assert!(refusal(512, (512 << 32) + 1).is_some_and(|why| why.starts_with("Too much space")));
        assert!(BitmapEntry::refusal(&[b'x'; 1024], 512, 16, 1).is_some_and(|why| why.contains("1023")));
    }

    #[test]
    fn constraints_are_held() {
        let good = entry("a");
        for bad in [
            BitmapEntry { table: HostOffset(0), ..good.clone() },
            BitmapEntry { table: HostOffset(0x50200), ..good.clone() },
            BitmapEntry { table_entries: 0, ..good.clone() },
            BitmapEntry { table_entries: 0x2001, ..good.clone() },
            BitmapEntry { granularity_bits: 8, ..good.clone() },
            BitmapEntry { granularity_bits: 32, ..good.clone() },
            BitmapEntry { flags: 8, ..good.clone() },
        ] {
            assert!(parse(&BitmapEntry::directory_bytes(std::slice::from_ref(&bad)), 1).is_err(), "{bad:?}");
        }
        let bytes = BitmapEntry::directory_bytes(&[good]);
        assert!(BitmapEntry::parse_directory(&bytes, 1, 16, 1 << 40).is_err(), "too short for the disk");
    }

    #[test]
    fn table_entries_say_where() {
        let parse = |entry| BitmapCluster::parse(entry, 16).ok();
        assert_eq!(parse(0), Some(BitmapCluster::Zeros));
        assert_eq!(parse(1), Some(BitmapCluster::Ones));
        assert_eq!(parse(0x50000), Some(BitmapCluster::At(HostOffset(0x50000))));
        for entry in [0, 1, 0x50000] {
            assert_eq!(parse(entry).map(BitmapCluster::entry), Some(entry));
        }
        for lie in [2, 0x50001, 0x50200, 1 << 56, 1 << 63] {
            assert_eq!(parse(lie), None, "{lie:#x}");
        }
    }
}
