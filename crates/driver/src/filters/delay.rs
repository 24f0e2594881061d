//! `delay`: makes requests take longer, to see what slow storage does to those above. A test filter.
//!
//! Invariants: a request is held back and counted once, whatever way it takes; what waits goes on when the filter is
//! taken out, and fails at its deadline.

use std::sync::Arc;
use std::time::Duration;

use block::{ChildIndex, Result};
use flow::{Body, Execute, Limits, Next, Now, Op, Powers, Request, Role, Stats, Window};
use io::{Lease, LocalFut};
use serde::Deserialize;

use crate::context::{OpenContext, Opened};
use crate::labels::{Label, LabelOptions};
use crate::release::Release;

const CHILD: ChildIndex = ChildIndex(0);

/// Options. A time may be given in milliseconds and in microseconds: the two are added.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct Options {
    /// Milliseconds by which reads take longer.
    pub read_ms: u32,
    /// Microseconds by which reads take longer.
    pub read_us: u32,
    /// Milliseconds by which writes take longer.
    pub write_ms: u32,
    /// Microseconds by which writes take longer.
    pub write_us: u32,
    /// Milliseconds by which zeroing takes longer.
    pub zero_ms: u32,
    /// Microseconds by which zeroing takes longer.
    pub zero_us: u32,
    /// Milliseconds by which discards take longer.
    pub discard_ms: u32,
    /// Microseconds by which discards take longer.
    pub discard_us: u32,
    /// Milliseconds by which flushes take longer.
    pub flush_ms: u32,
    /// Microseconds by which flushes take longer.
    pub flush_us: u32,
    /// Milliseconds by which requests to bring bytes near take longer.
    pub cache_ms: u32,
    /// Microseconds by which requests to bring bytes near take longer.
    pub cache_us: u32,
    /// Only requests that bear one of these labels are held back; without any, all are.
    pub labels: Vec<LabelOptions>,
}

impl Options {
    fn spans(&self) -> [Duration; 6] {
        let span = |ms: u32, us: u32| Duration::from_micros(u64::from(ms) * 1000 + u64::from(us));
        let mut spans = [Duration::ZERO; 6];
        for (op, ms, us) in [
            (Op::Read, self.read_ms, self.read_us),
            (Op::Write, self.write_ms, self.write_us),
            (Op::WriteZeroes, self.zero_ms, self.zero_us),
            (Op::Discard, self.discard_ms, self.discard_us),
            (Op::Flush, self.flush_ms, self.flush_us),
            (Op::Cache, self.cache_ms, self.cache_us),
        ] {
            spans[op as usize] = span(ms, us);
        }
        spans
    }
}

/// Opens a `delay` node.
pub fn open(mut context: OpenContext) -> LocalFut<'static, Result<Opened>> {
    Box::pin(async move {
        let options: Options = context.parse()?;
        let limits = super::limits_above(context.child(Role::Filtered)?);
        let spans = options.spans();
        let label = |(at, label)| Label::new(label, format!("label-{at}"));
        let labels = options.labels.into_iter().enumerate().map(label).collect::<Result<_>>()?;
        Ok(Opened::new(Body::Executes(Arc::new(Delay {
            spans,
            labels,
            limits,
            release: Release::default(),
        }))))
    })
}

struct Delay {
    /// By operation.
    spans: [Duration; 6],
    labels: Vec<Label>,
    limits: Limits,
    release: Release,
}

impl Delay {
    fn span(&self, rq: &Request) -> Duration {
        match self.labels.is_empty() || self.labels.iter().any(|label| label.fits(rq)) {
            true => self.spans[rq.op as usize],
            false => Duration::ZERO,
        }
    }

    /// Counts a request that the filter is done with.
    fn pass(&self, rq: &mut Request, next: Next<'_>) {
        if rq.act(next.slot()) {
            for label in self.labels.iter().filter(|label| label.fits(rq)) {
                label.count();
            }
        }
    }
}

impl Execute for Delay {
    fn size(&self) -> Option<u64> {
        None
    }

    fn limits(&self) -> Limits {
        self.limits
    }

    fn try_now(&self, rq: &mut Request, window: Window<'_>, next: Next<'_>) -> Result<Now> {
        let due = rq.acted & next.slot() == 0 && !self.span(rq).is_zero();
        if due && !self.release.frees(next) {
            return Ok(Now::Wait);
        }
        self.pass(rq, next);
        next.try_now(CHILD, rq, window)
    }

    fn execute<'a>(
        &'a self,
        mut rq: Request,
        lease: Lease,
        next: Next<'a>,
    ) -> LocalFut<'a, (Result<()>, Lease)> {
        Box::pin(async move {
            let span = self.span(&rq);
            if rq.acted & next.slot() == 0 && !span.is_zero() {
                let slept = self.release.wait(&rq, next, io::sleep(span)).await;
                if let Err(error) = slept {
                    return (Err(error), lease);
                }
            }
            self.pass(&mut rq, next);
            next.execute(CHILD, rq, lease).await
        })
    }

    fn release(&self) {
        self.release.release();
    }

    fn call_off(&self) {
        self.release.release_for_good();
    }

    fn powers(&self) -> Powers<'_> {
        Powers { stats: Some(self), ..Powers::default() }
    }
}

impl Stats for Delay {
    fn stats(&self) -> Vec<(String, u64)> {
        self.labels.iter().map(|label| (format!("{}.seen", label.name()), label.seen())).collect()
    }
}
