//! Header extensions: tagged, length-prefixed records between the header and the backing file name.

use block::BlockError;

use crate::big_endian::{be32, be64};
use crate::{HostOffset, corrupt};

/// End of the extensions.
pub(crate) const END: u32 = 0;
/// Format of the backing file, a string.
pub(crate) const BACKING_FORMAT: u32 = 0xe279_2aca;
/// Names of feature bits.
pub(crate) const FEATURE_NAMES: u32 = 0x6803_f857;
/// Where the persistent dirty bitmaps are.
pub(crate) const BITMAPS: u32 = 0x2385_2875;
/// Where the LUKS header is.
const ENCRYPTION: u32 = 0x0537_be77;
/// Name of the external data file, a string.
pub(crate) const DATA_FILE_NAME: u32 = 0x4441_5441;

/// Bytes of tag and length before the data of an extension.
pub(crate) const PREFIX: usize = 8;
/// Bytes of the bitmaps extension.
const BITMAPS_LEN: usize = 24;
/// Most bitmaps that QEMU accepts.
const MAX_BITMAPS: u32 = 65535;
/// Longest bitmap directory that QEMU accepts: 1 KiB for each bitmap.
const MAX_DIRECTORY: u64 = 1024 * MAX_BITMAPS as u64;

/// The bitmaps extension: where the directory of persistent dirty bitmaps is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct BitmapsExtension {
    /// Number of bitmaps, 1..=65535.
    pub count: u32,
    /// Length of the directory in bytes.
    pub directory_len: u64,
    /// Offset of the directory, a multiple of the cluster size.
    pub directory: HostOffset,
}

impl BitmapsExtension {
    /// Most bitmaps.
    pub const COUNT_MAX: usize = MAX_BITMAPS as usize;
    /// Longest directory in bytes.
    pub const DIRECTORY_MAX: u64 = MAX_DIRECTORY;

    /// Its data as stored.
    pub(crate) fn bytes(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(BITMAPS_LEN);
        bytes.extend(self.count.to_be_bytes());
        bytes.extend([0; 4]);
        bytes.extend(self.directory_len.to_be_bytes());
        bytes.extend(self.directory.0.to_be_bytes());
        bytes
    }
}

/// An extension that we do not know. It may be ignored, but whoever rewrites the header keeps it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct UnknownExtension {
    /// Its tag.
    pub kind: u32,
    /// Its data without padding.
    pub data: Vec<u8>,
}

/// The extensions of a header that matter for reading, and those unknown.
#[derive(Default)]
pub(crate) struct Extensions {
    pub(crate) backing_format: Option<String>,
    pub(crate) data_file_name: Option<String>,
    pub(crate) bitmaps: Option<BitmapsExtension>,
    pub(crate) unknown: Vec<UnknownExtension>,
}

impl Extensions {
    /// Parses the extensions in bytes `from..to` of `first`. `bitmaps` says whether the bitmaps
    /// extension can be believed; otherwise it is skipped. Of those that say the same thing the last one counts, as for
    /// QEMU.
    pub(crate) fn parse(first: &[u8], from: usize, to: usize, bitmaps: bool) -> Result<Self, BlockError> {
        let mut found = Self::default();
        for extension in RawExtensions::new(first, from, to) {
            let (kind, data) = extension?;
            match kind {
                BACKING_FORMAT => found.backing_format = text("backing file format", data)?,
                DATA_FILE_NAME => found.data_file_name = text("data file name", data)?,
                BITMAPS if bitmaps => found.bitmaps = Some(parse_bitmaps(data)?),
                // Names of features are looked up when one is missing; LUKS images are refused before.
                BITMAPS | FEATURE_NAMES | ENCRYPTION => {}
                _ => found.unknown.push(UnknownExtension { kind, data: data.to_vec() }),
            }
        }
        Ok(found)
    }
}

/// Tags and data of extensions, as far as they can be told apart.
pub(crate) struct RawExtensions<'a> {
    first: &'a [u8],
    at: usize,
    to: usize,
}

impl<'a> RawExtensions<'a> {
    /// The extensions in bytes `from..to` of `first`, the beginning of the file; a file that ends before
    /// `to` ends the extensions.
    pub(crate) fn new(first: &'a [u8], from: usize, to: usize) -> Self {
        Self { first, at: from, to: to.min(first.len()) }
    }
}

impl<'a> Iterator for RawExtensions<'a> {
    type Item = Result<(u32, &'a [u8]), BlockError>;

    fn next(&mut self) -> Option<Self::Item> {
        let area = self.first.get(self.at..self.to)?;
        let (kind, len) = (be32(area, 0)?, be32(area, 4)? as usize);
        let at = std::mem::replace(&mut self.at, usize::MAX);
        let Some(data) = area[PREFIX..].get(..len) else {
            let left = area.len() - PREFIX;
            return Some(Err(corrupt(format!(
                "header extension {kind:#010x} at byte {at} claims {len} bytes, but only {left} are left for extensions"
            ))));
        };
        // Only now: an end that claims too much is refused by QEMU as well.
        if kind == END {
            return None;
        }
        // `len` is below the length of a slice here, so that rounding it up cannot overflow.
        self.at = at + PREFIX + len.next_multiple_of(8);
        Some(Ok((kind, data)))
    }
}

/// A string of the header, `None` when it is empty. As in QEMU it ends at a NUL byte, if it has one.
pub(crate) fn text(what: &str, data: &[u8]) -> Result<Option<String>, BlockError> {
    let data = data.split(|b| *b == 0).next().unwrap_or_default();
    match std::str::from_utf8(data) {
        Ok("") => Ok(None),
        Ok(text) => Ok(Some(text.to_owned())),
        Err(_) => Err(corrupt(format!("the {what} is not UTF-8: '{}'", data.escape_ascii()))),
    }
}

fn parse_bitmaps(data: &[u8]) -> Result<BitmapsExtension, BlockError> {
    let lies = |what: &str| corrupt(format!("bitmaps extension: {what}"));
    if data.len() != BITMAPS_LEN {
        return Err(lies("its length is not 24 bytes"));
    }
    let missing = || lies("cut short");
    let count = be32(data, 0).ok_or_else(missing)?;
    if count == 0 || count > MAX_BITMAPS {
        return Err(lies(&format!("{count} bitmaps, not 1 to {MAX_BITMAPS}")));
    }
    if be32(data, 4) != Some(0) {
        return Err(lies("reserved bytes are not zero"));
    }
    let directory_len = be64(data, 8).ok_or_else(missing)?;
    if directory_len > MAX_DIRECTORY {
        return Err(lies(&format!("a directory of {directory_len} bytes, more than {MAX_DIRECTORY}")));
    }
    Ok(BitmapsExtension { count, directory_len, directory: HostOffset(be64(data, 16).ok_or_else(missing)?) })
}
