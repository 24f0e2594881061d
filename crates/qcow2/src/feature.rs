//! Feature bits: which ones we know, and the names of those that we do not.

use block::BlockError;

use crate::extension::{self, RawExtensions};
use crate::unsupported;

/// Incompatible bit 0: refcounts may be wrong.
const DIRTY: u64 = 1 << 0;
/// Incompatible bit 1: any table may be wrong.
pub(crate) const CORRUPT: u64 = 1 << 1;
/// Incompatible bit 2: guest data lies in another file.
pub(crate) const DATA_FILE: u64 = 1 << 2;
/// Incompatible bit 3: compressed clusters are not deflate.
pub(crate) const COMPRESSION_TYPE: u64 = 1 << 3;
/// Incompatible bit 4: L2 entries of 128 bits, with subclusters.
pub(crate) const EXTENDED_L2: u64 = 1 << 4;
/// All incompatible bits that we know.
const KNOWN_INCOMPATIBLE: u64 = DIRTY | CORRUPT | DATA_FILE | COMPRESSION_TYPE | EXTENDED_L2;
/// Compatible bit 0: refcounts may be written late while the dirty bit is set.
pub(crate) const LAZY_REFCOUNTS: u64 = 1 << 0;
/// Autoclear bit 0: the bitmaps extension can be believed.
pub(crate) const BITMAPS: u64 = 1 << 0;
/// Autoclear bit 1: the data file reads as a raw image by itself.
pub(crate) const DATA_FILE_RAW: u64 = 1 << 1;
/// All autoclear bits that we know.
const KNOWN_AUTOCLEAR: u64 = BITMAPS | DATA_FILE_RAW;

/// Names of the bits above, as QEMU has them: which mask (0 incompatible, 1 compatible, 2 autoclear), which bit.
pub(crate) const NAMES: &[(u8, u8, &str)] = &[
    (0, 0, "dirty bit"),
    (0, 1, "corrupt bit"),
    (0, 2, "external data file"),
    (0, 3, "compression type"),
    (0, 4, "extended L2 entries"),
    (1, 0, "lazy refcounts"),
    (2, 0, "bitmaps"),
    (2, 1, "raw external data"),
];

/// Bytes of an entry of the feature name table: type, bit, 46 bytes of name.
const NAME_ENTRY: usize = 48;

/// The three bit masks of a version 3 header; all zero in version 2.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Features {
    /// Bits that a reader must know, or refuse the image.
    pub incompatible: u64,
    /// Bits that anybody may ignore.
    pub compatible: u64,
    /// Bits that a writer must clear unless it knows them.
    pub autoclear: u64,
}

impl Features {
    /// Whether refcounts may be wrong (harmless for reading).
    pub const fn dirty(self) -> bool {
        self.incompatible & DIRTY != 0
    }

    /// Whether a writer found contradictions before; the image must not be written.
    pub const fn corrupt(self) -> bool {
        self.incompatible & CORRUPT != 0
    }

    /// Whether guest data lies in an external data file.
    pub const fn data_file(self) -> bool {
        self.incompatible & DATA_FILE != 0
    }

    /// Whether the header names a compression type other than deflate.
    pub const fn compression_type(self) -> bool {
        self.incompatible & COMPRESSION_TYPE != 0
    }

    /// Whether L2 entries are extended ones, with subclusters.
    pub const fn extended_l2(self) -> bool {
        self.incompatible & EXTENDED_L2 != 0
    }

    /// Whether writers may delay refcount updates.
    pub const fn lazy_refcounts(self) -> bool {
        self.compatible & LAZY_REFCOUNTS != 0
    }

    /// Whether the bitmaps extension is consistent with the data.
    pub const fn bitmaps(self) -> bool {
        self.autoclear & BITMAPS != 0
    }

    /// The autoclear bit that says so.
    pub const BITMAPS: u64 = BITMAPS;

    /// Whether the external data file is a raw image of the disk by itself.
    pub const fn data_file_raw(self) -> bool {
        self.autoclear & DATA_FILE_RAW != 0
    }

    /// The autoclear bits that a writer which knows what we know must clear first.
    pub const fn unknown_autoclear(self) -> u64 {
        self.autoclear & !KNOWN_AUTOCLEAR
    }

    /// The incompatible bits that stand for something which version 2 has not. An image may be clean again, and of a
    /// compression type of which nothing is compressed.
    pub const fn beyond_version_2(self) -> u64 {
        self.incompatible & !(DIRTY | COMPRESSION_TYPE)
    }

    /// The autoclear bits that stay true whatever a writer of this project does: that the data file reads as the disk.
    pub const fn kept_autoclear(self) -> u64 {
        self.autoclear & DATA_FILE_RAW
    }

    /// Refuses the image by name when it has an incompatible bit that we do not know. The names come
    /// from the feature name table among the extensions, which start at byte `extensions` of `first`.
    pub(crate) fn refuse_unknown(self, first: &[u8], extensions: usize) -> Result<(), BlockError> {
        let unknown = self.incompatible & !KNOWN_INCOMPATIBLE;
        if unknown == 0 {
            return Ok(());
        }
        // In the words of QEMU: names in the order of the table, then the bits that it does not name.
        let (mut told, mut unnamed) = (Vec::new(), unknown);
        for (bit, name) in names_of_incompatible(name_table(first, extensions)) {
            if unnamed & bit != 0 {
                told.push(name.escape_debug().to_string());
                unnamed &= !bit;
            }
        }
        if unnamed != 0 {
            told.push(format!("Unknown incompatible feature: {unnamed:x}"));
        }
        Err(unsupported(format!("Unsupported qcow2 feature(s): {}", told.join(", "))))
    }
}

/// The feature name table, empty when there is none; errors behind it do not matter here.
fn name_table(first: &[u8], extensions: usize) -> &[u8] {
    RawExtensions::new(first, extensions, first.len())
        .map_while(Result::ok)
        .find(|(kind, _)| *kind == extension::FEATURE_NAMES)
        .map_or(&[], |(_, data)| data)
}

/// The incompatible bits, as masks, that `table` names. Its last entry may be cut short.
fn names_of_incompatible(table: &[u8]) -> impl Iterator<Item = (u64, String)> {
    table.chunks(NAME_ENTRY).filter_map(|entry| {
        let [0, bit @ 0..64, name @ ..] = entry else { return None };
        let name = name.split(|b| *b == 0).next()?;
        (!name.is_empty()).then(|| (1 << bit, String::from_utf8_lossy(name).into_owned()))
    })
}
