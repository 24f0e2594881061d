//! Millpond's header extension that says what a backing file was when the image was made over it
//! (`docs/formats/backing-mark.md`).
//!
//! Invariants: it counts only while its autoclear bit is set and the image names the same backing file as then;
//! whatever else is there is as good as nothing, since it warns and never decides what is read.

use crate::big_endian::{be32, be64};
use crate::{Backing, Header, HeaderEdit, UnknownExtension};

/// Bytes of its data.
const LEN: usize = 32;

/// A backing file, as it was.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct BackingMark {
    /// Its length in bytes.
    pub len: u64,
    /// When it was last changed: seconds since 1970.
    pub modified_s: u64,
    /// And nanoseconds, below 10^9.
    pub modified_ns: u32,
}

impl BackingMark {
    /// Kind of the extension: "mpbk".
    pub const EXTENSION: u32 = 0x6d70_626b;
    /// The autoclear bit that says that it can be believed: bit 61.
    pub const AUTOCLEAR: u64 = 1 << 61;

    /// The extension for an image over `backing`, whose autoclear bits must have [`BackingMark::AUTOCLEAR`].
    pub fn extension(&self, backing: &Backing) -> UnknownExtension {
        let mut data = Vec::with_capacity(LEN);
        data.extend(self.len.to_be_bytes());
        data.extend(self.modified_s.to_be_bytes());
        data.extend(self.modified_ns.to_be_bytes());
        data.extend([0; 4]);
        data.extend(hash(backing).to_be_bytes());
        UnknownExtension { kind: Self::EXTENSION, data }
    }

    /// The change of the header of an image over `backing` that adds or replaces it.
    pub fn edit(&self, backing: &Backing) -> HeaderEdit {
        let UnknownExtension { kind, data } = self.extension(backing);
        HeaderEdit::Extension { kind, data, autoclear: Self::AUTOCLEAR }
    }

    /// What the header says of its backing file, if that can be believed.
    pub fn read(header: &Header) -> Option<Self> {
        let backing = header.backing.as_ref().filter(|_| header.features.autoclear & Self::AUTOCLEAR != 0)?;
        let extension =
            header.unknown_extensions.iter().find(|extension| extension.kind == Self::EXTENSION)?;
        let data: &[u8; LEN] = extension.data.as_slice().try_into().ok()?;
        let (modified_ns, reserved) = (be32(data, 16)?, be32(data, 20)?);
        let is_ours = modified_ns < 1_000_000_000 && reserved == 0 && be64(data, 24)? == hash(backing);
        is_ours.then_some(Self { len: be64(data, 0)?, modified_s: be64(data, 8)?, modified_ns })
    }
}

/// FNV-1a of the name, a zero byte and the format.
fn hash(backing: &Backing) -> u64 {
    const START: u64 = 0xcbf2_9ce4_8422_2325;
    const PRIME: u64 = 0x0000_0100_0000_01b3;
    let format = backing.format.as_deref().unwrap_or_default();
    let bytes = backing.name.bytes().chain([0]).chain(format.bytes());
    bytes.fold(START, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(PRIME))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::NewImage;

    const MARK: BackingMark = BackingMark { len: 5 << 20, modified_s: 1_700_000_000, modified_ns: 7 };

    fn header(name: &str, autoclear: u64, change: impl FnOnce(&mut Vec<u8>)) -> Header {
        let backing = Backing { name: "base".to_owned(), format: Some("raw".to_owned()) };
        let mut extension = MARK.extension(&backing);
        change(&mut extension.data);
        let image = NewImage { extensions: vec![extension], autoclear, ..NewImage::new(1 << 20, 16) };
        let fresh = image.over(name, "raw").bytes().expect("fine");
        Header::parse(&fresh.pieces.last().expect("a header").1).expect("good")
    }

    #[test]
    fn it_counts_for_its_backing_file_while_its_bit_is_set() {
        let armed = BackingMark::AUTOCLEAR;
        assert_eq!(BackingMark::read(&header("base", armed, |_| ())), Some(MARK));
        assert_eq!(BackingMark::read(&header("base", 0, |_| ())), None);
        assert_eq!(BackingMark::read(&header("other", armed, |_| ())), None);
    }

    #[test]
    fn what_is_no_mark_is_none() {
        let with =
            |change: fn(&mut Vec<u8>)| BackingMark::read(&header("base", BackingMark::AUTOCLEAR, change));
        assert_eq!(with(|data| data.truncate(31)), None);
        assert_eq!(with(|data| data.push(0)), None);
        assert_eq!(with(|data| data[16] = 0xff), None);
        assert_eq!(with(|data| data[23] = 1), None);
        assert!(with(|data| data[0] = 0xff).is_some(), "any length may be claimed");
    }

    #[test]
    fn a_header_gets_it_in_one_sector() {
        let image = NewImage::new(1 << 20, 16).over("base", "raw");
        let mut first = image.bytes().expect("fine").pieces.pop().expect("a header").1;
        first.resize(1 << 16, 0);
        let backing = Header::parse(&first).expect("good").backing.expect("one");
        for write in MARK.edit(&backing).writes(&first).expect("possible") {
            assert_eq!(write.bytes.len(), 512);
            first[write.offset as usize..][..512].copy_from_slice(&write.bytes);
        }
        assert_eq!(BackingMark::read(&Header::parse(&first).expect("good")), Some(MARK));
    }
}
