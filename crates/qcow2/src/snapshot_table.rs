//! The table of internal snapshots: one entry after the other, each with texts of its own length.
//!
//! Invariant: what an entry claims is compared with the bytes that are there before anything is allocated for it.

use block::BlockError;

use crate::big_endian::{be16, be32, be64};
use crate::{HostOffset, L1Table, corrupt};

/// Bytes of an entry before its extra data.
const FIXED: usize = 40;
/// Extra data that every entry of a version 3 image has: size of the VM state, size of the disk.
const V3_EXTRA: usize = 16;
/// Extra data that we write: those, and the instruction count.
const WRITTEN_EXTRA: usize = 24;

/// An internal snapshot.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Snapshot {
    /// Where its L1 table is. Not checked: any number.
    pub l1_offset: HostOffset,
    /// Number of entries of that table. Not checked: any number.
    pub l1_entries: u32,
    /// Its id, unique in the image; as a rule a decimal number. No NUL.
    pub id: Vec<u8>,
    /// Its name. No NUL.
    pub name: Vec<u8>,
    /// When it was taken: seconds since 1970.
    pub date_s: u32,
    /// And nanoseconds.
    pub date_ns: u32,
    /// How long the guest had run, in nanoseconds.
    pub vm_clock_ns: u64,
    /// Bytes of VM state, which lie behind the virtual disk.
    pub vm_state_size: u64,
    /// Size of the disk when it was taken, in bytes; `None` in old images: the present one.
    pub disk_size: Option<u64>,
    /// Instructions that the guest had executed, where that was counted.
    pub icount: Option<u64>,
    /// Extra data behind these, as stored.
    pub unknown_extra: Vec<u8>,
}

/// What parsing the beginning of a table answers.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum ParsedSnapshots {
    /// All entries, and how many bytes of the file they take.
    Whole(Vec<Snapshot>, u64),
    /// So many bytes of the table are needed at the least.
    More(u64),
}

/// What is more than QEMU accepts.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Excess {
    /// The header's number of entries: so many are left out.
    Count { left: u32 },
    /// The extra data of an entry: so many bytes.
    Extra { entry: u32, len: usize },
    /// The table: so many entries lie behind its end, or across it.
    Table { left: u32 },
}

impl Snapshot {
    /// What is wrong with the L1 table of a snapshot, in QEMU's words.
    pub const L1_LIES: [&str; 2] = ["Snapshot L1 table too large", "Snapshot L1 table offset invalid"];
    /// Most snapshots of an image.
    pub(crate) const COUNT_MAX: usize = 65536;
    /// Longest table that QEMU accepts, in bytes.
    pub(crate) const TABLE_MAX: usize = 64 << 20;
    /// Most bytes of extra data that QEMU accepts.
    pub(crate) const EXTRA_MAX: usize = 1024;

    /// `Corrupt`, with one of [`Self::L1_LIES`], where its L1 table can be none in an image of such clusters: longer
    /// than 32 MiB, not aligned, or behind the end of all files.
    pub fn check_l1(&self, cluster_bits: u32) -> Result<(), BlockError> {
        let lie = if u64::from(self.l1_entries) * 8 > L1Table::BYTES_MAX {
            Self::L1_LIES[0]
        } else if !self.l1_offset.is_aligned(cluster_bits) || self.l1_offset.0 >= 1 << 56 {
            Self::L1_LIES[1]
        } else {
            return Ok(());
        };
        Err(corrupt(format!("internal snapshot '{}': {lie}", String::from_utf8_lossy(&self.name))))
    }

