//! Changes of what kind of image it is, as states of its first cluster: version, lazy refcounts, name of the data file,
//! extensions.
//!
//! Invariant: wherever all that says so fits the first sector, it is one sector that switches from the old header to
//! the new one; what it points to is written before, where the old one has nothing.

use block::BlockError;

use crate::extension::{DATA_FILE_NAME, FEATURE_NAMES};
use crate::feature::LAZY_REFCOUNTS;
use crate::header::layout::{
    self, BACKING_LEN_AT, BACKING_OFFSET_AT, Layout, feature_names, fixed_v2, fixed_v3, put32, put64,
};
use crate::header::{Header, Version};
use crate::{corrupt, unsupported};

/// What is written whole or not at all, in bytes.
const SECTOR: usize = 512;
/// Bytes of a version 2 header that version 3 has, too.
const COMMON: usize = 72;
/// Where the compatible feature bits are.
const COMPATIBLE_AT: usize = 80;
/// Base-2 logarithm of the refcount width that version 2 has.
const V2_REFCOUNT_ORDER: u32 = 4;

/// The states in which the image becomes one of that version. The caller has seen to it that its tables hold nothing
/// that the version does not know.
pub(super) fn version(first: &[u8], to: Version) -> Result<Vec<Vec<u8>>, BlockError> {
    let header = Header::parse(first)?;
    if header.version == to {
        return Ok(Vec::new());
    }
    let mut layout = Layout::parse(first)?;
    let bits = header.cluster_bits;
    let mut fixed = match to {
        Version::V3 => fixed_v3(bits, header.virtual_size, V2_REFCOUNT_ORDER),
        Version::V2 => fixed_v2(bits, header.virtual_size),
    };
    // All but the version, which is in bytes 4 to 7.
    fixed[8..COMMON].copy_from_slice(&layout.fixed[8..COMMON]);
    layout.fixed = fixed;
    layout.extensions.retain(|(kind, _)| *kind != FEATURE_NAMES);
    if to == Version::V3 {
        let named = Layout {
            extensions: [layout.extensions.clone(), vec![(FEATURE_NAMES, feature_names())]].concat(),
            ..layout.clone()
        };
        if let Ok(states) = in_one_sector(first, &named) {
            return Ok(states);
        }
    }
    in_one_sector(first, &layout)
}

/// The states in which refcounts may be written late from then on, or not.
pub(super) fn lazy_refcounts(first: &[u8], on: bool) -> Result<Vec<Vec<u8>>, BlockError> {
    if Header::parse(first)?.version == Version::V2 {
        return Err(unsupported("Lazy refcounts need version 3"));
    }
    let mut next = first.to_vec();
    let old = crate::big_endian::be64(first, COMPATIBLE_AT).unwrap_or(0);
    let new = if on { old | LAZY_REFCOUNTS } else { old & !LAZY_REFCOUNTS };
    put64(&mut next, COMPATIBLE_AT, new);
    Ok(vec![next])
}

/// The states in which the data file has that name, or none.
pub(super) fn data_file_name(first: &[u8], name: Option<&str>) -> Result<Vec<Vec<u8>>, BlockError> {
    if Header::parse(first)?.data_file.is_none() {
        return Err(unsupported("the image has no data file"));
    }
    let mut layout = Layout::parse(first)?;
    match name {
        Some(name) => layout.set_extension(DATA_FILE_NAME, name.as_bytes()),
        None => layout.extensions.retain(|(kind, _)| *kind != DATA_FILE_NAME),
    }
    to_layout(first, layout)
}

/// The states in which the extension is there, and the autoclear bits are set.
pub(super) fn extension(
    first: &[u8],
    kind: u32,
    data: &[u8],
    autoclear: u64,
) -> Result<Vec<Vec<u8>>, BlockError> {
    let mut layout = Layout::parse(first)?;
    layout.set_extension(kind, data);
    layout.change_autoclear(autoclear, 0);
    to_layout(first, layout)
}

/// The states to that layout: in one sector, if need be without the names of feature bits, which nobody has to have;
/// else in one go over several.
fn to_layout(first: &[u8], wanted: Layout) -> Result<Vec<Vec<u8>>, BlockError> {
    if let Ok(states) = in_one_sector(first, &wanted) {
        return Ok(states);
    }
    let mut unnamed = wanted.clone();
    unnamed.extensions.retain(|(kind, _)| *kind != FEATURE_NAMES);
    if let Ok(states) = in_one_sector(first, &unnamed) {
        return Ok(states);
    }
    let mut bytes = wanted.bytes()?;
    bytes.resize(first.len(), 0);
    Ok(vec![bytes])
}

/// The states from `first` to `wanted`, the last step of which is one sector. An error where that cannot be.
fn in_one_sector(first: &[u8], wanted: &Layout) -> Result<Vec<Vec<u8>>, BlockError> {
    let name = wanted.backing_name.as_deref().unwrap_or_default();
    let whole = Layout { backing_name: None, ..wanted.clone() }.bytes()?;
    let front = SECTOR.min(first.len());
    if whole.len() > front {
        return Err(corrupt("its header extensions do not fit the first sector beside the new header"));
    }
    let room = if whole.len() + name.len() <= front { whole.len() } else { behind(first, name)? };
    let mut named = first.to_vec();
    if room >= front {
        named[room..room + name.len()].copy_from_slice(name.as_bytes());
    }
    let mut next = named.clone();
    next[..front].fill(0);
    next[..whole.len()].copy_from_slice(&whole);
    if !name.is_empty() {
        next[room..room + name.len()].copy_from_slice(name.as_bytes());
        put64(&mut next, BACKING_OFFSET_AT, room as u64);
        put32(&mut next, BACKING_LEN_AT, name.len() as u32);
    }
    Ok(vec![named, next])
}

