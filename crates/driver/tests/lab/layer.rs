//! A layer of a long chain: a format that maps everything alike and counts how often it is asked.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::SeqCst};

use block::{BlockError, ByteRange, ChildIndex, ErrorKind, Mapping, Place, Result};
use flow::{Changes, Format, Limits, Next, Prepared, Request};
use io::{Lease, LocalFut};

/// Children: `Backing` alone for a layer that holds nothing, `File` alone for one that maps all to its file.
pub struct Layer {
    size: u64,
    calls: Arc<AtomicU64>,
    /// Maps all to its file, writable in place, and may change (though it never does).
    preallocated: Option<AtomicU32>,
}

impl Layer {
    /// Holds nothing, and cannot change.
    pub fn empty(size: u64, calls: &Arc<AtomicU64>) -> Self {
        Self { size, calls: calls.clone(), preallocated: None }
    }

    /// Has all its bytes in its file, at the same offsets, whether the file is that long yet or not.
    pub fn preallocated(size: u64, calls: &Arc<AtomicU64>) -> Self {
        Self { size, calls: calls.clone(), preallocated: Some(AtomicU32::new(0)) }
    }
}

impl Format for Layer {
    fn size(&self) -> u64 {
        self.size
    }

    fn limits(&self) -> Limits {
        Limits::NONE
    }

    fn map_now(&self, range: ByteRange) -> Result<Option<Mapping>> {
        self.calls.fetch_add(1, SeqCst);
        let place = match self.preallocated {
            Some(_) => Place::Data { child: ChildIndex(0), offset: range.start(), exclusive: true },
            None => Place::Unallocated,
        };
        Ok(Some(Mapping::new(place, range.len())))
    }

    fn load<'a>(&'a self, _range: ByteRange, _next: Next<'a>) -> LocalFut<'a, Result<()>> {
        Box::pin(async { Ok(()) })
    }

    fn read_special<'a>(
        &'a self,
        _range: ByteRange,
        lease: Lease,
        _next: Next<'a>,
    ) -> LocalFut<'a, (Result<()>, Lease)> {
        Box::pin(async move { (Err(unasked()), lease) })
    }

    fn changes(&self) -> Option<&dyn Changes> {
        self.preallocated.is_some().then_some(self)
    }
}

impl Changes for Layer {
    fn prepare<'a>(&'a self, _range: ByteRange, _next: Next<'a>) -> LocalFut<'a, Result<Option<Prepared>>> {
        Box::pin(async { Err(unasked()) })
    }

    fn commit(&self, _prepared: Prepared, _next: Next<'_>) -> Result<()> {
        Err(unasked())
    }

    fn change<'a>(&'a self, rq: Request, next: Next<'a>) -> LocalFut<'a, Result<()>> {
        Box::pin(async move { next.execute(ChildIndex(0), rq, Lease::empty()).await.0 })
    }

    fn generation(&self, _offset: u64) -> Option<&AtomicU32> {
        self.preallocated.as_ref()
    }
}

fn unasked() -> BlockError {
    BlockError::new(ErrorKind::Invalid, "a layer is never asked for that")
}
