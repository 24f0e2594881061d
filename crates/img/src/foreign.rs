//! Formats that are known by their name or their magic and not read here, and how an image is recognised.
//!
//! Invariant: what is recognised decides nothing but the format; whether other images may be opened because of it is
//! decided by who asks ([`crate::session`]).

use crate::failure::Failure;

/// What the beginning of a file looks like.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Looks {
    /// A format that is read here.
    Like(&'static str),
    /// A format that is not read here yet.
    Foreign(&'static str),
    /// Nothing that has a magic.
    Plain,
}

/// How many bytes from the start are looked at.
pub(crate) const LOOKED_AT: usize = 512;

/// Formats that QEMU reads and we do not.
const FOREIGN: [&str; 14] = [
    "vmdk",
    "vhdx",
    "vpc",
    "vdi",
    "qed",
    "qcow",
    "luks",
    "parallels",
    "bochs",
    "cloop",
    "dmg",
    "vvfat",
    // Protocols, which overlays may name as formats.
    "host_device",
    "host_cdrom",
];

/// Magics, where they stand, and the format.
const MAGICS: [(usize, &[u8], Looks); 12] = [
    // Versions 2 and 3; version 1 is another format.
    (0, b"QFI\xfb\0\0\0\x02", Looks::Like("qcow2")),
    (0, b"QFI\xfb\0\0\0\x03", Looks::Like("qcow2")),
    (0, b"QFI\xfb\0\0\0\x01", Looks::Foreign("qcow")),
    (0, b"KDMV", Looks::Foreign("vmdk")),
    (0, b"COWD", Looks::Foreign("vmdk")),
    (0, b"# Disk DescriptorFile", Looks::Foreign("vmdk")),
    (0, b"vhdxfile", Looks::Foreign("vhdx")),
    (0, b"conectix", Looks::Foreign("vpc")),
    (0, b"QED\0", Looks::Foreign("qed")),
    (0, b"LUKS\xba\xbe", Looks::Foreign("luks")),
    (0x40, b"\x7f\x10\xda\xbe", Looks::Foreign("vdi")),
    (0, b"WithoutFreeSpace", Looks::Foreign("parallels")),
];

/// What a file looks like that begins so.
pub(crate) fn looks(start: &[u8]) -> Looks {
    let fits = |(at, magic, _): &&(usize, &[u8], Looks)| {
        start.get(*at..).is_some_and(|rest| rest.starts_with(magic))
    };
    MAGICS.iter().find(fits).map_or(Looks::Plain, |(_, _, looks)| *looks)
}

/// Whether QEMU knows the format and we do not.
pub(crate) fn is_foreign(format: &str) -> bool {
    FOREIGN.contains(&format)
}

/// Says that a format is not done yet.
pub(crate) fn not_yet(format: &str) -> Failure {
    Failure::new(format!("Format '{format}' is not yet supported: convert it with qemu-img first"))
}

/// Why no image is made in a format.
pub(crate) fn not_made_yet(format: &str) -> Failure {
    Failure::new(format!("Format '{format}' is not yet supported: make it with qemu-img"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn magics_tell_formats_apart() {
        assert_eq!(looks(b"QFI\xfb\0\0\0\x03rest"), Looks::Like("qcow2"));
        assert_eq!(looks(b"QFI\xfb\0\0\0\x01"), Looks::Foreign("qcow"));
        assert_eq!(looks(b"QFI\xfb\0\0"), Looks::Plain);
        assert_eq!(looks(b""), Looks::Plain);
        let mut vdi = vec![0; 0x44];
        vdi[0x40..].copy_from_slice(b"\x7f\x10\xda\xbe");
        assert_eq!(looks(&vdi), Looks::Foreign("vdi"));
        assert!(MAGICS.iter().all(|(at, magic, _)| at + magic.len() <= LOOKED_AT));
        let named = |looks: &Looks| match looks {
            Looks::Foreign(name) => is_foreign(name),
            Looks::Like(name) => driver::find(name).is_some(),
            Looks::Plain => false,
        };
        assert!(MAGICS.iter().all(|(_, _, looks)| named(looks)));
    }
}
