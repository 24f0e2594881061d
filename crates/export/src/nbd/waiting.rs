//! Requests that could not be answered at once, on their way.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use block::{ByteRange, Extent, Result};
use flow::{Op, Request, View, seam};
use futures_util::stream::{FuturesUnordered, Stream};
use io::{Lease, LocalFut};
use nbd::codec::Cookie;

/// Requests of one client that may wait at the same time.
pub(super) const REQUESTS_MAX: usize = 1024;
/// Bytes of buffers of one client that may wait at the same time; a single request may exceed it.
pub(super) const BYTES_MAX: usize = 64 << 20;

/// The waiting requests of one connection. They go on after the client has left: a write that has begun ends.
#[derive(Default)]
pub(super) struct Waiting {
    requests: FuturesUnordered<LocalFut<'static, Finished>>,
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
    Read { range: ByteRange, data_fragment: bool, lease: Lease },
    /// Something without data.
    Nothing,
    /// Block status.
    Extents { extents: Vec<Extent>, one: bool },
    /// It failed.
    Failed(block::BlockError),
}

impl Waiting {
    /// Whether another request may be taken in.
    pub(super) fn has_room(&self) -> bool {
        self.requests.len() < REQUESTS_MAX && self.bytes < BYTES_MAX
    }

    pub(super) fn is_empty(&self) -> bool {
        self.requests.is_empty()
    }

    /// Carries out the rest of `rq` on the view it was tried on. `data_fragment`: a read that must be answered
    /// in one chunk.
    pub(super) fn begin(
        &mut self,
        view: Arc<View>,
        cookie: Cookie,
        rq: Request,
        lease: Lease,
        data_fragment: bool,
    ) {
        let cost = lease.len();
        self.push(cost, async move {
            let (result, lease) = seam::execute(&view, rq, lease).await;
            let done = match (result, rq.op) {
                (Err(error), _) => Done::Failed(error),
                (Ok(()), Op::Read) => Done::Read { range: rq.range, data_fragment, lease },
                (Ok(()), _) => Done::Nothing,
            };
            Finished { cookie, done, cost }
        });
    }

    /// Asks for block status; `one`: of one extent only, cut to the range.
    pub(super) fn begin_extents(&mut self, view: Arc<View>, cookie: Cookie, range: ByteRange, one: bool) {
        self.push(0, async move {
            let done = match extents(&view, range, one).await {
                Ok(extents) => Done::Extents { extents, one },
                Err(error) => Done::Failed(error),
            };
            Finished { cookie, done, cost: 0 }
        });
    }

    fn push(&mut self, cost: usize, request: impl Future<Output = Finished> + 'static) {
        self.bytes += cost;
        self.requests.push(Box::pin(request));
    }

    /// The next one that has ended; pending also when there is none.
    pub(super) fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Finished> {
        match Pin::new(&mut self.requests).poll_next(cx) {
            Poll::Ready(Some(finished)) => {
                self.bytes -= finished.cost;
                Poll::Ready(finished)
            }
            Poll::Ready(None) | Poll::Pending => Poll::Pending,
        }
    }

    /// Waits until all have ended.
    pub(super) async fn settle(&mut self) {
        use futures_util::stream::StreamExt;
        while self.requests.next().await.is_some() {}
        self.bytes = 0;
    }
}

async fn extents(view: &View, range: ByteRange, one: bool) -> Result<Vec<Extent>> {
    let mut extents = seam::extents(view, range).await?;
    if one {
        extents.truncate(1);
    }
    for extent in &mut extents {
        extent.range = extent.range.intersection(range);
    }
    Ok(extents)
}
