//! `compare`: whether two images read the same, and with `-s` hold it in the same way. Exit status 0: they do, 1: they
//! do not, above: they could not be opened (2), asked what they hold (3), or read (4).

mod strict;

use block::{BlockError, ByteRange};
use engine::Reader;

use crate::cache::Cache;
use crate::failure::{Failure, Result};
use crate::flags;
use crate::following::Following;
use crate::given::Flag;
use crate::image::Image;
use crate::session::{How, Session, Source};
use crate::verbs::{Call, Verb};
use strict::Statuses;

/// The verb.
pub(crate) const VERB: Verb = Verb {
    name: "compare",
    about: "tell whether two images read the same",
    operands: "FILENAME1 FILENAME2",
    flags: FLAGS,
    signed: false,
    run: |call| Box::pin(run(call)),
};

const FLAGS: &[Flag] = &[
    Flag::with('f', "a-format", "FMT", "format of the first image").or("left-format"),
    Flag::with('F', "b-format", "FMT", "format of the second image").or("right-format"),
    Flag::switch('s', "strict", "images of different size, or that hold bytes in other ways, differ"),
    flags::READ_CACHE,
    flags::PROGRESS,
    flags::QUIET,
    flags::FORCE_SHARE,
    flags::OBJECT,
    flags::IMAGE_OPTS,
];

const DIFFERENT: u8 = 1;
const FAILED: u8 = 2;
const NOT_ASKED: u8 = 3;
const NOT_READ: u8 = 4;
/// Bytes that are compared at a time.
const CHUNK: u64 = 2 << 20;

/// What the comparison has come to.
enum Verdict {
    Same,
    At(u64),
    /// The sizes differ, and that counts.
    Sizes,
    /// What they hold from there on differs, and that counts.
    Held(u64),
}

async fn run(call: Call) -> Result<u8> {
    let Call { session, given } = call;
    session.add_objects(given.objects()).await.map_err(|failure| failure.with_status(FAILED))?;
    let [first, second] = &given.operands[..] else {
        return Err(Failure::misused("Expecting two image file names"));
    };
    let formats = (given.value("a-format"), given.value("b-format"));
    let image_opts = given.has("image-opts");
    let cache = Cache::named(given.value("cache"), "source cache", Cache::WRITEBACK);
    let cache = cache.map_err(|failure| failure.with_status(FAILED))?;
    session.listener.begin_progress();
    let how = How { cache, force_share: given.has("force-share"), ..How::READ };
    let source = |name, format| Source { name, format, image_opts };
    let open = async |name, format| {
        session.open(source(name, format), how).await.map_err(|failure| failure.with_status(FAILED))
    };
    let images = (open(first, formats.0).await?, open(second, formats.1).await?);
    let quiet = given.has("quiet");
    let names = (first.as_str(), second.as_str());
    let verdict = compare(&session, (&images.0, &images.1), names, given.has("strict"), quiet).await?;
    images.0.close().await?;
    images.1.close().await?;
    let (text, status) = match verdict {
        Verdict::Same => ("Images are identical.".to_owned(), 0),
        Verdict::At(at) => (format!("Content mismatch at offset {at}!"), DIFFERENT),
        Verdict::Sizes => ("Strict mode: Image size mismatch!".to_owned(), DIFFERENT),
        Verdict::Held(at) => (format!("Strict mode: Offset {at} block status mismatch!"), DIFFERENT),
    };
    if !quiet {
        session.listener.say(&format!("{text}\n"));
    }
    Ok(status)
}

async fn compare(
    session: &Session,
    (first, second): (&Image, &Image),
    names: (&str, &str),
    strict: bool,
    quiet: bool,
) -> Result<Verdict> {
    let sizes = (first.size_in_sectors()?, second.size_in_sectors()?);
    let following = Following::begin(session, sizes.0.max(sizes.1));
    session.listener.progress(0.0);
    let report = |done: u64| following.reached(done);
    if strict && sizes.0 != sizes.1 {
        return Ok(Verdict::Sizes);
    }
    let side = |name, image: &Image| {
        Ok::<_, BlockError>(Side { name, reader: session.engine.look("compare", &image.node)? })
    };
    let sides = (side(names.0, first)?, side(names.1, second)?);
    let common = sizes.0.min(sizes.1);
    let verdict = both(&sides, common, strict, &report).await;
    if sizes.0 != sizes.1 && matches!(verdict, Ok(Verdict::Same)) && !quiet {
        session.listener.say("Warning: Image size mismatch!\n");
    }
    let verdict = match verdict {
        Ok(Verdict::Same) => {
            let longer = if sizes.0 > sizes.1 { &sides.0 } else { &sides.1 };
            rest_is_zero(longer, common, &report).await
        }
        other => other,
    };
    sides.0.reader.close().await?;
    sides.1.reader.close().await?;
    verdict
}

/// An image that is compared, under the name that it was given by.
struct Side<'a> {
    name: &'a str,
    reader: Reader,
}

impl Side<'_> {
    fn not_asked(&self, error: &BlockError) -> Failure {
        let doing = format!("Sector allocation test failed for {}", self.name);
        Failure::of(doing, error).with_status(NOT_ASKED)
    }

    /// The bytes of a range inside `run`; `None` where they are known to be zeros.
    async fn read(&self, range: ByteRange, run: Run) -> Result<Option<io::Lease>> {
        let end = range.end().min(self.reader.size()).max(range.start());
        let inside = ByteRange::between(range.start(), end);
        if run.reads_zero || inside.is_empty() {
            return Ok(None);
        }
        let failed = |error: BlockError| {
            let doing = format!("Error while reading offset {} of {}", range.start(), self.name);
            Failure::of(doing, &error).with_status(NOT_READ)
        };
        Ok(Some(self.reader.read(inside).await.map_err(failed)?))
    }
}

