//! What is wrong with an entry of a table, as the source of the error of whoever met it: in our words for the error, in
//! QEMU's for the event that it tells of the image.

use std::fmt;

use block::{BlockError, ErrorKind};

use crate::l2_entry::{Fault, OFFSET, ZERO};
use crate::{Geometry, HostOffset};

/// An entry that cannot be true.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Lie {
    /// In our words, without the place.
    what: String,
    /// In QEMU's, for those who only look; `None` where QEMU does not mind.
    read: Option<String>,
    written: Written,
}

/// What QEMU says to who would write there.
#[derive(Clone, PartialEq, Eq, Debug)]
enum Written {
    /// The same as to who reads.
    Same,
    /// Something else.
    Other(String),
    /// Something else, in front of the guest offset of the write.
    At(String),
}

impl Lie {
    /// Of an L1 entry, which `what` is wrong with.
    pub(crate) fn of_l1(what: String, table: HostOffset, index: usize, is_aligned: bool) -> Self {
        let unaligned =
            || format!("L2 table offset {} unaligned (L1 index: {})", Hex(table.0), Hex(index as u64));
        Self { what, read: (!is_aligned).then(unaligned), written: Written::Same }
    }

    /// Of entry number `index` of the L2 table at `table`, for the cluster of `guest`.
    pub(crate) fn of_l2(
        geometry: &Geometry,
        entry: u64,
        fault: Fault,
        (table, index): (HostOffset, u64),
        guest: u64,
    ) -> Self {
        let host = Hex(entry & OFFSET);
        let place = format!("(L2 offset: {}, L2 index: {})", Hex(table.0), Hex(index));
        let kind = if entry & ZERO != 0 { "Preallocated zero" } else { "Data" };
        let (read, written) = match fault {
            Fault::Reserved if entry & ZERO != 0 && !geometry.has_zeros() => {
                (Some(format!("Zero cluster entry found in pre-v3 image {place}")), Written::Same)
            }
            Fault::Reserved | Fault::BeyondEnd => (None, Written::Same),
            Fault::Unaligned => (
                Some(format!("Cluster allocation offset {host} unaligned {place}")),
                Written::At(format!("{kind} cluster offset {host} unaligned")),
            ),
            Fault::CompressedInDataFile => (
                Some(format!("Compressed cluster entry found in image with external data file {place}")),
                Written::Same,
            ),
            Fault::NotGuestOffset => {
                let guest = Hex(guest);
                let said = "External data file host cluster offset";
                let said = format!(
                    "{said} {host} does not match guest cluster offset: {guest}, L2 index: {})",
                    Hex(index)
                );
                (Some(said), Written::Same)
            }
            Fault::AllocatedAndZero | Fault::AllocatedNowhere => (
                Some(format!("Invalid cluster entry found  {place}")),
                Written::Other(format!("Invalid cluster entry found {place}")),
            ),
        };
        Self { what: fault.to_string(), read, written }
    }

    /// What QEMU says of it to who reads there, and then does not go on with the image; `None` where it does not mind.
    pub fn told_to_reader(&self) -> Option<&str> {
        self.read.as_deref()
    }

    /// The same to who writes at `guest`.
    pub fn told_to_writer(&self, guest: u64) -> Option<String> {
        let read = self.read.as_ref()?;
        Some(match &self.written {
            Written::Same => read.clone(),
            Written::Other(said) => said.clone(),
            Written::At(said) => format!("{said} (guest offset: {})", Hex(guest)),
        })
    }

    /// The error of who met it in the entry that `place` names.
    #[cold]
    pub(crate) fn error(self, place: String) -> BlockError {
        BlockError::caused(ErrorKind::Corrupt, place, self)
    }
}

impl fmt::Display for Lie {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.what)
    }
}

impl std::error::Error for Lie {}

/// A number as C's `%#x` has it: 0 has no prefix.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Hex(pub u64);

impl fmt::Display for Hex {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            0 => f.write_str("0"),
            number => write!(f, "{number:#x}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn zero_has_no_prefix() {
        assert_eq!([Hex(0), Hex(1), Hex(0x50200)].map(|hex| hex.to_string()), ["0", "0x1", "0x50200"]);
    }
}
