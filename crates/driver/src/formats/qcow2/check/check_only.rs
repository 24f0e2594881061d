//! A node that was opened to be checked, repaired or amended.
//!
//! Invariant: it has no tables in memory, and moves no bytes of guests.

use block::{BlockError, ByteRange, ErrorKind, Mapping, Result};
use flow::{CheckReport, Format, Limits, Next, Powers, Repair, Tell};
use io::{Lease, LocalFut};
use qcow2::Header;

use super::check;
use super::image_file::ImageFile;

/// The body of a node that was opened to be checked: whatever its tables hold, it opens, and it moves no bytes.
pub(crate) struct CheckOnly {
    name: Box<str>,
    size: u64,
}

impl CheckOnly {
    pub(crate) fn new(name: &str, header: &Header) -> Self {
        Self { name: name.into(), size: header.virtual_size }
    }

    fn refusal(&self) -> BlockError {
        let context =
            format!("image '{}' was opened to be checked, and is neither read nor written", self.name);
        BlockError::new(ErrorKind::NotPermitted, context)
    }
}

impl Format for CheckOnly {
    fn size(&self) -> u64 {
        self.size
    }

    fn limits(&self) -> Limits {
        Limits::NONE
    }

    fn map_now(&self, _range: ByteRange) -> Result<Option<Mapping>> {
        Err(self.refusal())
    }

    fn load<'a>(&'a self, _range: ByteRange, _next: Next<'a>) -> LocalFut<'a, Result<()>> {
        Box::pin(async { Err(self.refusal()) })
    }

    fn read_special<'a>(
        &'a self,
        _range: ByteRange,
        lease: Lease,
        _next: Next<'a>,
    ) -> LocalFut<'a, (Result<()>, Lease)> {
        Box::pin(async { (Err(self.refusal()), lease) })
    }

    fn changes(&self) -> Option<&dyn flow::Changes> {
        None
    }

    fn powers(&self) -> Powers<'_> {
        Powers { check: Some(self), amend: Some(self), ..Powers::default() }
    }
}

impl flow::Check for CheckOnly {
    fn check<'a>(
        &'a self,
        repair: Repair,
        tell: Tell<'a>,
        next: Next<'a>,
    ) -> LocalFut<'a, Result<CheckReport>> {
        Box::pin(async move {
            let outcome = check(ImageFile::Below(next), repair, tell).await;
            outcome.map_err(|error| error.within(format_args!("image '{}'", self.name)))
        })
    }
}
