//! `bench`: sends requests to an image and tells how long they took.
//!
//! Invariant: memory is that of the requests under way, which is bounded by what the image and [`BUFFERS_MAX`] allow.

use std::future::Future;

use block::{BlockError, ByteRange};
use flow::{Op, Request, Root, seam};
use futures_util::future::Either;
use futures_util::stream::{FuturesUnordered, StreamExt};
use graph::Demand;
use io::Lease;

use crate::cache::Cache;
use crate::failure::{Failure, Result};
use crate::flags;
use crate::given::{Flag, Given};
use crate::numbers::{self, INT, Range};
use crate::session::{How, Source};
use crate::verbs::{Call, Verb};
use crate::words;

/// The verb.
pub(crate) const VERB: Verb = Verb {
    name: "bench",
    about: "measure requests to an image",
    operands: "FILENAME",
    flags: FLAGS,
    signed: false,
    run: |call| Box::pin(run(call)),
};

const FLAGS: &[Flag] = &[
    flags::QUIET,
    flags::FORMAT,
    flags::IMAGE_OPTS,
    flags::CACHE,
    Flag::with('c', "count", "COUNT", "number of requests (75000)"),
    Flag::with('s', "buffer-size", "BUFFER_SIZE", "bytes of a request (4k)"),
    Flag::with('d', "depth", "DEPTH", "requests under way at a time (64)"),
    Flag::with('o', "offset", "OFFSET", "where the first one begins"),
    Flag::with('S', "step-size", "STEP_SIZE", "from one to the next (BUFFER_SIZE)"),
    Flag::with('i', "aio", "AIO", "threads, native or io_uring"),
    Flag::switch('n', "native", "the same as -i native"),
    Flag::switch('w', "write", "write rather than read"),
    Flag::long_with("pattern", "PATTERN", "the byte that is written (0)"),
    Flag::long_with("flush-interval", "FLUSH_INTERVAL", "flush after so many requests"),
    Flag::long("no-drain", "send the next ones while a flush is under way"),
    flags::FORCE_SHARE,
    flags::OBJECT,
];

/// Up to what a C `int` holds.
const INT_OR_NONE: Range = Range(0, i32::MAX as u64);
/// Most bytes of the buffers of all requests under way.
const BUFFERS_MAX: u64 = 1 << 30;
/// After so many requests signals are heard, also where none of them has to wait.
const BREATH: u64 = 256;

/// Which requests are sent.
struct Plan {
    write: bool,
    pattern: u8,
    count: u64,
    depth: u64,
    size: u64,
    step: u64,
    offset: u64,
    /// Requests between flushes; 0: none.
    flush_interval: u64,
    drain: bool,
}

async fn run(call: Call) -> Result<u8> {
    let Call { session, given } = call;
    session.add_objects(given.objects()).await?;
    let plan = Plan::parse(&given)?;
    let aio = aio(&given)?;
    let cache = Cache::named(given.value("cache"), "cache", Cache::WRITEBACK);
    let cache = cache.map_err(|_| Failure::new("Invalid cache mode"))?;
    let name = given.one_operand()?;
    plan.check()?;
    let source = Source { name, format: given.value("format"), image_opts: given.has("image-opts") };
    let how = How { writable: plan.write, cache, force_share: given.has("force-share"), aio, ..How::READ };
    let image = session.open(source, how).await?;
    let kind = if plan.write { "write" } else { "read" };
    session.listener.say(&format!(
        "Sending {} {kind} requests, {} bytes each, {} in parallel (starting at offset {}, step size {})\n",
        plan.count, plan.size, plan.depth, plan.offset, plan.step
    ));
    if plan.flush_interval > 0 {
        session.listener.say(&format!("Sending flush every {} requests\n", plan.flush_interval));
    }
    let user = image.attach(if plan.write { Demand::CHANGE } else { Demand::LOOK })?;
    let begun = io::now();
    plan.carry_out(&user.root, image.size_in_sectors()?).await?;
    let seconds = io::now().since(begun).as_secs_f64();
    session.listener.say(&format!("Run completed in {seconds:.3} seconds.\n"));
    user.end().await?;
    image.close().await?;
    Ok(0)
}

fn aio(given: &Given) -> Result<Option<&'static str>> {
    match given.value("aio") {
        None if given.has("native") => Ok(Some("native")),
        None => Ok(None),
        Some("threads") => Ok(Some("threads")),
        Some("native") => Ok(Some("native")),
        Some("io_uring") => Ok(Some("io_uring")),
        Some(other) => Err(Failure::new(format!("Invalid aio option: {other}"))),
    }
}

