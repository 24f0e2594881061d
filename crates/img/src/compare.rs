//! `compare`: whether two images read the same. Exit status 0: they do, 1: they do not, above: they could not be read.

use block::ByteRange;
use engine::Reader;

use crate::cache::Cache;
use crate::failure::{Failure, Result};
use crate::flags;
use crate::following::Following;
use crate::given::Flag;
use crate::image::Image;
use crate::session::{How, Session, Source};
use crate::verbs::{Call, Verb};

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
    Flag::with('f', "a-format", "FMT", "format of the first image"),
    Flag::with('F', "b-format", "FMT", "format of the second image"),
    Flag::switch('s', "strict", "images of different size differ"),
    flags::READ_CACHE,
    flags::PROGRESS,
    flags::QUIET,
    flags::FORCE_SHARE,
    flags::OBJECT,
    flags::IMAGE_OPTS,
];

const DIFFERENT: u8 = 1;
const FAILED: u8 = 2;
/// Bytes that are compared at a time.
const CHUNK: u64 = 2 << 20;

/// What the comparison has come to.
enum Verdict {
    Same,
    At(u64),
    /// The sizes differ, and that counts.
    Sizes,
}

async fn run(call: Call) -> Result<u8> {
    let Call { session, given } = call;
    let [first, second] = &given.operands[..] else {
        return Err(Failure::misused("Expecting two image file names"));
    };
    let formats = (given.value("a-format"), given.value("b-format"));
    let image_opts = given.has("image-opts");
    if image_opts && (formats.0.is_some() || formats.1.is_some()) {
        return Err(Failure::new("--image-opts and --format are mutually exclusive").with_status(FAILED));
    }
    let cache = Cache::named(given.value("cache"), "source cache", Cache::WRITEBACK);
    let cache = cache.map_err(|failure| failure.with_status(FAILED))?;
    session.add_objects(given.values("object")).await.map_err(|failure| failure.with_status(FAILED))?;
    let how = How { cache, force_share: given.has("force-share"), ..How::READ };
    let source = |name, format| Source { name, format, image_opts };
    let open = async |name, format| {
        session.open(source(name, format), how).await.map_err(|failure| failure.with_status(FAILED))
    };
    let images = (open(first, formats.0).await?, open(second, formats.1).await?);
    let quiet = given.has("quiet");
    let verdict = compare(&session, &images.0, &images.1, given.has("strict"), quiet).await;
    let verdict = verdict.map_err(|failure| failure.with_status(FAILED + 1))?;
    images.0.close().await?;
    images.1.close().await?;
    let (text, status) = match verdict {
        Verdict::Same => ("Images are identical.".to_owned(), 0),
        Verdict::At(at) => (format!("Content mismatch at offset {at}!"), DIFFERENT),
        Verdict::Sizes => ("Strict mode: Image size mismatch!".to_owned(), DIFFERENT),
    };
    if !quiet {
        session.listener.say(&format!("{text}\n"));
    }
    Ok(status)
}

async fn compare(
    session: &Session,
    first: &Image,
    second: &Image,
    strict: bool,
    quiet: bool,
) -> Result<Verdict> {
    let sizes = (first.size_in_sectors()?, second.size_in_sectors()?);
    let following = Following::begin(session, sizes.0.max(sizes.1));
    let report = |done: u64| following.reached(done);
    if strict && sizes.0 != sizes.1 {
        return Ok(Verdict::Sizes);
    }
    let readers =
        (session.engine.reader("compare", &first.node)?, session.engine.reader("compare", &second.node)?);
    let common = sizes.0.min(sizes.1);
    let verdict = both(&readers, common, &report).await;
    if sizes.0 != sizes.1 && matches!(verdict, Ok(Verdict::Same)) && !quiet {
        session.listener.say("Warning: Image size mismatch!\n");
    }
    let verdict = match verdict {
        Ok(Verdict::Same) => {
            let longer = if sizes.0 > sizes.1 { &readers.0 } else { &readers.1 };
            rest_is_zero(longer, common, &report).await
        }
        other => other,
    };
    readers.0.close().await?;
    readers.1.close().await?;
    verdict
}

/// Compares what both have.
async fn both(readers: &(Reader, Reader), common: u64, report: &dyn Fn(u64)) -> Result<Verdict> {
    let mut at = 0;
    let mut runs = (Runs::new(&readers.0), Runs::new(&readers.1));
    while at < common {
        let (first, second) = (runs.0.at(at).await?, runs.1.at(at).await?);
        let zeroes = first.reads_zero && second.reads_zero;
        let most = if zeroes { u64::MAX } else { CHUNK - at % CHUNK };
        let end = first.end.min(second.end).min(common).min(at.saturating_add(most));
        let range = ByteRange::between(at, end);
        if !zeroes {
            let (a, b) = (read(&readers.0, range, first).await?, read(&readers.1, range, second).await?);
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
async fn rest_is_zero(reader: &Reader, from: u64, report: &dyn Fn(u64)) -> Result<Verdict> {
    let (mut at, size) = (from, reader.size());
    let mut runs = Runs::new(reader);
    while at < size {
        let run = runs.at(at).await?;
        let most = if run.reads_zero { u64::MAX } else { CHUNK - at % CHUNK };
        let end = run.end.min(size).min(at.saturating_add(most));
        let bytes = read(reader, ByteRange::between(at, end), run).await?;
        if let Some(differs) = first_difference(bytes.as_deref(), None) {
            return Ok(Verdict::At(at + differs / 512 * 512));
        }
        at = end;
        report(at);
    }
    Ok(Verdict::Same)
}

/// The bytes of a range inside `run`; `None` where they are known to be zeros.
async fn read(reader: &Reader, range: ByteRange, run: Run) -> Result<Option<io::Lease>> {
    let inside = ByteRange::between(range.start(), range.end().min(reader.size()).max(range.start()));
    if run.reads_zero || inside.is_empty() {
        return Ok(None);
    }
    Ok(Some(reader.read(inside).await?))
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
    reader: &'a Reader,
    known: Vec<block::Extent>,
}

/// How much is asked for in one question.
const QUESTION: u64 = 64 << 20;

impl<'a> Runs<'a> {
    fn new(reader: &'a Reader) -> Self {
        Self { reader, known: Vec::new() }
    }

    /// The stretch that holds byte `at`; what lies behind the end reads as zeros.
    async fn at(&mut self, at: u64) -> Result<Run> {
        let size = self.reader.size();
        if at >= size {
            return Ok(Run { end: u64::MAX, reads_zero: true });
        }
        let covers = |extent: &&block::Extent| extent.range.start() <= at && at < extent.range.end();
        if self.known.iter().find(covers).is_none() {
            let range = ByteRange::between(at, size.min(at.saturating_add(QUESTION)));
            self.known = self.reader.extents(range).await?;
        }
        let found = self.known.iter().find(covers);
        let reads_zero = found.is_some_and(|extent| extent.state.reads_zero());
        Ok(Run { end: found.map_or(size, |extent| extent.range.end()), reads_zero })
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
