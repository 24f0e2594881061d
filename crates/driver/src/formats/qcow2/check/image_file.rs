//! The file of an image that is checked or amended: its tables, and its header.
//!
//! Invariant: a change of the header follows what was written before, and each of its writes is durable before the
//! next.

use block::{ByteRange, Result};
use flow::sabotage::{self, Rule};
use flow::{Next, Op, Request, View, seam};
use futures_util::{StreamExt, TryStreamExt, stream};
use io::Lease;
use qcow2::check::CheckWrite;
use qcow2::{BackingMark, FILE_CHILD, Header, HeaderEdit, cache};

/// Writes that are under way at a time.
const WRITES_MAX: usize = 8;

/// The file of an image, as who checks it reaches it.
#[derive(Clone, Copy)]
pub(crate) enum ImageFile<'a> {
    /// Before there is a node.
    View(&'a View),
    /// Below a node.
    Below(Next<'a>),
}

impl ImageFile<'_> {
    pub(crate) fn len(self) -> Result<u64> {
        match self {
            Self::View(view) => Ok(view.size()),
            Self::Below(next) => next.size(FILE_CHILD),
        }
    }

    /// Whether writes beyond its end make it longer.
    pub(crate) fn grows(self) -> Result<bool> {
        match self {
            Self::View(view) => Ok(view.root_grows()),
            Self::Below(next) => next.grows(FILE_CHILD),
        }
    }

    async fn execute(self, rq: Request, lease: Lease) -> Result<Lease> {
        let (result, lease) = match self {
            Self::View(view) => seam::execute(view, rq, lease).await,
            Self::Below(next) => next.execute(FILE_CHILD, rq, lease).await,
        };
        result.map(|()| lease)
    }

    pub(crate) async fn read(self, range: ByteRange) -> Result<Lease> {
        let lease = Lease::new(range.len() as usize);
        let read = self.execute(Request::new(Op::Read, range), lease).await;
        read.map_err(|error| error.within(format_args!("cannot read its tables at {range}")))
    }

    /// The first cluster, or as much of it as there is.
    pub(crate) async fn first_cluster(self) -> Result<Lease> {
        let len = self.len()?;
        let prefix = self.read(ByteRange::between(0, len.min(Header::PREFIX as u64))).await?;
        let needed = Header::needed(&prefix)? as u64;
        self.read(ByteRange::between(0, len.min(needed))).await
    }

    /// Makes durable what was written before, ahead of what relies on it; `rule` is what breaks without.
    pub(crate) async fn flush(self, rule: Rule) -> Result<()> {
        if sabotage::broken(rule) {
            return Ok(());
        }
        self.execute(Request::flush(), Lease::empty()).await.map(drop)
    }

    pub(crate) async fn write(self, writes: Vec<CheckWrite>) -> Result<()> {
        let end = writes.iter().map(|(at, bytes)| at + bytes.len() as u64).max().unwrap_or(0);
        if let Self::View(view) = self
            && end > view.size()
        {
            seam::resize(view, end).await?;
        }
        let write = |(at, bytes): CheckWrite| async move {
            let range = ByteRange::new(at, bytes.len() as u64);
            self.execute(Request::new(Op::Write, range), Lease::copy_of(&bytes)).await.map(drop)
        };
        stream::iter(writes.into_iter().map(write)).buffer_unordered(WRITES_MAX).try_collect::<()>().await
    }
}

/// Before the first change of an image: clears the autoclear bits of those whom we do not know. Answers whether there
/// were any.
pub(crate) async fn disarm(file: ImageFile<'_>, header: &Header) -> Result<bool> {
    match header.features.unknown_autoclear() & !(cache::AUTOCLEAR | BackingMark::AUTOCLEAR) {
        0 => Ok(false),
        foreign => edit(file, &HeaderEdit::ClearAutoclear(foreign)).await.map(|()| true),
    }
}

/// Carries a change of the header out, each write durable before the next one.
pub(crate) async fn edit(file: ImageFile<'_>, edit: &HeaderEdit) -> Result<()> {
    // What was written before is durable, too, when the header says so.
    file.flush(Rule::TablesBarrier).await?;
    for write in edit.writes(&file.first_cluster().await?)? {
        file.write(vec![(write.offset, write.bytes)]).await?;
        file.flush(Rule::TablesBarrier).await?;
    }
    Ok(())
}
