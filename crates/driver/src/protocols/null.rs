//! `null-co` and `null-aio`: stores nothing, answers at once or after a fixed time. For measuring what lies above.
//!
//! Reads are always zeros, whether `read-zeroes` is set or not: a buffer may hold another client's bytes.

use std::sync::Arc;
use std::time::Duration;

use block::{ByteRange, Extent, ExtentState, Result};
use flow::{Body, Execute, Facts, ImageFacts, Limits, Next, Now, Op, Powers, Request, Window, ZeroCost};
use io::{Lease, LocalFut};
use serde::Deserialize;
use serde_json::{Map, Value};

use crate::context::{OpenContext, Opened};
use crate::options::Count;

/// Size without the option: QEMU's.
const SIZE_DEFAULT: u64 = 1 << 30;

/// Options, as QEMU's.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Options {
    /// Size in bytes; 1 GiB without it.
    pub size: Option<u64>,
    /// How long each request takes, in nanoseconds; 0 without it.
    #[serde(default)]
    pub latency_ns: Count<u64>,
    /// Say in block status that everything reads as zeros.
    #[serde(default)]
    pub read_zeroes: bool,
}

/// What a node shows: [`crate::Driver::shows`].
pub const SHOWS: &[&str] = &["read-zeroes", "size"];

/// Its name is that of its protocol, `plain`, if it shows what one does that was opened by that.
pub fn filename(plain: &str, options: &Map<String, Value>) -> Option<String> {
    SHOWS.iter().all(|option| !options.contains_key(*option)).then(|| plain.to_owned())
}

/// Opens a null node.
pub fn open(mut context: OpenContext) -> LocalFut<'static, Result<Opened>> {
    Box::pin(async move {
        let options: Options = context.parse()?;
        Ok(Opened::new(Body::Executes(Arc::new(Null {
            size: options.size.unwrap_or(SIZE_DEFAULT),
            latency: Duration::from_nanos(options.latency_ns.0),
            state: if options.read_zeroes { ExtentState::Hole } else { ExtentState::Data },
        }))))
    })
}

struct Null {
    size: u64,
    latency: Duration,
    state: ExtentState,
}

impl Execute for Null {
    fn size(&self) -> Option<u64> {
        Some(self.size)
    }

    fn limits(&self) -> Limits {
        Limits { zeroing: ZeroCost::Free, ..Limits::NONE }
    }

    fn try_now(&self, rq: &mut Request, mut window: Window<'_>, _next: Next<'_>) -> Result<Now> {
        if !self.latency.is_zero() {
            return Ok(Now::Wait);
        }
        let (from, rest) = (rq.done as usize, rq.rest().len());
        let lend = matches!(window, Window::Lend(_));
        if rq.op == Op::Read && !window.zero(from, rest as usize) {
            return Ok(Now::Wait);
        }
        Ok(if lend { Now::Lent } else { Now::Done })
    }

    fn execute<'a>(
        &'a self,
        rq: Request,
        mut lease: Lease,
        _next: Next<'a>,
    ) -> LocalFut<'a, (Result<()>, Lease)> {
        Box::pin(async move {
            if !self.latency.is_zero() {
                io::sleep(self.latency).await;
            }
            if rq.op == Op::Read {
                lease[rq.done as usize..].fill(0);
            }
            (Ok(()), lease)
        })
    }

    fn extents<'a>(&'a self, range: ByteRange, _next: Next<'a>) -> LocalFut<'a, Result<Vec<Extent>>> {
        Box::pin(async move { Ok(vec![Extent { range, state: self.state }]) })
    }

    fn powers(&self) -> Powers<'_> {
        Powers { facts: Some(self), ..Powers::default() }
    }
}

impl Facts for Null {
    fn facts(&self) -> ImageFacts {
        ImageFacts { allocated: Some(0), ..ImageFacts::default() }
    }
}
