//! `memory`: a file in memory. Takes room only for what was written; gone when the node is.
//!
//! Invariants: what was never written reads as zeros; a reopen of the node keeps the contents and the size.

mod pages;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use block::{ByteRange, Extent, Result};
use flow::{Body, Execute, Limits, Next, Now, Op, Powers, Request, Resize, Window, ZeroCost};
use io::{Lease, LocalFut};
use serde::Deserialize;

use crate::context::{Kept, OpenContext, Opened};
use pages::{Pages, Patience};

/// Options.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Options {
    /// Size in bytes. Not looked at when the node is reopened: it keeps its size.
    pub size: u64,
}

/// Opens a `memory` node.
pub fn open(mut context: OpenContext) -> LocalFut<'static, Result<Opened>> {
    Box::pin(async move {
        let options: Options = context.parse()?;
        let kept = context.kept.take().and_then(|kept| kept.downcast::<Contents>().ok());
        let contents = kept.unwrap_or_else(|| Arc::new(Contents::new(options.size)));
        Ok(Opened::new(Body::Executes(Arc::new(Memory { contents }))))
    })
}

/// What outlives a reopen.
struct Contents {
    size: AtomicU64,
    pages: Pages,
}

impl Contents {
    fn new(size: u64) -> Self {
        Self { size: AtomicU64::new(size), pages: Pages::default() }
    }

    /// As a file does, it grows when something is written beyond its end.
    fn grow(&self, end: u64) {
        if end > self.size.load(Ordering::Acquire) {
            self.size.fetch_max(end, Ordering::AcqRel);
        }
    }
}

struct Memory {
    contents: Arc<Contents>,
}

impl Memory {
    /// Carries out what is left of `rq`: never waits for longer than another thread's copying of a page.
    fn carry_out(&self, rq: &Request, lease: &mut Lease) {
        let (rest, from) = (rq.rest(), rq.done as usize);
        let pages = &self.contents.pages;
        match rq.op {
            Op::Read => drop(pages.read(rest.start(), &mut lease[from..], Patience::Waits)),
            Op::Write => {
                pages.write(rest.start(), &lease[from..], Patience::Waits);
                self.contents.grow(rest.end());
            }
            Op::WriteZeroes => {
                pages.zero(rest);
                self.contents.grow(rest.end());
            }
            Op::Discard => pages.zero(rest),
            Op::Flush | Op::Cache => {}
        }
    }
}

impl Execute for Memory {
    fn size(&self) -> Option<u64> {
        Some(self.contents.size.load(Ordering::Acquire))
    }

    fn limits(&self) -> Limits {
        Limits { zeroing: ZeroCost::Fast, ..Limits::NONE }
    }

    fn try_now(&self, rq: &mut Request, window: Window<'_>, _next: Next<'_>) -> Result<Now> {
        let (rest, from) = (rq.rest(), rq.done as usize);
        let pages = &self.contents.pages;
        let done = match (rq.op, window) {
            (Op::Read, Window::In(buf)) => pages.read(rest.start(), &mut buf[from..], Patience::None),
            (Op::Write, Window::Out(bytes)) => {
                let done = pages.write(rest.start(), &bytes[from..], Patience::None);
                if done > 0 {
                    self.contents.grow(rest.start() + done as u64);
                }
                done
            }
            (Op::Flush | Op::Cache, _) => return Ok(Now::Done),
            _ => return Ok(Now::Wait),
        };
        rq.done += done as u32;
        Ok(if rq.rest().is_empty() { Now::Done } else { Now::Wait })
    }

    fn execute<'a>(
        &'a self,
        rq: Request,
        mut lease: Lease,
        _next: Next<'a>,
    ) -> LocalFut<'a, (Result<()>, Lease)> {
        Box::pin(async move {
            self.carry_out(&rq, &mut lease);
            (Ok(()), lease)
        })
    }

    fn extents<'a>(&'a self, range: ByteRange, _next: Next<'a>) -> LocalFut<'a, Result<Vec<Extent>>> {
        Box::pin(async move { Ok(self.contents.pages.extents(range)) })
    }

    fn keep(&self) -> Option<Kept> {
        Some(self.contents.clone())
    }

    fn powers(&self) -> Powers<'_> {
        Powers { resize: Some(self), ..Powers::default() }
    }
}

impl Resize for Memory {
    fn resize<'a>(&'a self, size: u64, _next: Next<'a>) -> LocalFut<'a, Result<()>> {
        Box::pin(async move {
            self.contents.size.store(size, Ordering::Release);
            // What comes back when it grows again is zeros.
            self.contents.pages.zero(ByteRange::between(size, u64::MAX));
            Ok(())
        })
    }
}
