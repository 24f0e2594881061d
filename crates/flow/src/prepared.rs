//! Room for new bytes that nothing maps yet.

use std::any::Any;

use block::{ByteRange, ChildIndex};

/// Room that a format has allocated for guest bytes which it does not map yet.
///
/// The core writes all of `guest` to the child before it commits. Dropping it gives the room back; it travels
/// with the buffers that are written there, so that this happens only after their I/O has ended.
pub struct Prepared {
    /// The guest bytes (whole clusters, clipped to the virtual size) that commit will map.
    pub guest: ByteRange,
    /// The child that holds the room.
    pub child: ChildIndex,
    /// Offset in that child of the first byte of `guest`.
    pub offset: u64,
    /// What the format needs to commit; its drop gives the room back.
    pub token: Box<dyn Any + Send>,
}