/// Room for a backing file name behind the first sector, and behind all that the present header has.
fn behind(first: &[u8], name: &str) -> Result<usize, BlockError> {
    layout::check_name(name)?;
    let old = crate::big_endian::be64(first, BACKING_OFFSET_AT).unwrap_or(0) as usize;
    let len = crate::big_endian::be32(first, BACKING_LEN_AT).unwrap_or(0) as usize;
    let extensions = Layout { backing_name: None, ..Layout::parse(first)? }.bytes()?.len();
    let at = (old + len).max(extensions).max(SECTOR).next_multiple_of(8);
    match at + name.len() <= first.len() {
        true => Ok(at),
        false => Err(corrupt("its backing file name does not fit the first cluster beside the new header")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{HeaderEdit, NewImage, UnknownExtension};

    fn first(version: Version, name: &str, extra: usize) -> Vec<u8> {
        let mut image = NewImage { version, ..NewImage::new(1 << 20, 16) };
        if !name.is_empty() {
            image = image.over(name, "qcow2");
        }
        if extra > 0 {
            image.extensions = vec![UnknownExtension { kind: 77, data: vec![5; extra] }];
        }
        let fresh = image.bytes().expect("fine");
        let mut bytes = fresh.pieces.last().expect("a header").1.clone();
        bytes.resize(1 << 16, 0);
        bytes
    }

    /// Carries an edit out, and sees that whatever a crash leaves is the old or the new header.
    fn changed(first: &[u8], edit: &HeaderEdit) -> Vec<u8> {
        let mut now = first.to_vec();
        let old = Header::parse(&now).expect("good");
        let mut states = vec![old.clone()];
        for write in edit.writes(first).expect("possible") {
            let at = write.offset as usize;
            for (number, sector) in write.bytes.chunks(SECTOR).enumerate() {
                now[at + number * SECTOR..][..sector.len()].copy_from_slice(sector);
                states.push(Header::parse(&now).expect("a header at any time"));
            }
        }
        let new = states.last().expect("one").clone();
        assert!(states.iter().all(|state| *state == old || *state == new));
        now
    }

    #[test]
    fn versions_change_in_one_sector() {
        let long = "a/".repeat(300);
        for (name, extra) in [("", 0), ("base", 0), (&long, 0), ("", 200), (&long, 200)] {
            let old = first(Version::V3, name, extra);
            let two = changed(&old, &HeaderEdit::Version(Version::V2));
            let header = Header::parse(&two).expect("good");
            assert_eq!((header.version, header.header_len), (Version::V2, 72));
            let three = changed(&two, &HeaderEdit::Version(Version::V3));
            let (before, after) = (Header::parse(&old).expect("good"), Header::parse(&three).expect("good"));
            assert_eq!(before, after, "{name}");
            assert_eq!(after.unknown_extensions.len(), usize::from(extra > 0));
            assert!(HeaderEdit::Version(Version::V3).writes(&three).expect("nothing").is_empty());
        }
        let too_much = first(Version::V3, "", 500);
        assert!(HeaderEdit::Version(Version::V2).writes(&too_much).is_err());
    }

    #[test]
    fn lazy_refcounts_are_a_bit() {
        let old = first(Version::V3, "base", 0);
        let lazy = changed(&old, &HeaderEdit::LazyRefcounts(true));
        assert!(Header::parse(&lazy).expect("good").features.lazy_refcounts());
        assert_eq!(changed(&lazy, &HeaderEdit::LazyRefcounts(false)), old);
        assert!(HeaderEdit::LazyRefcounts(true).writes(&first(Version::V2, "", 0)).is_err());
    }

    #[test]
    fn extensions_come_in_one_sector() {
        let edit = |len| HeaderEdit::Extension { kind: 5, data: vec![7; len], autoclear: 1 << 62 };
        for name in ["", "base", &"a/".repeat(400)] {
            let old = first(Version::V3, name, 0);
            let new = changed(&changed(&old, &edit(20)), &edit(200));
            let header = Header::parse(&new).expect("good");
            assert_eq!((header.unknown_extensions[0].data.len(), header.features.autoclear), (200, 1 << 62));
            assert_eq!(header.backing, Header::parse(&old).expect("good").backing);
        }
        let long = edit(1000).writes(&first(Version::V3, "base", 0)).expect("possible");
        assert!(long.len() == 1 && long[0].bytes.len() > 512, "longer ones take several sectors");
    }

    #[test]
    fn data_files_are_renamed() {
        let data_file = Some(crate::DataFile { name: Some("old".to_owned()), raw: false });
        let image = NewImage { data_file, ..NewImage::new(1 << 20, 16) };
        let mut old = image.bytes().expect("fine").pieces.pop().expect("a header").1;
        old.resize(1 << 16, 0);
        let new = changed(&old, &HeaderEdit::DataFileName(Some("elsewhere/new".to_owned())));
        let name = |bytes: &[u8]| Header::parse(bytes).expect("good").data_file.expect("one").name;
        assert_eq!(name(&new).as_deref(), Some("elsewhere/new"));
        assert_eq!(name(&changed(&new, &HeaderEdit::DataFileName(None))), None);
        assert!(HeaderEdit::DataFileName(None).writes(&first(Version::V3, "", 0)).is_err());
    }
}
