//! Corruption that is met while an image is in use: what was found, and how it is said.

use std::fmt;

use block::{BlockError, ByteRange, ErrorKind};
use qcow2::Hex;

/// What is said of an image that is not written any more.
pub(super) const REFUSAL: &str =
    "it is corrupt and not written any more: close it and repair it with 'millpond img check -r all'";

/// A find, as the source of the error of whoever met it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Corruption {
    pub(super) message: String,
    /// What would have been written over, in bytes of the image file.
    pub(super) range: Option<ByteRange>,
    /// The image whose it is: others pass the errors of their children on. Set by `Image::own`.
    pub(super) image: Option<usize>,
}

impl Corruption {
    /// What is wrong, where nothing in particular was to be written.
    pub(super) fn new(message: String) -> Self {
        Self { message, range: None, image: None }
    }

    /// A write to `range` that would hit what is there, in QEMU's words.
    pub(super) fn overlap(range: ByteRange, what: &str) -> Self {
        let message = format!("Preventing invalid write on metadata (overlaps with {what})");
        Self { message, range: Some(range), image: None }
    }

    /// A cluster that counts as free and is not.
    pub(super) fn in_use(range: ByteRange) -> Self {
        let message = format!(
            "Preventing invalid allocation of cluster at offset {:#x} (it is in use, its refcount is 0)",
            range.start()
        );
        Self { message, range: Some(range), image: None }
    }

    /// A cluster that is to be freed and counts as free.
    pub(super) fn free_twice(range: ByteRange) -> Self {
        let message = format!("Cannot free cluster at offset {:#x} (its refcount is 0)", range.start());
        Self { message, range: Some(range), image: None }
    }

    /// An entry of the refcount table that can be none, in QEMU's words.
    pub(super) fn unaligned_block(entry: u64, number: u64) -> Self {
        Self::new(format!("Refblock offset {} unaligned (reftable index: {})", Hex(entry), Hex(number)))
    }

    pub(super) fn error(self) -> BlockError {
        BlockError::caused(ErrorKind::Corrupt, REFUSAL, self)
    }
}

impl fmt::Display for Corruption {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Corruption {}
