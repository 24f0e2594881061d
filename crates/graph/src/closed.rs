//! What a detached root sees: a node that answers every request with an error.

use block::{BlockError, ByteRange, ErrorKind, Extent, Result};
use flow::{Execute, Limits, Next, Now, Request, Window};
use io::{Lease, LocalFut};

/// The body of that node.
pub(crate) struct Closed {
    /// As before, so that what is asked for is in bounds.
    pub(crate) size: u64,
    /// Who was detached.
    pub(crate) user: String,
}

impl Closed {
    fn refusal(&self) -> BlockError {
        BlockError::new(ErrorKind::Cancelled, format!("{} has been detached from its node", self.user))
    }
}

impl Execute for Closed {
    fn size(&self) -> Option<u64> {
        Some(self.size)
    }

    fn limits(&self) -> Limits {
        Limits::NONE
    }

    fn try_now(&self, _: &mut Request, _: Window<'_>, _: Next<'_>) -> Result<Now> {
        Err(self.refusal())
    }

    fn execute<'a>(&'a self, _: Request, lease: Lease, _: Next<'a>) -> LocalFut<'a, (Result<()>, Lease)> {
        Box::pin(async move { (Err(self.refusal()), lease) })
    }

    fn extents<'a>(&'a self, _: ByteRange, _: Next<'a>) -> LocalFut<'a, Result<Vec<Extent>>> {
        Box::pin(async move { Err(self.refusal()) })
    }
}
