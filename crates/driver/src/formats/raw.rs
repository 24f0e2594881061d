//! `raw`: the bytes of its child, or a window into them.
//!
//! Invariants: a window that was given a size never reaches beyond it, whoever asks; without one it is as long as
//! the child from the offset on, at any time.

use std::sync::Arc;
use std::sync::atomic::AtomicU32;

use block::{BlockError, ByteRange, ChildIndex, ErrorKind, Mapping, Permissions, Place, Result};
use flow::{Body, Changes, Format, Limits, Next, Powers, Prepared, Request, Resize, Role};
use io::{Lease, LocalFut};
use serde::Deserialize;

use crate::context::{OpenContext, Opened};

const FILE: ChildIndex = ChildIndex(0);
const SECTOR: u64 = 512;

/// Options, as QEMU's.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Options {
    /// First byte of the child that is shown; 0 without it.
    #[serde(default)]
    pub offset: u64,
    /// How many bytes are shown, a multiple of 512; without it all that the child has.
    pub size: Option<u64>,
}

/// Opens a `raw` node.
pub fn open(mut context: OpenContext) -> LocalFut<'static, Result<Opened>> {
    Box::pin(async move {
        let options: Options = context.parse()?;
        let file = context.child(Role::Filtered)?;
        check(&options, file.size())?;
        let limits = Limits { zeroing: file.limits().zeroing, ..Limits::NONE };
        let raw = Raw { offset: options.offset, size: options.size, writable: !context.read_only, limits };
        // As in QEMU, a window minds that its file is cut, whoever looks through it.
        let window = options.offset != 0 || options.size.is_some();
        let unshares = if window { Permissions::RESIZE } else { Permissions::NONE };
        Ok(Opened { unshares, ..Opened::new(Body::Maps(Arc::new(raw))) })
    })
}

fn check(options: &Options, actual: u64) -> Result<()> {
    let Options { offset, size } = *options;
    let refused = |context| Err(BlockError::new(ErrorKind::Invalid, context));
    if offset > actual {
        return refused(format!(
            "Offset ({offset}) cannot be greater than size of the containing file ({actual})"
        ));
    }
    let Some(size) = size else { return Ok(()) };
    if actual - offset < size {
        return refused(format!(
            "The sum of offset ({offset}) and size ({size}) has to be smaller or equal to the actual size of the \
             containing file ({actual})"
        ));
    }
    if !size.is_multiple_of(SECTOR) {
        return refused(format!("Specified size is not multiple of {SECTOR}"));
    }
    Ok(())
}

struct Raw {
    offset: u64,
    /// `None`: as long as the child.
    size: Option<u64>,
    writable: bool,
    limits: Limits,
}

impl Raw {
    /// The same bytes of the child.
    fn below(&self, range: ByteRange) -> Result<ByteRange> {
        let below = range.start().checked_add(self.offset).and_then(|at| ByteRange::checked(at, range.len()));
        below.ok_or_else(|| self.beyond(range))
    }

    #[cold]
    fn beyond(&self, range: ByteRange) -> BlockError {
        let context = match self.size {
            Some(size) => format!("{range} reach beyond the fixed size {size}"),
            None => format!("{range} cannot be had at offset {} of the child", self.offset),
        };
        BlockError::new(ErrorKind::NoSpace, context)
    }
}

impl Format for Raw {
    fn size(&self) -> u64 {
        self.size.unwrap_or(0)
    }

    fn sized_by(&self) -> Option<(ChildIndex, u64)> {
        self.size.is_none().then_some((FILE, self.offset))
    }

    fn limits(&self) -> Limits {
        self.limits
    }

    fn map_now(&self, range: ByteRange) -> Result<Option<Mapping>> {
        let shown = match self.size {
            Some(size) => size.saturating_sub(range.start()).min(range.len()),
            None => range.len(),
        };
        if shown == 0 {
            return Ok(Some(Mapping::new(Place::Zero, range.len())));
        }
        let at = self.below(range.head(shown))?;
        let place = Place::Data { child: FILE, offset: at.start(), exclusive: self.writable };
        Ok(Some(Mapping::new(place, at.len())))
    }

    fn load<'a>(&'a self, _range: ByteRange, _next: Next<'a>) -> LocalFut<'a, Result<()>> {
        Box::pin(async { Ok(()) })
    }

    fn read_special<'a>(
        &'a self,
        range: ByteRange,
        lease: Lease,
        _next: Next<'a>,
    ) -> LocalFut<'a, (Result<()>, Lease)> {
        // Nothing is ever mapped as special here.
        Box::pin(async move { (Err(self.beyond(range)), lease) })
    }

    fn changes(&self) -> Option<&dyn Changes> {
        if self.writable { Some(self) } else { None }
    }

    fn powers(&self) -> Powers<'_> {
        Powers { resize: Some(self), ..Powers::default() }
    }
}

impl Changes for Raw {
    fn prepare<'a>(&'a self, range: ByteRange, _next: Next<'a>) -> LocalFut<'a, Result<Option<Prepared>>> {
        // Only what lies beyond a fixed size is not writable in place.
        Box::pin(async move { Err(self.beyond(range)) })
    }

    fn commit(&self, prepared: Prepared, _next: Next<'_>) -> Result<()> {
        Err(self.beyond(prepared.guest))
    }

    fn change<'a>(&'a self, rq: Request, next: Next<'a>) -> LocalFut<'a, Result<()>> {
        Box::pin(async move {
            if self.size.is_some_and(|size| rq.range.end() > size) {
                return Err(self.beyond(rq.range));
            }
            let range = if rq.range.is_empty() { rq.range } else { self.below(rq.range)? };
            next.execute(FILE, rq.on(range), Lease::empty()).await.0
        })
    }

    fn generation(&self, _offset: u64) -> Option<&AtomicU32> {
        None
    }
}

impl Resize for Raw {
    fn resize<'a>(&'a self, size: u64, next: Next<'a>) -> LocalFut<'a, Result<()>> {
        Box::pin(async move {
            if self.size.is_some() {
                let context = "Cannot resize fixed-size raw disks";
                return Err(BlockError::new(ErrorKind::Unsupported, context));
            }
            let Some(size) = size.checked_add(self.offset) else {
                let context = "Disk size too large for the chosen offset";
                return Err(BlockError::new(ErrorKind::Invalid, context));
            };
            next.resize(FILE, size).await
        })
    }
}
