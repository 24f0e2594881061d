//! `throttle`: holds requests back so that all nodes of a throttle group together stay within its limits.
//!
//! Reads and requests that bring bytes near count as reads; writes, zeroing and discards as writes; flushes pass.
//!
//! Invariants: a request is charged once, whatever way it takes; one that the limits let go at once does not wait;
//! what waits goes on when the filter is taken out, and fails at its deadline.

use std::sync::Arc;

use block::{ChildIndex, Result};
use flow::{Body, Execute, Limits, Next, Now, Op, Powers, Request, Role, Stats, Window};
use io::{Lease, LocalFut};
use object::{Admit, Direction, ThrottleGroup};
use serde::Deserialize;

use crate::context::{OpenContext, Opened};
use crate::release::Release;

const CHILD: ChildIndex = ChildIndex(0);

/// Options, as QEMU's.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Options {
    /// Name of the throttle group (an object).
    pub throttle_group: String,
}

/// Opens a `throttle` node.
pub fn open(mut context: OpenContext) -> LocalFut<'static, Result<Opened>> {
    Box::pin(async move {
        let options: Options = context.parse()?;
        let limits = super::limits_above(context.child(Role::Filtered)?);
        let group = context.objects.throttle_group(&options.throttle_group)?;
        Ok(Opened::new(Body::Executes(Arc::new(Throttle { group, release: Release::default(), limits }))))
    })
}

struct Throttle {
    group: Arc<ThrottleGroup>,
    release: Release,
    limits: Limits,
}

fn direction(op: Op) -> Option<Direction> {
    match op {
        Op::Read | Op::Cache => Some(Direction::Read),
        Op::Write | Op::WriteZeroes | Op::Discard => Some(Direction::Write),
        Op::Flush => None,
    }
}

impl Throttle {
    /// Whether the request may go now; it has been charged then, or need not be.
    fn admit(&self, rq: &mut Request, next: Next<'_>) -> bool {
        let Some(direction) = direction(rq.op).filter(|_| rq.acted & next.slot() == 0) else { return true };
        let free = self.group.is_open() || self.release.frees(next);
        if free || self.group.admit(io::now(), direction, rq.rest().len()) == Admit::Now {
            rq.act(next.slot());
            return true;
        }
        false
    }

    async fn hold_back(&self, rq: &mut Request, next: Next<'_>) -> Result<()> {
        if self.admit(rq, next) {
            return Ok(());
        }
        if let Some(direction) = direction(rq.op) {
            let admitted = self.group.wait(direction, rq.rest().len());
            self.release.wait(rq, next, admitted).await?;
        }
        rq.act(next.slot());
        Ok(())
    }
}

impl Execute for Throttle {
    fn size(&self) -> Option<u64> {
        None
    }

    fn limits(&self) -> Limits {
        self.limits
    }

    fn try_now(&self, rq: &mut Request, window: Window<'_>, next: Next<'_>) -> Result<Now> {
        match self.admit(rq, next) {
            true => next.try_now(CHILD, rq, window),
            false => Ok(Now::Wait),
        }
    }

    fn execute<'a>(
        &'a self,
        mut rq: Request,
        lease: Lease,
        next: Next<'a>,
    ) -> LocalFut<'a, (Result<()>, Lease)> {
        Box::pin(async move {
            match self.hold_back(&mut rq, next).await {
                Ok(()) => next.execute(CHILD, rq, lease).await,
                Err(error) => (Err(error), lease),
            }
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

impl Stats for Throttle {
    fn stats(&self) -> Vec<(String, u64)> {
        let group = self.group.name();
        vec![
            (format!("{group}.waited"), self.group.waited()),
            (format!("{group}.waiting"), self.group.waiting() as u64),
        ]
    }
}