/// Compares what both have.
async fn both(
    sides: &(Side<'_>, Side<'_>),
    common: u64,
    strict: bool,
    report: &dyn Fn(u64),
) -> Result<Verdict> {
    let mut at = 0;
    let mut runs = (Runs::new(&sides.0), Runs::new(&sides.1));
    let mut statuses = (Statuses::new(&sides.0.reader), Statuses::new(&sides.1.reader));
    while at < common {
        let mut held = u64::MAX;
        if strict {
            let first = statuses.0.at(at).await.map_err(|error| sides.0.not_asked(&error))?;
            let second = statuses.1.at(at).await.map_err(|error| sides.1.not_asked(&error))?;
            if first.0 != second.0 {
                return Ok(Verdict::Held(at));
            }
            held = first.1.min(second.1);
        }
        let (first, second) = (runs.0.at(at).await?, runs.1.at(at).await?);
        let zeroes = first.reads_zero && second.reads_zero;
        let most = if zeroes { u64::MAX } else { CHUNK - at % CHUNK };
        let end = first.end.min(second.end).min(common).min(at.saturating_add(most)).min(held);
        let range = ByteRange::between(at, end);
        if !zeroes {
            let (a, b) = (sides.0.read(range, first).await?, sides.1.read(range, second).await?);
            if let Some(differs) = first_difference(a.as_deref(), b.as_deref()) {
                // In whole sectors, as QEMU tells it.
                return Ok(Verdict::At(at + differs / 512 * 512));
            }
        }
        at = end;
        report(at);
    }
    Ok(Verdict::Same)
}

/// What only the longer image has must be zeros.
async fn rest_is_zero(side: &Side<'_>, from: u64, report: &dyn Fn(u64)) -> Result<Verdict> {
    let (mut at, size) = (from, side.reader.size());
    let mut runs = Runs::new(side);
    while at < size {
        let run = runs.at(at).await?;
        let most = if run.reads_zero { u64::MAX } else { CHUNK - at % CHUNK };
        let end = run.end.min(size).min(at.saturating_add(most));
        let bytes = side.read(ByteRange::between(at, end), run).await?;
        if let Some(differs) = first_difference(bytes.as_deref(), None) {
            return Ok(Verdict::At(at + differs / 512 * 512));
        }
        at = end;
        report(at);
    }
    Ok(Verdict::Same)
}

/// Offset of the first byte that differs; what is missing reads as zeros.
fn first_difference(a: Option<&[u8]>, b: Option<&[u8]>) -> Option<u64> {
    let (a, b) = (a.unwrap_or_default(), b.unwrap_or_default());
    let common = a.len().min(b.len());
    if a[..common] != b[..common] {
        return a.iter().zip(b).position(|(x, y)| x != y).map(|at| at as u64);
    }
    let longer = if a.len() > b.len() { a } else { b };
    if flow::seam::is_zero(&longer[common..]) {
        return None;
    }
    longer[common..].iter().position(|byte| *byte != 0).map(|at| (common + at) as u64)
}

/// A stretch that is data or reads as zeros.
#[derive(Clone, Copy)]
struct Run {
    end: u64,
    reads_zero: bool,
}

/// The stretches of an image, asked for as they are needed.
struct Runs<'a> {
    side: &'a Side<'a>,
    /// In order, without gaps.
    known: Vec<block::Extent>,
}

/// How much is asked for in one question.
const QUESTION: u64 = 64 << 20;

impl<'a> Runs<'a> {
    fn new(side: &'a Side<'a>) -> Self {
        Self { side, known: Vec::new() }
    }

    /// The stretch that holds byte `at`; what lies behind the end reads as zeros.
    async fn at(&mut self, at: u64) -> Result<Run> {
        let size = self.side.reader.size();
        if at >= size {
            return Ok(Run { end: u64::MAX, reads_zero: true });
        }
        if self.known_at(at).is_none() {
            let range = ByteRange::between(at, size.min(at.saturating_add(QUESTION)));
            let known = self.side.reader.extents(range).await;
            self.known = known.map_err(|error| self.side.not_asked(&error))?;
        }
        let found = self.known_at(at);
        let reads_zero = found.is_some_and(|extent| extent.state.reads_zero());
        Ok(Run { end: found.map_or(size, |extent| extent.range.end()), reads_zero })
    }

    fn known_at(&self, at: u64) -> Option<&block::Extent> {
        let next = self.known.partition_point(|extent| extent.range.end() <= at);
        self.known.get(next).filter(|extent| extent.range.start() <= at)
    }
}

#[cfg(test)]
mod tests {
    use super::first_difference;

    #[test]
    fn what_is_missing_reads_as_zeros() {
        assert_eq!(first_difference(Some(b"ab"), Some(b"ab")), None);
        assert_eq!(first_difference(Some(b"ab"), Some(b"ac")), Some(1));
        assert_eq!(first_difference(None, Some(&[0; 9])), None);
        assert_eq!(first_difference(Some(&[0, 0, 7]), None), Some(2));
        assert_eq!(first_difference(Some(&[1, 0, 0, 3]), Some(&[1])), Some(3));
    }
}
