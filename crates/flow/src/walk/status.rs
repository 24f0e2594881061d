//! What is where: for clients that ask for extents, and for filters that store what their child does not hold.

use block::{ByteRange, ChildIndex, Extent, ExtentState, Place, Result, push_extent};
use io::LocalFut;

use super::resolve::{Step, Target, resolve};
use crate::contract::Next;
use crate::node::Body;
use crate::view::{View, ViewIndex};

/// Most extents of one answer.
const EXTENTS_MAX: usize = 4096;

/// States of `range` at a node, from its first byte, without gaps; may end early, never at once.
pub(crate) fn extents<'a>(
    view: &'a View,
    index: ViewIndex,
    range: ByteRange,
) -> LocalFut<'a, Result<Vec<Extent>>> {
    match view.node(index).body() {
        Body::Executes(node) => node.extents(range, Next::new(view, index)),
        Body::Maps(_) => Box::pin(format_extents(view, index, range)),
    }
}

async fn format_extents(view: &View, index: ViewIndex, range: ByteRange) -> Result<Vec<Extent>> {
    let _guards: Vec<_> = view.changing().iter().map(|at| view.node(*at).reclaim().waits().enter()).collect();
    let mut found = Vec::new();
    let (mut rest, mut begin) = (range, None);
    while !rest.is_empty() && found.len() < EXTENTS_MAX {
        // From where a table was missing, as reads do.
        let (at, first) = begin.take().unwrap_or((index, rest));
        match resolve(view, at, first)? {
            Step::Load { index, range } => {
                super::read::load(view, index, range).await?;
                begin = Some((index, range));
            }
            Step::Found(target, len) => {
                let run = rest.head(len);
                for extent in states(view, target, run).await? {
                    push_extent(&mut found, extent);
                }
                rest = ByteRange::between(found.last().map_or(run.end(), |e| e.range.end()), range.end());
            }
        }
    }
    Ok(found)
}

async fn states(view: &View, target: Target, run: ByteRange) -> Result<Vec<Extent>> {
    let one = |state| Ok(vec![Extent { range: run, state }]);
    match target {
        Target::Zero => one(ExtentState::Hole),
        Target::Special { .. } => one(ExtentState::Data),
        // A format that allocates knows what it holds; everything else is asked.
        Target::Execute { index: at, offset } if !view.stores_clusters(at) => {
            let below = extents(view, at, run.at(offset)).await?;
            let up = |e: Extent| {
                let start = run.start() + e.range.start().saturating_sub(offset);
                Extent { range: ByteRange::new(start, e.range.len()).intersection(run), state: e.state }
            };
            Ok(below.into_iter().map(up).collect())
        }
        Target::Execute { .. } => one(ExtentState::Data),
    }
}

/// Whether the first bytes of `range` are held by the first format at or below `index`, and how many.
pub(crate) fn held_now(view: &View, index: ViewIndex, range: ByteRange) -> Result<Option<(bool, u64)>> {
    let Some((index, format)) = first_format(view, index) else { return Ok(Some((true, range.len()))) };
    let Some(mapping) = format.map_now(range).map_err(|e| super::at_node(view, index, e))? else {
        return Ok(None);
    };
    let len = mapping.len.min(range.len());
    let below = match (mapping.place, view.backing(index)) {
        (Place::Unallocated, Some(backing)) => view.size_of(backing).saturating_sub(range.start()).min(len),
        // Zeros by themselves: there is nothing to be had from below.
        _ => 0,
    };
    Ok(Some(if below > 0 { (false, below) } else { (true, len) }))
}

/// As [`held_now`], loading tables as needed.
pub(crate) async fn held(view: &View, index: ViewIndex, range: ByteRange) -> Result<(bool, u64)> {
    loop {
        if let Some(answer) = held_now(view, index, range)? {
            return Ok(answer);
        }
        if let Some((index, _)) = first_format(view, index) {
            super::read::load(view, index, range).await?;
        }
    }
}

/// In what units the first format at or below `index` allocates; 1 where there is none.
pub(crate) fn granule(view: &View, index: ViewIndex) -> u64 {
    first_format(view, index).map_or(1, |(index, _)| view.limits_of(index).granule)
}

fn first_format(view: &View, mut index: ViewIndex) -> Option<(ViewIndex, &dyn crate::Format)> {
    loop {
        match view.node(index).body() {
            Body::Maps(format) => return Some((index, &**format)),
            Body::Executes(_) => index = view.child(index, ChildIndex(0)).ok()?,
        }
    }
}