impl Plan {
    fn parse(given: &Given) -> Result<Self> {
        let count = |flag, what, range, default| {
            given.count(flag, what, range).map(|number| number.unwrap_or(default))
        };
        let bytes = |flag, what, range, default| {
            given.bytes(flag, what, range).map(|number| number.unwrap_or(default))
        };
        let requests = count("count", "request count", INT, 75_000)?;
        let depth = count("depth", "queue depth", INT, 64)?;
        let offset = bytes("offset", "offset", numbers::ANY, 0)?;
        let size = bytes("buffer-size", "buffer size", INT, 4096)?;
        let step = bytes("step-size", "step size", INT_OR_NONE, 0)?;
        let pattern = count("pattern", "pattern byte", Range(0, 255), 0)?;
        let flush_interval = count("flush-interval", "flush interval", INT_OR_NONE, 0)?;
        Ok(Self {
            write: given.has("write"),
            // At most 255.
            pattern: pattern as u8,
            count: requests,
            depth,
            size,
            step: if step == 0 { size } else { step },
            offset,
            flush_interval,
            drain: !given.has("no-drain"),
        })
    }

    fn check(&self) -> Result<()> {
        if self.flush_interval > 0 && !self.write {
            return Err(Failure::new("--flush-interval is only available in write tests"));
        }
        if self.flush_interval > 0 && self.flush_interval < self.depth {
            return Err(Failure::new("Flush interval can't be smaller than depth"));
        }
        Ok(())
    }

    /// Sends all requests to an image of `size` bytes, [`Plan::depth`] at a time, and the flushes between them.
    async fn carry_out(&self, root: &Root, size: u64) -> Result<()> {
        let mut next = self.offset;
        let (mut begun, mut requests, mut flushes) = (0, 0, 0);
        let (mut due, mut under_way) = (0, FuturesUnordered::new());
        loop {
            let is_due = self.flush_interval > 0 && due == self.flush_interval;
            if is_due && !(self.drain && requests > 0) {
                under_way.push(Either::Left(flush(root)));
                (due, flushes) = (0, flushes + 1);
            }
            let held = self.drain && (flushes > 0 || due == self.flush_interval && due > 0);
            if !held && begun < self.count && requests < self.depth {
                self.check_fits(next, size)?;
                under_way.push(Either::Right(self.send(root, next)));
                next = next
                    .checked_add(self.step)
                    .map_or(0, |next| if next >= size { next % size } else { next });
                (begun, requests, due) = (begun + 1, requests + 1, due + 1);
                if begun % BREATH == 0 {
                    io::yield_now().await;
                }
                continue;
            }
            match under_way.next().await {
                None => return Ok(()),
                Some((Op::Flush, result)) => {
                    flushes -= 1;
                    result.map_err(failed)?;
                }
                Some((_, result)) => {
                    requests -= 1;
                    result.map_err(failed)?;
                }
            }
        }
    }

    /// Fails where a request would leave the image, before it takes memory.
    fn check_fits(&self, offset: u64, size: u64) -> Result<()> {
        if offset.checked_add(self.size).is_none_or(|end| end > size) {
            return Err(Failure::new("Failed request: Input/output error"));
        }
        if self.depth.min(self.count) * self.size > BUFFERS_MAX {
            return Err(Failure::new(format!(
                "{} requests of {} bytes would take more than {BUFFERS_MAX} bytes of memory: choose a smaller depth (-d) or size (-s)",
                self.depth, self.size
            )));
        }
        Ok(())
    }

    fn send<'a>(
        &self,
        root: &'a Root,
        offset: u64,
    ) -> impl Future<Output = (Op, std::result::Result<(), BlockError>)> + use<'a> {
        let (op, len) = (if self.write { Op::Write } else { Op::Read }, self.size);
        let pattern = self.pattern;
        async move {
            let mut lease = Lease::new(len as usize);
            if op == Op::Write {
                lease.fill(pattern);
            }
            let rq = Request::new(op, ByteRange::new(offset, len));
            (op, seam::execute(&root.view(), rq, lease).await.0)
        }
    }
}

async fn flush(root: &Root) -> (Op, std::result::Result<(), BlockError>) {
    (Op::Flush, seam::execute(&root.view(), Request::flush(), Lease::empty()).await.0)
}

fn failed(error: BlockError) -> Failure {
    Failure::new(format!("Failed request: {}", words::cause(&error)))
}