    /// Parses `count` entries from the first bytes of the table. `at_end`: the file has no more bytes; what is missing
    /// reads as zeros, as in QEMU.
    ///
    /// Errors: `Corrupt` where an entry has more than 1024 bytes of extra data or the table more than 64 MiB or 65536
    /// entries, in the words of QEMU.
    pub fn parse_table(bytes: &[u8], count: u32, at_end: bool) -> Result<ParsedSnapshots, BlockError> {
        Self::read_table(bytes, count, at_end, |excess| {
            let (what, which) = match excess {
                Excess::Count { left } => {
                    ("Snapshot table too large".to_owned(), format!("all {left} overhanging snapshots"))
                }
                Excess::Extra { entry, .. } => (
                    format!("Too much extra metadata in snapshot table entry {entry}"),
                    "this extra metadata".to_owned(),
                ),
                Excess::Table { left } => {
                    ("Snapshot table is too big".to_owned(), format!("all {left} overhanging snapshots"))
                }
            };
            Err(corrupt(format!("{what}; you can force-remove {which} with 'check -r all'")))
        })
    }

    /// The same of a table that is to be repaired: takes away what is too much, and tells `noted` of it.
    pub(crate) fn salvage_table(
        bytes: &[u8],
        count: u32,
        at_end: bool,
        mut noted: impl FnMut(Excess),
    ) -> Result<ParsedSnapshots, BlockError> {
        Self::read_table(bytes, count, at_end, |excess| {
            noted(excess);
            Ok(())
        })
    }

    /// Of what is too much `found` is told; if it has nothing against it, it is left out.
    fn read_table(
        bytes: &[u8],
        mut count: u32,
        at_end: bool,
        mut found: impl FnMut(Excess) -> Result<(), BlockError>,
    ) -> Result<ParsedSnapshots, BlockError> {
        let (mut snapshots, mut end) = (Vec::new(), 0usize);
        if count > Self::COUNT_MAX as u32 {
            found(Excess::Count { left: count - Self::COUNT_MAX as u32 })?;
            count = Self::COUNT_MAX as u32;
        }
        for entry in 0..count {
            let at = end.next_multiple_of(8);
            let Some(head) = part(bytes, at, FIXED, at_end) else {
                return Ok(ParsedSnapshots::More((at + FIXED) as u64));
            };
            let mut lengths = Lengths::read(&head);
            let after = at + FIXED + lengths.sum();
            let texts = at + FIXED + lengths.extra;
            if lengths.extra > Self::EXTRA_MAX {
                found(Excess::Extra { entry, len: lengths.extra })?;
                lengths.extra = Self::EXTRA_MAX;
            }
            if after > Self::TABLE_MAX {
                found(Excess::Table { left: count - entry })?;
                break;
            }
            let extra = part(bytes, at + FIXED, lengths.extra, at_end);
            let texts = part(bytes, texts, lengths.id + lengths.name, at_end);
            let (Some(extra), Some(texts)) = (extra, texts) else {
                return Ok(ParsedSnapshots::More(after as u64));
            };
            snapshots.push(Self::read(&head, &extra, &texts, &lengths));
            end = after;
        }
        Ok(ParsedSnapshots::Whole(snapshots, end as u64))
    }

    /// The bytes of a table of these.
    pub fn table_bytes(snapshots: &[Self]) -> Vec<u8> {
        let mut bytes = Vec::new();
        for snapshot in snapshots {
            bytes.resize(bytes.len().next_multiple_of(8), 0);
            snapshot.write(&mut bytes);
        }
        bytes
    }

    /// Whether a version 3 image may hold it as it is: its disk size is there.
    pub const fn is_complete(&self) -> bool {
        self.disk_size.is_some()
    }

    /// Most bytes that it takes in a table.
    pub(crate) fn stored_bytes_max(&self) -> usize {
        FIXED + WRITTEN_EXTRA + self.unknown_extra.len() + self.id.len() + self.name.len() + 8
    }

    fn read(head: &[u8], extra: &[u8], texts: &[u8], lengths: &Lengths) -> Self {
        let word = |bytes: &[u8], at| be64(bytes, at).unwrap_or_default();
        let half = |at| be32(head, at).unwrap_or_default();
        let (id, name) = texts.split_at(lengths.id);
        Self {
            l1_offset: HostOffset(word(head, 0)),
            l1_entries: half(8),
            id: until_nul(id),
            name: until_nul(name),
            date_s: half(16),
            date_ns: half(20),
            vm_clock_ns: word(head, 24),
            vm_state_size: be64(extra, 0).unwrap_or_else(|| half(32).into()),
            disk_size: (extra.len() >= V3_EXTRA).then(|| word(extra, 8)),
            icount: (extra.len() >= WRITTEN_EXTRA).then(|| word(extra, 16)),
            unknown_extra: extra.get(WRITTEN_EXTRA..).unwrap_or_default().to_vec(),
        }
    }

