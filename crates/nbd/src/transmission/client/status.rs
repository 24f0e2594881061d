//! Block status as extents.

use block::{ByteRange, Extent, ExtentState, push_extent};

use super::{Descriptor, ReplyError};
use crate::codec::StatusFlags;

/// The state that `base:allocation` gives; a hole of unknown contents counts as data.
fn state(flags: StatusFlags) -> ExtentState {
    match (flags.contains(StatusFlags::HOLE), flags.contains(StatusFlags::ZERO)) {
        (true, true) => ExtentState::Hole,
        (false, true) => ExtentState::AllocatedZero,
        (_, false) => ExtentState::Data,
    }
}

/// The extents that a `base:allocation` chunk gives for a request of `range`: consecutive from its first
/// byte, neighbours of one state joined, cut at its end. They may end earlier; ask again from there.
///
/// # Errors
/// [`ReplyError::EmptyExtent`], since who follows such an answer never gets on.
pub fn extents(range: ByteRange, descriptors: &[Descriptor]) -> Result<Vec<Extent>, ReplyError> {
    let mut extents = Vec::new();
    let mut left = range;
    for descriptor in descriptors {
        if descriptor.len == 0 {
            return Err(ReplyError::EmptyExtent);
        }
        let len = u64::from(descriptor.len);
        push_extent(&mut extents, Extent { range: left.head(len), state: state(descriptor.flags) });
        left = left.skip(len);
    }
    Ok(extents)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn descriptor(len: u32, flags: u32) -> Descriptor {
        Descriptor { len, flags: StatusFlags::from_bits(flags) }
    }

    #[test]
    fn descriptors_become_extents_within_the_request() {
        let range = ByteRange::new(100, 50);
        let told =
            [descriptor(10, 0), descriptor(10, 1), descriptor(10, 2), descriptor(100, 7), descriptor(9, 0)];
        let extent = |start, len, state| Extent { range: ByteRange::new(start, len), state };
        let expected = [
            extent(100, 20, ExtentState::Data),
            extent(120, 10, ExtentState::AllocatedZero),
            extent(130, 20, ExtentState::Hole),
        ];
        assert_eq!(extents(range, &told).unwrap(), expected);
        assert_eq!(extents(range, &told[..1]).unwrap(), [extent(100, 10, ExtentState::Data)]);
        assert_eq!(extents(range, &[descriptor(0, 0)]), Err(ReplyError::EmptyExtent));
    }
}
