//! The qcow2 format as pure bytes and structs: lookups answer a mapping or name the table they need.
//!
//! What a driver does with it, in order:
//!
//! 1. [`Header::parse`] on the first cluster of the file ([`Header::needed`] says how much that is),
//!    then [`Geometry::new`].
//! 2. Read the range of [`Geometry::l1_range`] and make an [`L1Table`] of it. It stays in memory.
//! 3. For each range of guest bytes: [`Geometry::locate`] answers that nothing is there, or which
//!    slice of which L2 table to look into. Slices are read, parsed ([`L2Slice::parse`]) and cached as
//!    the driver likes; [`Geometry::map`] answers from a slice without allocating.
//! 4. Where the answer is [`block::Place::Special`], [`Geometry::compressed`] says which bytes of the
//!    file to read and [`Decompressor`] makes a cluster of them.
//!
//! Invariants: no I/O, no clock, no state that a lookup changes. Everything that a file states is checked
//! before it is used: no input panics, allocates more than 32 MiB, or maps bytes outside the file.
//! `docs/formats/qcow2.md` has the byte diagrams.

mod backing_mark;
mod big_endian;
mod bitmap_directory;
pub mod cache;
pub mod check;
mod compress;
mod compressed;
mod decompress;
mod entry;
mod extension;
mod feature;
pub mod fuzz;
mod geometry;
mod header;
mod inflate;
mod l1_table;
mod l2_entry;
mod l2_slice;
mod lie;
mod lookup;
mod name;
mod new_image;
mod offset;
mod options;
mod refcount_block;
mod snapshot_list;
mod snapshot_table;
mod whole_table;

pub use backing_mark::BackingMark;
pub use big_endian::{word_bytes, words};
pub use bitmap_directory::{BitmapCluster, BitmapEntry};
pub use compress::Compressor;
pub use compressed::CompressedCluster;
pub use decompress::{Compression, Decompressor};
pub use entry::{Entry, NewEntry, Parts};
pub use extension::{BitmapsExtension, UnknownExtension};
pub use feature::Features;
pub use geometry::{DATA_FILE_CHILD, FILE_CHILD, Geometry};
pub use header::edit::{HeaderEdit, HeaderWrite};
pub use header::{Backing, DataFile, Header, RefcountTable, SnapshotTable, Switch, Version};
pub use l1_table::{L1Entry, L1Table};
pub use l2_slice::{L2Slice, SliceAddress};
pub use lie::{Hex, Lie};
pub use lookup::Located;
pub use name::{Target, full_name, resolve, scheme};
pub use new_image::{FreshImage, NewImage, Preallocated};
pub use offset::HostOffset;
pub use options::Options;
pub use refcount_block::RefcountBlock;
pub use snapshot_list::SnapshotList;
pub use snapshot_table::{ParsedSnapshots, Snapshot};
pub use whole_table::{L2Table, Reference};

use block::{BlockError, ErrorKind};

/// An image file that contradicts itself.
fn corrupt(context: impl Into<String>) -> BlockError {
    BlockError::new(ErrorKind::Corrupt, context)
}

/// An image file that needs what we do not do.
fn unsupported(context: impl Into<String>) -> BlockError {
    BlockError::new(ErrorKind::Unsupported, context)
}
