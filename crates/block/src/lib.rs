//! The words that everybody shares: ranges, alignments, mappings, extents, permissions, priorities and
//! the one error of the data path.
//!
//! Invariants: nothing here does I/O, waits or knows a driver; every type is plain data.

mod alignment;
pub mod dirty_bitmap;
mod error;
mod extent;
mod job;
mod mapping;
mod new_snapshot;
mod permissions;
mod priority;
mod range;

pub use alignment::Alignment;
pub use dirty_bitmap::{BitmapPart, DirtyBitmap};
pub use error::{BlockError, Culprit, Errno, ErrorKind, Result, system_text};
pub use extent::{Extent, ExtentState, push_extent};
pub use job::{JobAction, JobMilestone, JobState};
pub use mapping::{ChildIndex, Mapping, Place};
pub use new_snapshot::NewSnapshot;
pub use permissions::Permissions;
pub use priority::Priority;
pub use range::{ByteRange, RangeSet};
