//! The path that does not wait. Allocates nothing.

use block::{ByteRange, Place, Result};

use super::remember;
use super::resolve::{Step, Target, resolve};
use crate::dispatch;
use crate::node::Body;
use crate::request::{Flags, Now, Op, Request, Window};
use crate::view::{View, ViewIndex};

/// Carries out as much of `rq` as needs no wait, under the caller's guard.
pub(crate) fn try_now(view: &View, index: ViewIndex, rq: &mut Request, window: Window<'_>) -> Result<Now> {
    if let Body::Executes(_) = view.node(index).body() {
        return dispatch::try_now(view, index, rq, window);
    }
    match rq.op {
        Op::Read => read(view, index, rq, window),
        Op::Write if !rq.flags.has(Flags::UNCHANGED) => write(view, index, rq, window),
        _ => Ok(Now::Wait),
    }
}

fn read(view: &View, index: ViewIndex, rq: &mut Request, mut window: Window<'_>) -> Result<Now> {
    let lend = matches!(window, Window::Lend(_));
    while !rq.rest().is_empty() {
        let (from, rest) = (rq.done as usize, rq.rest());
        let Step::Found(target, len) = find(view, index, rest)? else { return Ok(Now::Wait) };
        match target {
            Target::Zero if window.zero(from, len as usize) => {}
            Target::Zero | Target::Special { .. } => return Ok(Now::Wait),
            // A filter would act once per extent, and a lent read may be begun again: whole or not at all.
            Target::Execute { index: at, .. } if lend && len < rq.range.len() && view.slot(at) != 0 => {
                return Ok(Now::Wait);
            }
            Target::Execute { index: at, offset } => {
                let part = window.part(from, len as usize);
                if !pass(view, at, rq, ByteRange::new(offset, len), part)? {
                    return Ok(Now::Wait);
                }
            }
        }
        advance(rq, len);
    }
    Ok(if lend { Now::Lent } else { Now::Done })
}

/// Long chains are remembered from the root; short ones are walked.
fn find(view: &View, index: ViewIndex, range: ByteRange) -> Result<Step> {
    if view.formats() >= remember::WORTH_FORMATS {
        return remember::resolve(view, index, range);
    }
    resolve(view, index, range)
}

/// In place only: every layer on the way holds the bytes by itself.
fn write(view: &View, index: ViewIndex, rq: &mut Request, mut window: Window<'_>) -> Result<Now> {
    while !rq.rest().is_empty() {
        let Some((at, range)) = in_place(view, index, rq.rest())? else { return Ok(Now::Wait) };
        let part = window.part(rq.done as usize, range.len() as usize);
        if !pass(view, at, rq, range, part)? {
            return Ok(Now::Wait);
        }
        advance(rq, range.len());
    }
    Ok(Now::Done)
}

fn in_place(
    view: &View,
    mut index: ViewIndex,
    mut range: ByteRange,
) -> Result<Option<(ViewIndex, ByteRange)>> {
    loop {
        let format = match view.node(index).body() {
            Body::Executes(_) => return Ok(Some((index, range))),
            Body::Maps(format) => format,
        };
        let mapping = match format.map_now(range) {
            Ok(Some(mapping)) => mapping,
            // An error is met again by who waits, and told to the format.
            _ => return Ok(None),
        };
        let Place::Data { child, offset, exclusive: true } = mapping.place else { return Ok(None) };
        let Some(below) = ByteRange::checked(offset, mapping.len.min(range.len())) else { return Ok(None) };
        (index, range) = (view.child(index, child)?, below);
    }
}

/// Gives one extent to the executing node that has it; answers whether it was done at once.
fn pass(view: &View, at: ViewIndex, rq: &mut Request, range: ByteRange, part: Window<'_>) -> Result<bool> {
    let mut sub = rq.on(range);
    let answer = dispatch::try_now(view, at, &mut sub, part)?;
    let done = answer != Now::Wait;
    if !done {
        // What the extent has consumed belongs to the front of what is left.
        rq.done += sub.done;
        rq.acted = sub.acted;
    }
    Ok(done)
}

fn advance(rq: &mut Request, len: u64) {
    rq.done += len as u32;
}