    fn write(&self, bytes: &mut Vec<u8>) {
        let len = |text: &[u8]| u16::try_from(text.len()).unwrap_or(u16::MAX);
        let extra = WRITTEN_EXTRA + self.unknown_extra.len();
        bytes.extend(self.l1_offset.0.to_be_bytes());
        bytes.extend(self.l1_entries.to_be_bytes());
        bytes.extend(len(&self.id).to_be_bytes());
        bytes.extend(len(&self.name).to_be_bytes());
        bytes.extend(self.date_s.to_be_bytes());
        bytes.extend(self.date_ns.to_be_bytes());
        bytes.extend(self.vm_clock_ns.to_be_bytes());
        // Who knows only this field takes a larger state for none.
        bytes.extend(u32::try_from(self.vm_state_size).unwrap_or(0).to_be_bytes());
        bytes.extend((extra as u32).to_be_bytes());
        bytes.extend(self.vm_state_size.to_be_bytes());
        bytes.extend(self.disk_size.unwrap_or(0).to_be_bytes());
        bytes.extend(self.icount.unwrap_or(u64::MAX).to_be_bytes());
        bytes.extend(&self.unknown_extra);
        bytes.extend(&self.id[..len(&self.id).into()]);
        bytes.extend(&self.name[..len(&self.name).into()]);
    }
}

/// Lengths of what follows the fixed part.
struct Lengths {
    extra: usize,
    id: usize,
    name: usize,
}

impl Lengths {
    fn read(head: &[u8]) -> Self {
        Self {
            extra: be32(head, 36).unwrap_or_default() as usize,
            id: be16(head, 12).unwrap_or_default().into(),
            name: be16(head, 14).unwrap_or_default().into(),
        }
    }

    fn sum(&self) -> usize {
        self.extra + self.id + self.name
    }
}

/// A text ends at its first NUL, as for QEMU.
fn until_nul(text: &[u8]) -> Vec<u8> {
    text.split(|byte| *byte == 0).next().unwrap_or_default().to_vec()
}

