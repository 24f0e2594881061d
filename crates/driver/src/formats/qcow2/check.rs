//! Checking and repairing an image: I/O for [`qcow2::check`], on an image in use, one that is being opened, and one
//! that is opened for nothing else.
//!
//! Invariants: tables are read many at a time; nothing is repaired under a body that has tables in memory.

pub(super) mod check_only;
pub(super) mod image_file;

use std::sync::Arc;

use block::{BlockError, ByteRange, ErrorKind, Result};
use flow::events::NodeEvents;
use flow::sabotage::Rule;
use flow::{CheckReport, Next, Repair, Tell, View};
use futures_util::{StreamExt, stream};
use io::LocalFut;
use qcow2::Header;
use qcow2::check::{Check, Found, Step};

use super::Qcow2;
use super::image::Image;
use image_file::{ImageFile, disarm};

/// Reads of tables that are under way at a time. A read is at most 2 MiB long.
const READS_MAX: usize = 8;
/// Lines that are told of a repair which nobody has asked for.
const TOLD_MAX: usize = 4096;
/// Reads after which what they have shown to be wrong is written.
const GROUP: usize = 16;

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

/// What a repair has said, as far as somebody may want to read it.
#[derive(Default)]
struct Told {
    lines: Vec<String>,
    left_out: u64,
}

impl Told {
    fn note(&mut self, line: &str) {
        match self.lines.len() < TOLD_MAX {
            true => self.lines.push(line.to_owned()),
            false => self.left_out += 1,
        }
    }

    /// All that is to be told, if there is anything.
    fn lines(mut self) -> Option<Vec<String>> {
        if self.left_out > 0 {
            self.lines.push(format!("(and {} more lines)", self.left_out));
        }
        (!self.lines.is_empty()).then_some(self.lines)
    }
}

/// Repairs an image that was not closed while its refcounts were written late, before it is written again. What cannot
/// be repaired is an error; what was is told.
pub(super) async fn repair_dirty(file: &View, events: &NodeEvents) -> Result<()> {
    let mut told = Told::default();
    let report = check(ImageFile::View(file), Repair::All, &mut |line| told.note(line)).await;
    if let Some(lines) = told.lines() {
        events.repaired(lines);
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_a_long_story_the_beginning_is_told() {
        let mut told = Told::default();
        (0..TOLD_MAX + 3).for_each(|number| told.note(&number.to_string()));
        let lines = told.lines().unwrap_or_default();
        assert_eq!(lines.len(), TOLD_MAX + 1);
        assert_eq!((&*lines[TOLD_MAX - 1], &*lines[TOLD_MAX]), ("4095", "(and 3 more lines)"));
        assert_eq!(Told::default().lines(), None);
    }
}
