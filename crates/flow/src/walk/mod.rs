//! The walk: from a node down to the first one that executes, one request per extent.
//!
//! [`resolve`] follows maps; [`now`] and [`read`]/[`write`]/[`change`] move bytes on the path that does not
//! wait and the one that does; [`status`] answers what is where.

mod change;
mod joins;
mod now;
mod read;
mod resolve;
mod status;
mod write;

use block::{BlockError, Result};
use io::{Lease, LocalFut};

use crate::contract::Format;
use crate::dispatch;
use crate::node::Body;
use crate::request::{Op, Request};
use crate::view::{View, ViewIndex};

pub(crate) use joins::Joins;
pub(crate) use now::try_now;
pub(crate) use resolve::{Step, Target, resolve, resolve_noting};
pub(crate) use status::{extents, held, held_now};

/// Carries out a request at a node of the view; may wait.
pub(crate) fn execute<'a>(
    view: &'a View,
    index: ViewIndex,
    rq: Request,
    lease: Lease,
) -> LocalFut<'a, (Result<()>, Lease)> {
    let format: &dyn Format = match view.node(index).body() {
        Body::Executes(_) => return dispatch::execute(view, index, rq, lease),
        Body::Maps(format) => &**format,
    };
    match rq.op {
        Op::Read => Box::pin(read::read(view, index, rq, lease)),
        Op::Write => Box::pin(write::write(view, index, rq, lease)),
        Op::WriteZeroes | Op::Discard => Box::pin(change::change(view, index, rq, lease)),
        Op::Flush => Box::pin(change::flush(view, index, format, rq, lease)),
        // Without a filter that stores it, nearer than the format's own child there is nowhere to bring it.
        Op::Cache => Box::pin(async move { (Ok(()), lease) }),
    }
}

/// Says at which node an error of a driver arose; drivers name the file or the peer.
#[cold]
fn at_node(view: &View, index: ViewIndex, error: BlockError) -> BlockError {
    error.within(format_args!("node '{}'", view.node(index).name()))
}