/// `len` bytes from `at` on; at the end of the file zeros stand for what is missing.
fn part(bytes: &[u8], at: usize, len: usize, at_end: bool) -> Option<Vec<u8>> {
    match bytes.get(at..).and_then(|rest| rest.get(..len)) {
        Some(part) => Some(part.to_vec()),
        None if at_end => {
            let mut part = bytes.get(at..).unwrap_or_default().to_vec();
            part.resize(len, 0);
            Some(part)
        }
        None => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn snapshot(id: &str, name: &str) -> Snapshot {
        Snapshot {
            l1_offset: HostOffset(0x50000),
            l1_entries: 3,
            id: id.into(),
            name: name.into(),
            date_s: 1_700_000_000,
            date_ns: 5,
            vm_clock_ns: 1 << 40,
            vm_state_size: 1 << 33,
            disk_size: Some(1 << 30),
            icount: None,
            unknown_extra: vec![],
        }
    }

    #[test]
    fn what_is_written_is_read() {
        let mut second = snapshot("2", "a name");
        second.unknown_extra = vec![1, 2, 3];
        second.icount = Some(77);
        let first = Snapshot { icount: Some(u64::MAX), ..snapshot("1", "x") };
        let table = [first, second];
        let bytes = Snapshot::table_bytes(&table);
        let parsed = Snapshot::parse_table(&bytes, 2, false).expect("good");
        assert_eq!(parsed, ParsedSnapshots::Whole(table.to_vec(), bytes.len() as u64));
    }

    #[test]
    fn a_table_that_goes_on_is_asked_for() {
        let bytes = Snapshot::table_bytes(&[snapshot("1", "x"), snapshot("2", "y")]);
        for len in 0..bytes.len() {
            match Snapshot::parse_table(&bytes[..len], 2, false).expect("good") {
                ParsedSnapshots::More(more) => assert!(more > len as u64 && more <= bytes.len() as u64),
                ParsedSnapshots::Whole(..) => panic!("{len} bytes are not all"),
            }
            let zeros = Snapshot::parse_table(&bytes[..len], 2, true);
            assert!(matches!(zeros, Ok(ParsedSnapshots::Whole(found, _)) if found.len() == 2));
        }
    }

    #[test]
    fn what_is_too_much_is_taken_away_in_a_repair() {
        let mut long = snapshot("2", "y");
        long.icount = Some(1);
        long.unknown_extra = vec![7; 2000];
        let table = Snapshot::table_bytes(&[snapshot("1", "x"), long, snapshot("3", "z")]);
        // The last one claims more than a table may have.
        let mut bytes = table;
        let last = bytes.len() - 40 - 24 - 2;
        bytes[last + 36..last + 40].copy_from_slice(&u32::MAX.to_be_bytes());
        let mut noted = Vec::new();
        let parsed = Snapshot::salvage_table(&bytes, 5, true, |excess| noted.push(excess)).expect("mended");
        let longest = Excess::Extra { entry: 2, len: u32::MAX as usize };
        assert_eq!(noted, [Excess::Extra { entry: 1, len: 2024 }, longest, Excess::Table { left: 3 }]);
        let ParsedSnapshots::Whole(found, len) = parsed else { panic!("all is there") };
        assert_eq!((found.len(), found[1].unknown_extra.len(), &found[1].name[..]), (2, 1000, &b"y"[..]));
        assert!(len <= last as u64 && len + 8 > last as u64);
        assert!(matches!(
            Snapshot::parse_table(&Snapshot::table_bytes(&found), 2, false),
            Ok(ParsedSnapshots::Whole(..))
        ));
    }

    #[test]
    fn texts_end_at_a_nul() {
        let bytes = Snapshot::table_bytes(&[snapshot("1\0\0", "na\0me"), snapshot("\0", "")]);
        let Ok(ParsedSnapshots::Whole(found, _)) = Snapshot::parse_table(&bytes, 2, false) else {
            panic!("whole")
        };
        let texts: Vec<_> = found.iter().map(|found| (&found.id[..], &found.name[..])).collect();
        assert_eq!(texts, [(&b"1"[..], &b"na"[..]), (b"", b"")]);
    }

    #[test]
    fn more_than_there_may_be_are_refused_and_left_out_by_a_repair() {
        let most = Snapshot::COUNT_MAX as u32;
        assert!(Snapshot::parse_table(&[], most, true).is_ok(), "of version 2 all zeros may be entries");
        let refused = Snapshot::parse_table(&[], most + 7, true).expect_err("more");
        assert!(refused.to_string().contains("all 7 overhanging snapshots"), "{refused}");
        let mut noted = Vec::new();
        let parsed = Snapshot::salvage_table(&[], most + 7, true, |excess| noted.push(excess));
        assert!(matches!(parsed, Ok(ParsedSnapshots::Whole(found, _)) if found.len() == most as usize));
        assert_eq!(noted, [Excess::Count { left: 7 }]);
    }

    #[test]
    fn lies_are_refused() {
        let mut bytes = Snapshot::table_bytes(&[snapshot("1", "x")]);
        bytes[36..40].copy_from_slice(&1025u32.to_be_bytes());
        assert!(Snapshot::parse_table(&bytes, 1, true).is_err());
        // Texts of 65535 bytes in each of 512 entries.
        let mut long = vec![0; 131_112];
        long[12..16].copy_from_slice(&[0xff; 4]);
        assert!(Snapshot::parse_table(&long.repeat(512), 512, true).is_err(), "more than 64 MiB");
    }
}
