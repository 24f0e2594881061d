//! Checking and repairing an image: I/O for [`qcow2::check`], on an image in use, one that is being opened, and one
//! that is opened for nothing else.
//!
//! Invariants: tables are read many at a time; nothing is repaired under a body that has tables in memory.

use std::sync::Arc;

use block::{BlockError, ByteRange, ErrorKind, Mapping, Result};
use flow::sabotage::{self, Rule};
use flow::{CheckReport, Format, Limits, Next, Op, Powers, Repair, Request, Tell, View, seam};
use futures_util::{StreamExt, TryStreamExt, stream};
use io::{Lease, LocalFut};
use qcow2::check::{Check, CheckWrite, Found, Step};
use qcow2::{FILE_CHILD, Header};

use super::Qcow2;
use super::amend::disarm;
use super::image::Image;

/// Reads of tables, and writes, that are under way at a time. A read is at most 2 MiB long.
const READS_MAX: usize = 8;
const WRITES_MAX: usize = 8;
/// Reads after which what they have shown to be wrong is written.
const GROUP: usize = 16;

/// The file of an image, as who checks it reaches it.
#[derive(Clone, Copy)]
pub(super) enum ImageFile<'a> {
    /// Before there is a node.
    View(&'a View),
    /// Below a node.
    Below(Next<'a>),
}

impl ImageFile<'_> {
    pub(super) fn len(self) -> Result<u64> {
        match self {
            Self::View(view) => Ok(view.size()),
            Self::Below(next) => next.size(FILE_CHILD),
        }
    }

    /// Whether writes beyond its end make it longer.
    pub(super) fn grows(self) -> Result<bool> {
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

    async fn read(self, range: ByteRange) -> Result<Lease> {
        let lease = Lease::new(range.len() as usize);
        let read = self.execute(Request::new(Op::Read, range), lease).await;
        read.map_err(|error| error.within(format_args!("cannot read its tables at {range}")))
    }

    /// The first cluster, or as much of it as there is.
    pub(super) async fn first_cluster(self) -> Result<Lease> {
        let len = self.len()?;
        let prefix = self.read(ByteRange::between(0, len.min(Header::PREFIX as u64))).await?;
        let needed = Header::needed(&prefix)? as u64;
        self.read(ByteRange::between(0, len.min(needed))).await
    }

    /// Makes durable what was written before, ahead of what relies on it; `rule` is what breaks without.
    pub(super) async fn flush(self, rule: Rule) -> Result<()> {
        if sabotage::broken(rule) {
            return Ok(());
        }
        self.execute(Request::flush(), Lease::empty()).await.map(drop)
    }

    pub(super) async fn write(self, writes: Vec<CheckWrite>) -> Result<()> {
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

/// Checks the image in `file`, and mends what `repair` says.
pub(super) async fn check(file: ImageFile<'_>, repair: Repair, tell: Tell<'_>) -> Result<CheckReport> {
    let mut first = file.first_cluster().await?;
    // Before whatever is written, and as QEMU does even where nothing is.
    if repair != Repair::Nothing && disarm(file, &Header::parse(&first)?).await? {
        first = file.first_cluster().await?;
    }
    let mut check = Check::new(&first, file.len()?, file.grows()?, kind(repair))?;
    run(file, &mut check, Rule::RepairBarrier, tell).await?;
    Ok(report(check.found()))
}

/// Carries a check out; `rule` is what breaks without its barriers.
pub(super) async fn run(file: ImageFile<'_>, check: &mut Check, rule: Rule, tell: Tell<'_>) -> Result<()> {
    loop {
        let step = check.step();
        check.drain_lines().iter().for_each(|line| tell(line));
        match step? {
            Step::Read(ranges) => read_all(file, ranges, check, tell).await?,
            Step::Write(writes) => file.write(writes).await?,
            Step::Barrier => file.flush(rule).await?,
            Step::Again => io::yield_now().await,
            Step::Done => return Ok(()),
        }
    }
}

async fn read_all(
    file: ImageFile<'_>,
    ranges: Vec<ByteRange>,
    check: &mut Check,
    tell: Tell<'_>,
) -> Result<()> {
    for ranges in ranges.chunks(GROUP) {
        let reads = ranges.iter().map(|range| file.read(*range));
        let (mut reads, mut writes) = (stream::iter(reads).buffered(READS_MAX), Vec::new());
        while let Some(bytes) = reads.next().await {
            check.take(&bytes?)?;
            check.drain_lines().iter().for_each(|line| tell(line));
            writes.extend(check.drain_writes());
        }
        // None waits for a read that nobody drives: below a throttle they would come first.
        file.write(writes).await?;
    }
    Ok(())
}

fn kind(repair: Repair) -> qcow2::check::Repair {
    match repair {
        Repair::Nothing => qcow2::check::Repair::Nothing,
        Repair::Leaks => qcow2::check::Repair::Leaks,
        Repair::All => qcow2::check::Repair::All,
    }
}

fn report(found: Found) -> CheckReport {
    CheckReport {
        corruptions: found.corruptions,
        leaks: found.leaks,
        errors: found.check_errors,
        corruptions_fixed: found.corruptions_fixed,
        leaks_fixed: found.leaks_fixed,
        total: found.total_clusters,
        allocated: found.allocated_clusters,
        fragmented: found.fragmented_clusters,
        compressed: found.compressed_clusters,
        image_end: found.image_end_offset,
    }
}

/// Repairs an image that was not closed while its refcounts were written late, before it is written again. What cannot
/// be repaired is an error.
pub(super) async fn repair_dirty(file: &View) -> Result<()> {
    let report = check(ImageFile::View(file), Repair::All, &mut |_| ()).await;
    let left = match report {
        Ok(report) if report.errors + report.corruptions == 0 => return Ok(()),
        Ok(report) => {
            let context = format!("{} corruptions and {} errors are left", report.corruptions, report.errors);
            BlockError::new(ErrorKind::Corrupt, context)
        }
        Err(error) => error,
    };
    Err(left.within("it is marked dirty, and could not be repaired"))
}

impl Image {
    /// Checks what is on disk, while nobody writes tables.
    async fn check_on_disk(self: &Arc<Self>, tell: Tell<'_>, next: Next<'_>) -> Result<CheckReport> {
        if self.writer.is_none() {
            return check(ImageFile::Below(next), Repair::Nothing, tell).await;
        }
        // What was dropped is free only when a flush has ended that says so, and on disk with the next one.
        self.flush(next).await?;
        self.alone(async |turn| {
            self.flush_once(turn, next).await?;
            check(ImageFile::Below(next), Repair::Nothing, tell).await
        })
        .await
    }
}

impl flow::Check for Qcow2 {
    fn check<'a>(
        &'a self,
        repair: Repair,
        tell: Tell<'a>,
        next: Next<'a>,
    ) -> LocalFut<'a, Result<CheckReport>> {
        Box::pin(async move {
            let outcome = match repair {
                Repair::Nothing => self.image.check_on_disk(tell, next).await,
                _ => Err(BlockError::new(
                    ErrorKind::Busy,
                    "it is in use: open it with 'check-only' to have it repaired",
                )),
            };
            outcome.map_err(|error| self.image.named(error))
        })
    }
}

/// The body of a node that was opened to be checked: whatever its tables hold, it opens, and it moves no bytes.
pub(super) struct CheckOnly {
    name: Box<str>,
    size: u64,
}

impl CheckOnly {
    pub(super) fn new(name: &str, header: &Header) -> Self {
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
