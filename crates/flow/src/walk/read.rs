//! Reads that may wait: tables are loaded, extents are read side by side.

use block::{ByteRange, Result};
use futures_util::future::join_all;
use io::{Lease, LocalFut};

use super::resolve::{Step, Target, resolve};
use crate::contract::Format;
use crate::guard::Guard;
use crate::next::Next;
use crate::node::Body;
use crate::request::Request;
use crate::view::{View, ViewIndex};

/// Most extents of one request that are read at the same time.
const EXTENTS_MAX: usize = 16;

/// Reads at a format node.
pub(super) async fn read(
    view: &View,
    index: ViewIndex,
    mut rq: Request,
    mut lease: Lease,
) -> (Result<()>, Lease) {
    // Before anything is looked up: what we find stays readable until we are through.
    let _guards: Vec<Guard<'_>> =
        view.changing().iter().map(|at| view.node(*at).reclaim().waits().enter()).collect();
    let mut head = lease.split_to(rq.done as usize);
    let mut begin = None;
    while !rq.rest().is_empty() {
        let (extents, load) = match gather(view, index, rq.rest(), begin.take()) {
            Ok(found) => found,
            Err(error) => return (Err(error), joined(head, lease)),
        };
        let mut parts = Vec::with_capacity(extents.len());
        for (target, range) in extents {
            let part = lease.split_to(range.len() as usize);
            rq.done += range.len() as u32;
            parts.push(read_target(view, target, rq.on(range), part));
            // Whoever acted on this request before did so for its first extent.
            rq.acted = 0;
        }
        let mut outcome = Ok(());
        for (result, part) in run(parts).await {
            outcome = outcome.and(result);
            head.join(part);
        }
        if let (Ok(()), Some((at, range))) = (&outcome, load) {
            outcome = self::load(view, at, range).await;
            begin = load;
        }
        if let Err(error) = outcome {
            return (Err(error), joined(head, lease));
        }
    }
    (Ok(()), joined(head, lease))
}

type Extents = Vec<(Target, ByteRange)>;
type ToLoad = Option<(ViewIndex, ByteRange)>;

/// The extents from the front of `range` up to the first that needs a table, and that table. `begin` is where the
/// first bytes of `range` were found to lie before the table that was missing there was loaded: going on from
/// there, a walk down a long chain gets on even where the tables of its layers do not fit into memory together.
pub(super) fn gather(
    view: &View,
    index: ViewIndex,
    mut range: ByteRange,
    mut begin: ToLoad,
) -> Result<(Extents, ToLoad)> {
    let mut extents = Vec::new();
    while !range.is_empty() && extents.len() < EXTENTS_MAX {
        let (at, first) = begin.take().unwrap_or((index, range));
        match resolve(view, at, first)? {
            Step::Found(target, len) => {
                extents.push((target, range.head(len)));
                range = range.skip(len);
            }
            Step::Load { index, range } => return Ok((extents, Some((index, range)))),
        }
    }
    Ok((extents, None))
}

/// Loads the table that format `index` needs for `range`.
pub(super) async fn load(view: &View, index: ViewIndex, range: ByteRange) -> Result<()> {
    let Body::Maps(format) = view.node(index).body() else { return Ok(()) };
    format.load(range, Next::new(view, index)).await.map_err(|e| super::at_node(view, index, e))
}

async fn run(mut parts: Vec<LocalFut<'_, (Result<()>, Lease)>>) -> Vec<(Result<()>, Lease)> {
    match parts.len() {
        1 => vec![parts.remove(0).await],
        _ => join_all(parts).await,
    }
}

fn read_target<'a>(
    view: &'a View,
    target: Target,
    rq: Request,
    mut part: Lease,
) -> LocalFut<'a, (Result<()>, Lease)> {
    match target {
        Target::Zero => {
            part.fill(0);
            Box::pin(async move { (Ok(()), part) })
        }
        Target::Execute { index, offset } => {
            let range = ByteRange::new(offset, part.len() as u64);
            super::execute(view, index, rq.on(range), part)
        }
        Target::Special { index, offset } => {
            let Body::Maps(format) = view.node(index).body() else {
                return Box::pin(async move { (Ok(()), part) });
            };
            let range = ByteRange::new(offset, part.len() as u64);
            Box::pin(read_special(view, index, &**format, range, part))
        }
    }
}

async fn read_special(
    view: &View,
    index: ViewIndex,
    format: &dyn Format,
    range: ByteRange,
    part: Lease,
) -> (Result<()>, Lease) {
    let (result, part) = format.read_special(range, part, Next::new(view, index)).await;
    (result.map_err(|e| super::at_node(view, index, e)), part)
}

pub(super) fn joined(mut head: Lease, rest: Lease) -> Lease {
    head.join(rest);
    head
}
