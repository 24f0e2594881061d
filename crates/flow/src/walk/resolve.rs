//! Following maps down to where bytes are. Pure look-ups: nothing is moved, nothing waits.

use block::{BlockError, ByteRange, ErrorKind, Place, Result};

use super::trail::Trail;
use crate::node::Body;
use crate::request::Op;
use crate::view::{View, ViewIndex};

/// Where a run of bytes is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Target {
    /// Nowhere: zeros.
    Zero,
    /// An executing node has it, from this offset.
    Execute { index: ViewIndex, offset: u64 },
    /// Only this format can produce it; `offset` is its own.
    Special { index: ViewIndex, offset: u64 },
}

/// Result of following maps.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Step {
    /// The first bytes, as many as said, are there.
    Found(Target, u64),
    /// This format has to load a table for this range of its own first.
    Load { index: ViewIndex, range: ByteRange },
}

/// Finds the first bytes of `range` (not empty) of node `index`.
pub(crate) fn resolve(view: &View, index: ViewIndex, range: ByteRange) -> Result<Step> {
    resolve_noting(view, index, range, &mut Trail::ignoring())
}

/// As [`resolve`], noting in `trail` each layer on the way that can change, before it is asked.
pub(crate) fn resolve_noting(
    view: &View,
    mut index: ViewIndex,
    mut range: ByteRange,
    trail: &mut Trail,
) -> Result<Step> {
    loop {
        let format = match view.node(index).body() {
            Body::Executes(_) => {
                let target = Target::Execute { index, offset: range.start() };
                return Ok(Step::Found(target, range.len()));
            }
            Body::Maps(format) => format,
        };
        trail.note(index, &**format, range);
        let Some(mapping) = super::map(view, index, &**format, Op::Read, range)? else {
            return Ok(Step::Load { index, range });
        };
        let len = mapping.len.min(range.len());
        let below = match mapping.place {
            Place::Zero => None,
            Place::Special => {
                let target = Target::Special { index, offset: range.start() };
                return Ok(Step::Found(target, len));
            }
            Place::Data { child, offset, .. } => Some((view.child(index, child)?, offset)),
            Place::Unallocated => view.backing(index).map(|backing| (backing, range.start())),
        };
        let Some((child, offset)) = below else {
            return Ok(Step::Found(Target::Zero, len));
        };
        // A child may end earlier (a short backing file, a file that was cut): zeros from there on.
        let inside = view.size_of(child).saturating_sub(offset).min(len);
        if inside < len {
            trail.lose();
        }
        if inside == 0 {
            return Ok(Step::Found(Target::Zero, len));
        }
        range = ByteRange::checked(offset, inside).ok_or_else(|| overflows(view, index, offset))?;
        index = child;
    }
}

#[cold]
pub(super) fn overflows(view: &View, index: ViewIndex, offset: u64) -> BlockError {
    let context = format!("node '{}' maps data to the impossible offset {offset}", view.node(index).name());
    BlockError::new(ErrorKind::Corrupt, context)
}
