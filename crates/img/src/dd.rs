//! `dd`: copies blocks from the front of an image, or from behind what is skipped, to a new one.

use block::ByteRange;
use flow::{Op, Request, Root, seam};
use graph::Demand;

use crate::failure::{Failure, Result};
use crate::flags;
use crate::foreign;
use crate::given::{Flag, Given};
use crate::image::Image;
use crate::new_image::{NewImage, Then};
use crate::numbers::{self, INT, Range, SIZE_MAX};
use crate::option_list;
use crate::session::{How, Session, Source};
use crate::settings::Settings;
use crate::verbs::{Call, Verb};
use crate::words;

/// The verb.
pub(crate) const VERB: Verb = Verb {
    name: "dd",
    about: "copy blocks of an image to a new one",
    operands: "[bs=BYTES] [count=BLOCKS] [skip=BLOCKS] if=INPUT of=OUTPUT",
    flags: FLAGS,
    signed: false,
    run: |call| Box::pin(run(call)),
};

const FLAGS: &[Flag] = &[
    Flag::with('f', "format", "FMT", "format of INPUT"),
    Flag::with('O', "output-format", "FMT", "format of OUTPUT (raw)"),
    flags::FORCE_SHARE,
    flags::OBJECT,
    flags::IMAGE_OPTS,
];

/// Bytes of a block unless `bs` says otherwise.
const BLOCK: u64 = 512;
/// Most bytes of one request: what is copied depends on blocks only at its ends.
const CHUNK: u64 = 1 << 20;
/// How much is asked for in one question for extents.
const QUESTION: u64 = 1 << 30;

/// What is copied.
#[derive(Clone, Debug)]
struct Operands {
    input: String,
    output: String,
    block: u64,
    count: Option<u64>,
    skip: u64,
}

async fn run(call: Call) -> Result<u8> {
    let Call { session, given } = call;
    session.add_objects(given.objects()).await?;
    let operands = Operands::parse(&given)?;
    let source =
        Source { name: &operands.input, format: given.value("format"), image_opts: given.has("image-opts") };
    let how = How { force_share: given.has("force-share"), ..How::READ };
    let image = session.open(source, how).await?;
    let format = given.value("output-format").unwrap_or("raw");
    if foreign::is_foreign(format) {
        return Err(foreign::not_made_yet(format));
    }
    let table = option_list::on_file(format).map_err(|_| Failure::new("Unknown file format"))?;
    let size = image.size_in_sectors()?;
    let last = operands.count.and_then(|count| count.checked_mul(operands.block)).unwrap_or(size).min(size);
    let (start, end) = operands.range(last, size);
    if start > last {
        session.listener.complain(&format!("{}: cannot skip to specified offset", operands.input));
    }
    let mut settings = Settings::new(table);
    let len = end.saturating_sub(start);
    settings.set("size", &len.to_string())?;
    let made = NewImage::new(format, &settings)?.create(&session, &operands.output, Then::Data).await;
    made.map_err(|failure| {
        let why = failure.text.unwrap_or_default();
        Failure::new(format!("{}: error while creating output image: {why}", operands.output))
    })?;
    let target = Source { name: &operands.output, format: Some(format), image_opts: false };
    let target = session.open(target, How::WRITE).await?;
    let range = ByteRange::between(start.min(size), end.max(start.min(size)));
    copy(&session, &image, &target, range).await?;
    session.engine.flush(&target.node).await?;
    target.close().await?;
    session.made.keep();
    image.close().await?;
    Ok(0)
}

async fn copy(session: &Session, from: &Image, to: &Image, range: ByteRange) -> Result<()> {
    let (source, target) = (from.attach(Demand::LOOK)?, to.attach(Demand::CHANGE)?);
    let end = range.end().min(from.size()?);
    let mut at = range.start();
    while at < end {
        session.check_called_off()?;
        let rest = ByteRange::between(at, end);
        for extent in seam::extents(&source.root.view(), rest.head(QUESTION)).await? {
            at = extent.range.end();
            if !extent.state.reads_zero() {
                copy_data(session, (&source.root, &target.root), extent.range, range.start()).await?;
            }
        }
    }
    source.end().await?;
    target.end().await
}

/// Copies a run of data; what lies at `first` goes to the beginning of the target.
async fn copy_data(session: &Session, (from, to): (&Root, &Root), run: ByteRange, first: u64) -> Result<()> {
    let mut rest = run;
    while !rest.is_empty() {
        session.check_called_off()?;
        let piece = rest.head(CHUNK);
        let bytes = seam::read(&from.view(), piece).await.map_err(|error| {
            Failure::new(format!("error while reading from input image file: {}", words::cause(&error)))
        })?;
        let rq = Request::new(Op::Write, ByteRange::new(piece.start() - first, piece.len()));
        let (written, _) = seam::execute(&to.view(), rq, bytes).await;
        written.map_err(|error| {
            Failure::new(format!("error while writing to output image file: {}", words::cause(&error)))
        })?;
        rest = rest.skip(piece.len());
    }
    Ok(())
}

impl Operands {
    fn parse(given: &Given) -> Result<Self> {
        let (mut input, mut output) = (None, None);
        let (mut block, mut count, mut skip) = (BLOCK, None, 0);
        for operand in &given.operands {
            let Some((name, value)) = operand.split_once('=') else {
                return Err(Failure::new(format!("unrecognized operand {operand}")));
            };
            match name {
                "if" => input = Some(value.to_owned()),
                "of" => output = Some(value.to_owned()),
                "bs" => block = numbers::bytes(value, "bs", INT)?,
                "count" => count = Some(numbers::count(value, "count", Range(0, SIZE_MAX))?),
                "skip" => skip = numbers::count(value, "skip", Range(0, SIZE_MAX))?,
                _ => return Err(Failure::new(format!("unrecognized operand {name}"))),
            }
        }
        match (input, output) {
            (Some(input), Some(output)) => Ok(Self { input, output, block, count, skip }),
            _ => Err(Failure::new("Must specify both input and output files")),
        }
    }

    /// From which byte to which; `end` is where `count` blocks from the front end. What is skipped counts among them,
    /// as it does in qemu-img.
    fn range(&self, end: u64, size: u64) -> (u64, u64) {
        let start = self.skip.saturating_mul(self.block);
        (start, if start > size { start } else { end.max(start) })
    }
}
