//! `raw`: the bytes of its child as they are, or a part of them.
//!
//! Invariant: every byte is mapped by a fixed shift, so that nothing has to be loaded, allocated or remembered.

use std::sync::Arc;
use std::sync::atomic::AtomicU32;

use block::{BlockError, ByteRange, ChildIndex, ErrorKind, Mapping, Place, Result};
use flow::{Body, Changes, Format, Limits, Next, Op, Prepared, Request, Role};
use io::{Lease, LocalFut};
use serde::Deserialize;

use crate::context::{OpenContext, Opened};

const CHILD: ChildIndex = ChildIndex(0);

/// Options of a raw node.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Options {
    /// First byte of the child that is byte 0 here; default 0.
    #[serde(default)]
    offset: u64,
    /// Length in bytes; default: to the end of the child.
    size: Option<u64>,
}

/// Opens a `raw` node.
pub fn open(mut context: OpenContext) -> LocalFut<'static, Result<Opened>> {
    Box::pin(async move {
        let options: Options = context.parse()?;
        let child = context.child(Role::File)?.size();
        let invalid = |text: String| {
            BlockError::new(ErrorKind::Invalid, format!("node '{}': {text}", context.node_name))
        };
        let left = child.checked_sub(options.offset).ok_or_else(|| {
            invalid(format!(
                "Offset ({}) cannot be greater than the size of the file ({child})",
                options.offset
            ))
        })?;
        let size = options.size.unwrap_or(left);
        if size > left {
            return Err(invalid(format!(
                "The sum of offset ({}) and size ({size}) has to be smaller or equal to the actual size of the containing file ({child})",
                options.offset
            )));
        }
        Ok(Opened::new(Body::Maps(Arc::new(Raw { offset: options.offset, size }))))
    })
}

struct Raw {
    offset: u64,
    size: u64,
}

impl Format for Raw {
    fn size(&self) -> u64 {
        self.size
    }

    fn limits(&self) -> Limits {
        Limits::NONE
    }

    fn map_now(&self, range: ByteRange) -> Result<Option<Mapping>> {
        let place = Place::Data { child: CHILD, offset: self.offset + range.start(), exclusive: true };
        Ok(Some(Mapping::new(place, range.len())))
    }

    fn load<'a>(&'a self, _: ByteRange, _: Next<'a>) -> LocalFut<'a, Result<()>> {
        Box::pin(async { Ok(()) })
    }

    fn read_special<'a>(
        &'a self,
        range: ByteRange,
        lease: Lease,
        _: Next<'a>,
    ) -> LocalFut<'a, (Result<()>, Lease)> {
        Box::pin(async move { (Err(never(range)), lease) })
    }

    fn changes(&self) -> Option<&dyn Changes> {
        Some(self)
    }
}

impl Changes for Raw {
    fn prepare<'a>(&'a self, _: ByteRange, _: Next<'a>) -> LocalFut<'a, Result<Option<Prepared>>> {
        Box::pin(async { Ok(None) })
    }

    fn commit(&self, prepared: Prepared, _: Next<'_>) -> Result<()> {
        Err(never(prepared.guest))
    }

    fn change<'a>(&'a self, rq: Request, next: Next<'a>) -> LocalFut<'a, Result<()>> {
        let below = match rq.op {
            Op::Flush => rq,
            _ => rq.on(rq.range.at(self.offset + rq.range.start())),
        };
        Box::pin(async move { next.execute(CHILD, below, Lease::empty()).await.0 })
    }

    fn generation(&self, _: u64) -> Option<&AtomicU32> {
        None
    }
}

/// Raw bytes are always mapped in place.
#[cold]
fn never(range: ByteRange) -> BlockError {
    BlockError::new(ErrorKind::Invalid, format!("a raw node was asked to allocate or unpack {range}"))
}
