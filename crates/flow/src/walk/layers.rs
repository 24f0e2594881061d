//! Which layer of a chain answers for a range, and what it has there: for those who show or copy layers apart.

use block::{ByteRange, ChildIndex, ExtentState, Place, Result};

use crate::contract::Format;
use crate::node::Body;
use crate::request::Op;
use crate::view::{View, ViewIndex};

/// What a layer has of a run of bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Holds {
    /// Bytes in a file.
    Data,
    /// A hole of a file that is there byte by byte: it reads as zeros.
    Hole,
    /// Room that has a place in a file, where nothing was ever written: it reads as zeros.
    Room,
    /// Zeros, as it says itself.
    Zeroes,
    /// Bytes that only the format can produce (compressed).
    Special,
    /// Nothing, and no layer below it has anything either: zeros.
    Nothing,
    /// Nothing, and the layer below it ends before: zeros.
    Behind,
}

/// A run of bytes that one layer answers for.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Layer {
    /// How many layers lie above it: 0 for the image itself.
    pub depth: u32,
    /// What it has.
    pub holds: Holds,
    /// Length of the run in bytes, at least 1 and at most what was asked for.
    pub len: u64,
    /// It holds nothing, and so far as the lowest layer goes: what comes next lies behind that.
    pub is_last: bool,
    /// The node that has the bytes, or room for them, by name, and the offset of the first one there.
    pub at: Option<(String, u64)>,
}

/// The layer that answers for the first bytes of `range` (not empty, in bounds).
pub(crate) async fn layer(view: &View, mut index: ViewIndex, mut range: ByteRange) -> Result<Layer> {
    let _guards: Vec<_> = view.changing().iter().map(|at| view.node(*at).reclaim().waits().enter()).collect();
    let mut depth = 0;
    loop {
        let format = match view.node(index).body() {
            Body::Maps(format) => format,
            Body::Executes(node) if node.size().is_none() => {
                index = view.child(index, ChildIndex(0))?;
                continue;
            }
            Body::Executes(_) => return in_file(view, index, depth, range, Holds::Hole).await,
        };
        let Some(mapping) = super::map(view, index, &**format, Op::Read, range)? else {
            super::read::load(view, index, range).await?;
            continue;
        };
        let run = range.head(mapping.len);
        let found = |holds, at| Ok(Layer { depth, holds, len: run.len(), is_last: false, at });
        let without_data = |holds| {
            let (at, len) = kept_room(view, index, &**format, run)?;
            let is_last = holds == Holds::Nothing && run.start() + len >= view.size_of(index);
            Ok(Layer { depth, holds, len, is_last, at })
        };
        match mapping.place {
            Place::Zero => return without_data(Holds::Zeroes),
            Place::Special => return found(Holds::Special, None),
            Place::Data { child, offset, .. } => {
                let child = view.child(index, child)?;
                let hole = if view.stores_clusters(child).is_some() { Holds::Room } else { Holds::Hole };
                if hole == Holds::Room && !super::status::tells_holes(view, child) {
                    let at = Some((view.node(child).name().to_string(), offset));
                    return found(Holds::Data, at);
                }
                let below = ByteRange::checked(offset, run.len());
                let below = below.ok_or_else(|| super::resolve::overflows(view, index, offset))?;
                return in_file(view, child, depth, below, hole).await;
            }
            Place::Unallocated => {
                let Some(backing) = view.backing(index) else { return without_data(Holds::Nothing) };
                let inside = view.size_of(backing).saturating_sub(run.start());
                if inside == 0 {
                    return found(Holds::Behind, None);
                }
                (index, range, depth) = (backing, run.head(inside), depth + 1);
            }
        }
    }
}

/// Where room is kept for the first bytes of a run without data, and how many share the answer.
fn kept_room(
    view: &View,
    index: ViewIndex,
    format: &dyn Format,
    run: ByteRange,
) -> Result<(Option<(String, u64)>, u64)> {
    let (room, len) = format.kept_room(run)?;
    let Some((child, offset)) = room else { return Ok((None, len)) };
    let child = view.child(index, child)?;
    Ok((Some((view.node(child).name().to_string(), offset)), len))
}

/// What a file has of `range`; `hole` is what a hole of it is.
async fn in_file(view: &View, index: ViewIndex, depth: u32, range: ByteRange, hole: Holds) -> Result<Layer> {
    let extents = super::extents(view, index, range).await?;
    let (len, holds) = match extents.first() {
        Some(first) if first.state == ExtentState::Data => (first.range.len(), Holds::Data),
        Some(first) => (first.range.len(), hole),
        None => (range.len(), Holds::Data),
    };
    let at = Some((view.node(index).name().to_string(), range.start()));
    Ok(Layer { depth, holds, len: len.min(range.len()), is_last: false, at })
}
