//! The guest of the demo: a boot sector, and the checksum that it makes.
//!
//! Invariant: the bytes are what `boot.s` beside this file assembles to; that says what they do.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;

use block::{BlockError, Result};

/// What the guest says when it is there.
pub(super) const GREETING: &str = "millpond guest";

/// Bytes of a sector.
pub(super) const SECTOR: u64 = 512;

/// The first instruction: a jump to [`CODE`].
const JUMP: [u8; 3] = [0xeb, 0x58, 0x90];
/// Where the code begins: between it and the jump a FAT has its parameters.
const CODE_AT: u64 = 0x5a;
/// The last two bytes.
const SIGNATURE: [u8; 2] = [0x55, 0xaa];

#[rustfmt::skip]
const CODE: &[u8] = &[
    0xfa, 0x31, 0xc0, 0x8e, 0xd8, 0x8e, 0xc0, 0x8e, 0xd0, 0xbc, 0x00, 0x7c, 0xfc, 0x88, 0x16, 0x12, 0x81, 0xc7, 0x06, 0x30,
    0x00, 0x1c, 0x7d, 0xa3, 0x32, 0x00, 0xba, 0xf9, 0x03, 0xb0, 0x01, 0xee, 0x42, 0xee, 0xba, 0xfc, 0x03, 0xb0, 0x08, 0xee,
    0xe4, 0x21, 0x24, 0xef, 0xe6, 0x21, 0xbe, 0x2d, 0x7d, 0xac, 0x84, 0xc0, 0x74, 0x05, 0xe8, 0x7b, 0x00, 0xeb, 0xf6, 0xbf,
    0x00, 0x81, 0xb9, 0x12, 0x00, 0xe8, 0x5e, 0x00, 0xaa, 0xe2, 0xfa, 0x80, 0x3e, 0x00, 0x81, 0x00, 0x74, 0x7b, 0x8a, 0x26,
    0x00, 0x81, 0xbe, 0x01, 0x81, 0x8a, 0x16, 0x12, 0x81, 0xcd, 0x13, 0x88, 0xe0, 0xe8, 0x54, 0x00, 0x8b, 0x0e, 0x03, 0x81,
    0xc1, 0xe1, 0x07, 0x66, 0xbd, 0xc5, 0x9d, 0x1c, 0x81, 0x1e, 0xc5, 0x36, 0x05, 0x81, 0x66, 0xad, 0x66, 0x31, 0xc5, 0x66,
    0x69, 0xed, 0x93, 0x01, 0x00, 0x01, 0xe2, 0xf2, 0x1f, 0xb1, 0x04, 0x66, 0x89, 0xe8, 0xe8, 0x2b, 0x00, 0x66, 0xc1, 0xed,
    0x08, 0xe2, 0xf4, 0x66, 0x0f, 0xb7, 0x06, 0x03, 0x81, 0x66, 0x01, 0x06, 0x09, 0x81, 0xfe, 0x0e, 0x11, 0x81, 0x75, 0xae,
    0xeb, 0x99, 0xba, 0xfd, 0x03, 0xfa, 0xec, 0xa8, 0x01, 0x75, 0x04, 0xfb, 0xf4, 0xeb, 0xf3, 0xfb, 0xb2, 0xf8, 0xec, 0xc3,
    0x50, 0xba, 0xfd, 0x03, 0xec, 0xa8, 0x20, 0x74, 0xfb, 0x58, 0xb2, 0xf8, 0xee, 0xc3, 0x50, 0xb0, 0x20, 0xe6, 0x20, 0x58,
    0xcf, 0xba, 0x04, 0x06, 0xb8, 0x00, 0x20, 0xef, 0xf4, 0xeb, 0xf6, 0x6d, 0x69, 0x6c, 0x6c, 0x70, 0x6f, 0x6e, 0x64, 0x20,
    0x67, 0x75, 0x65, 0x73, 0x74, 0x0a, 0x00,
];

/// Makes an image bootable. Neither ext4 nor FAT needs these bytes.
pub(in super::super) fn install(image: &Path) -> Result<()> {
    let written = File::options().write(true).open(image).and_then(|file| {
        file.write_all_at(&JUMP, 0)?;
        file.write_all_at(CODE, CODE_AT)?;
        file.write_all_at(&SIGNATURE, SECTOR - 2)
    });
    written
        .map_err(|e| BlockError::system(format!("cannot write the boot sector of '{}'", image.display()), e))
}

/// The checksum of bytes: FNV-1a by words of 32 bits.
pub(in super::super) fn checksum(bytes: &[u8]) -> u32 {
    let words = bytes.as_chunks().0.iter().map(|word| u32::from_le_bytes(*word));
    words.fold(0x811c_9dc5, |sum, word| (sum ^ word).wrapping_mul(0x0100_0193))
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;
    use std::process::Command;

    use super::*;

    /// Says that a test did not run, as all tests do.
    fn skipped(lack: &str) {
        println!("skipped: the_bytes_are_what_the_source_says: no {lack}");
        if let Some(log) = std::env::var_os("MILLPOND_SKIP_LOG") {
            let mut log = File::options().append(true).create(true).open(log).unwrap();
            writeln!(log, "the_bytes_are_what_the_source_says: no {lack}").unwrap();
        }
    }

    #[test]
    fn the_bytes_are_what_the_source_says() {
        if cfg!(not(target_arch = "x86_64")) {
            return skipped("assembler for x86");
        }
        let dir = tempfile::tempdir().unwrap();
        let run =
            |program: &str, args: &[&str]| Command::new(program).current_dir(dir.path()).args(args).status();
        std::fs::write(dir.path().join("boot.s"), include_str!("boot.s")).unwrap();
        let Ok(assembled) = run("as", &["--32", "-o", "boot.o", "boot.s"]) else { return skipped("as") };
        assert!(assembled.success());
        let link = [
            "-m",
            "elf_i386",
            "-e",
            "0x7c00",
            "-Ttext",
            "0x7c00",
            "--oformat",
            "binary",
            "-o",
            "boot",
            "boot.o",
        ];
        let Ok(linked) = run("ld", &link) else { return skipped("ld") };
        assert!(linked.success());
        std::fs::write(dir.path().join("image"), [0; 512]).unwrap();
        install(&dir.path().join("image")).unwrap();
        let read = |name: &str| std::fs::read(dir.path().join(name)).unwrap();
        assert_eq!(read("image"), read("boot"));
    }

    #[test]
    fn every_bit_counts_and_so_does_its_place() {
        let sum = checksum(&[1, 2, 3, 4, 5, 6, 7, 8]);
        for other in [[1, 2, 3, 4, 5, 6, 7, 9], [5, 6, 7, 8, 1, 2, 3, 4], [0, 2, 3, 4, 5, 6, 7, 8]] {
            assert_ne!(checksum(&other), sum);
        }
        assert_eq!(checksum(&[]), 0x811c_9dc5);
    }
}
