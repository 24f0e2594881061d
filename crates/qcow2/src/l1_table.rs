//! The active L1 table: where the L2 tables are.

use block::{BlockError, ErrorKind};

use crate::Geometry;
use crate::big_endian::be64_all;

/// The active L1 table, wholly in memory. Its entries are checked when they are used, so that one bad entry
/// costs the guest bytes behind it and no others.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct L1Table {
    pub(crate) entries: Box<[u64]>,
}

impl L1Table {
    /// The table from its bytes as stored, those of [`Geometry::l1_range`]. `Invalid` for any other number
    /// of bytes.
    pub fn parse(geometry: &Geometry, bytes: &[u8]) -> Result<Self, BlockError> {
        let wanted = geometry.l1_entries() as usize * 8;
        if bytes.len() != wanted {
            let context = format!("an L1 table of {wanted} bytes was asked of {} bytes", bytes.len());
            return Err(BlockError::new(ErrorKind::Invalid, context));
        }
        Ok(Self { entries: be64_all(bytes).collect() })
    }

    /// Bytes of memory that it takes.
    pub fn memory(&self) -> usize {
        size_of_val(&*self.entries)
    }
}
