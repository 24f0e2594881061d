//! Requests that could not be answered at once, on their way.
//!
//! Invariants: what has begun is carried out to its end, whatever becomes of its client; a request counts
//! against the bounds until it is answered.

use std::collections::VecDeque;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use block::{ByteRange, Extent, Result, push_extent};
use flow::{Op, Request, View, seam};
use futures_util::stream::{FuturesUnordered, Stream, StreamExt};
use io::{Lease, LocalFut};
use nbd::codec::Cookie;

use super::budget;

/// Requests of one client that may wait at the same time.
const REQUESTS_MAX: usize = 1024;
/// What waiting requests of one client may cost; the last one may exceed it.
const BYTES_MAX: usize = 64 << 20;
/// What a waiting request costs besides its buffer, roughly.
const REQUEST_COST: usize = 4096;
/// How far the first look for one extent reaches, in bytes.
const LOOK_AHEAD: u64 = 16 << 10;
/// How much further each next look reaches than the one before.
const LOOK_FURTHER: u64 = 16;
/// Most extents of one answer to BLOCK_STATUS.
pub(super) const EXTENTS_MAX: usize = 4096;

/// The waiting requests of one connection.
#[derive(Default)]
pub(super) struct Waiting {
    requests: FuturesUnordered<LocalFut<'static, Finished>>,
    /// Carried out, and not answered yet.
    finished: VecDeque<Finished>,
    bytes: usize,
}

/// A request that has been carried out.
pub(super) struct Finished {
    pub(super) cookie: Cookie,
    pub(super) done: Done,
    cost: usize,
}

/// What came of it.
pub(super) enum Done {
    /// A read, with the bytes.
    Read { range: ByteRange, one_fragment: bool, lease: Lease },
    /// Something without data.
    Nothing,
    /// Block status: at least one extent.
    Extents(Vec<Extent>),
    /// It failed.
    Failed(block::BlockError),
}

impl Waiting {
    /// Whether another request may be taken in.
    pub(super) fn has_room(&self) -> bool {
        self.requests.len() + self.finished.len() < REQUESTS_MAX && self.bytes < BYTES_MAX
    }

    /// How many are still being carried out.
    pub(super) fn under_way(&self) -> usize {
        self.requests.len()
    }

    /// Whether some are still being carried out.
    pub(super) fn is_busy(&self) -> bool {
        !self.requests.is_empty()
    }

    /// Whether some are to be answered.
    pub(super) fn has_finished(&self) -> bool {
        !self.finished.is_empty()
    }

    /// Carries out the rest of `rq` on the view it was tried on. `one_fragment`: a read that must be answered in
    /// one chunk.
    pub(super) fn begin(
        &mut self,
        view: Arc<View>,
        cookie: Cookie,
        rq: Request,
        lease: Lease,
        one_fragment: bool,
    ) {
        self.push(cookie, lease.len(), async move {
            let (result, lease) = seam::execute(&view, rq, lease).await;
            match (result, rq.op) {
                (Err(error), _) => Done::Failed(error),
                (Ok(()), Op::Read) => Done::Read { range: rq.range, one_fragment, lease },
                (Ok(()), _) => Done::Nothing,
            }
        });
    }

    /// Asks for block status; `one`: of one extent only.
    pub(super) fn begin_extents(&mut self, view: Arc<View>, cookie: Cookie, range: ByteRange, one: bool) {
        let most = if one { 1 } else { EXTENTS_MAX };
        self.push(cookie, most * size_of::<Extent>(), async move {
            let found = if one { first_extent(&view, range).await } else { extents(&view, range).await };
            match found {
                Ok(extents) => Done::Extents(extents),
                Err(error) => Done::Failed(error),
            }
        });
    }

    fn push(&mut self, cookie: Cookie, bytes: usize, request: impl Future<Output = Done> + 'static) {
        let cost = bytes + REQUEST_COST;
        self.bytes += cost;
        self.requests.push(Box::pin(async move { Finished { cookie, done: request.await, cost } }));
    }

    /// Lets them go on; answers whether they should be asked again soon, because this was enough for once.
    pub(super) fn go_on(&mut self, cx: &mut Context<'_>) -> bool {
        if self.requests.is_empty() {
            return false;
        }
        let begun = io::now();
        while let Poll::Ready(Some(finished)) = Pin::new(&mut self.requests).poll_next(cx) {
            self.finished.push_back(finished);
            if budget::is_spent(begun) {
                return true;
            }
        }
        false
    }

    /// The next one to answer.
    pub(super) fn next_finished(&mut self) -> Option<Finished> {
        let finished = self.finished.pop_front()?;
        self.bytes -= finished.cost;
        Some(finished)
    }

    /// Waits until all have been carried out; nobody is left to be answered.
    pub(super) async fn settle(&mut self) {
        while self.requests.next().await.is_some() {}
        self.finished.clear();
        self.bytes = 0;
    }
}

/// The first extents of `range`, none of them reaching beyond it.
async fn extents(view: &View, range: ByteRange) -> Result<Vec<Extent>> {
    let mut extents = seam::extents(view, range).await?;
    extents.truncate(EXTENTS_MAX);
    extents.shrink_to_fit();
    for extent in &mut extents {
        extent.range = extent.range.intersection(range);
    }
    Ok(extents)
}

/// The first extent of `range`. Looks ahead in growing steps, since a fragmented image may have thousands of
/// extents there that nobody asked for.
async fn first_extent(view: &View, range: ByteRange) -> Result<Vec<Extent>> {
    let (mut found, mut step) = (Vec::with_capacity(1), LOOK_AHEAD);
    let mut rest = range;
    loop {
        extents(view, rest.head(step)).await?.into_iter().for_each(|next| push_extent(&mut found, next));
        let end = found.last().map_or(rest.start(), |last| last.range.end());
        if found.len() != 1 || end <= rest.start() || end >= range.end() {
            found.truncate(1);
            return Ok(found);
        }
        rest = ByteRange::between(end, range.end());
        step = step.saturating_mul(LOOK_FURTHER);
    }
}
