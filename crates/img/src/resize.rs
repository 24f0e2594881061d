//! `resize`: makes an image larger or smaller.

use block::{BlockError, ByteRange};
use flow::{Op, Preallocation, Request, seam};
use graph::Demand;
use io::Lease;

use crate::cache::Cache;
use crate::failure::{Failure, Result};
use crate::flags;
use crate::given::Flag;
use crate::image::Image;
use crate::numbers::SIZE_MAX;
use crate::session::{How, Session, Source};
use crate::settings;
use crate::verbs::{Call, Verb};
use crate::words;

/// The verb.
pub(crate) const VERB: Verb = Verb {
    name: "resize",
    about: "change the size of an image",
    operands: "FILENAME [+|-]SIZE",
    flags: FLAGS,
    signed: true,
    run: |call| Box::pin(run(call)),
};

const FLAGS: &[Flag] = &[
    flags::FORMAT,
    Flag::long_with("preallocation", "PREALLOC", "off, metadata, falloc or full: room for what is new"),
    Flag::long("shrink", "allow a smaller size: what lies behind it is lost"),
    flags::QUIET,
    flags::OBJECT,
    flags::IMAGE_OPTS,
];

/// How the new size is meant.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum By {
    Exactly(u64),
    More(u64),
    Less(u64),
}

const SHRINKS: &str = "Use the --shrink option to perform a shrink operation.";
const LOSES: &str = "warning: Shrinking an image will delete all data beyond the shrunken image's end. Before performing such an operation, make sure there is no important data there.";

/// Bytes of zeros that are written at a time.
const ZEROES: u64 = 1 << 20;

async fn run(call: Call) -> Result<u8> {
    let Call { session, given } = call;
    session.add_objects(given.objects()).await?;
    let (name, size) = match &given.operands[..] {
        [name, size] => (name, size),
        [_, _, ..] => return Err(Failure::misused("Extra argument(s) in command line")),
        _ => return Err(Failure::misused("Expecting image file name and size")),
    };
    let mode = mode(given.value("preallocation").unwrap_or("off"))?;
    let by = wanted(size)?;
    let source = Source { name, format: given.value("format"), image_opts: given.has("image-opts") };
    // What is cut off goes back to the file system.
    let demand = Demand::CHANGE.and(Demand::RESIZE);
    let how = How { cache: Cache::WRITEBACK, unmap: true, demand: Some(demand), ..How::WRITE };
    let image = session.open(source, how).await?;
    let before = image.size_in_sectors()?;
    let after = match by {
        By::Exactly(size) => Some(size),
        By::More(more) => before.checked_add(more),
        By::Less(less) => before.checked_sub(less),
    };
    let after = after.filter(|size| (1..=SIZE_MAX).contains(size));
    let after = after.ok_or_else(|| Failure::new("New image size must be positive"))?;
    if after <= before && mode != Preallocation::Off {
        return Err(Failure::new("Preallocation can only be used for growing images"));
    }
    if after < before && !given.has("shrink") {
        session.listener.complain(SHRINKS);
        session.listener.complain(LOSES);
        return Err(Failure::silent(1));
    }
    check_mode(&image, mode)?;
    change(&session, &image, (before, after), mode, name).await?;
    session.engine.flush(&image.node).await?;
    image.close().await?;
    if !given.has("quiet") {
        session.listener.say("Image resized.\n");
    }
    Ok(0)
}

fn wanted(text: &str) -> Result<By> {
    let (make, digits): (fn(u64) -> By, &str) = match text.as_bytes().first() {
        Some(b'+') => (By::More, &text[1..]),
        Some(b'-') => (By::Less, &text[1..]),
        _ => (By::Exactly, text),
    };
    Ok(make(settings::size("size", digits)?))
}

fn mode(name: &str) -> Result<Preallocation> {
    let mode = Preallocation::ALL.into_iter().find(|mode| mode.name() == name);
    mode.ok_or_else(|| Failure::new(format!("Invalid preallocation mode '{name}'")))
}

fn check_mode(image: &Image, mode: Preallocation) -> Result<()> {
    match (mode, &image.header) {
        (Preallocation::Metadata, None) => Err(Failure::new("Unsupported preallocation mode: metadata")),
        _ => Ok(()),
    }
}

/// Makes it longer or shorter; where there is no room for what is new, it is made as long again as it was.
async fn change(
    session: &Session,
    image: &Image,
    (before, after): (u64, u64),
    mode: Preallocation,
    name: &str,
) -> Result<()> {
    let told = |error| told(name, words::making_room(Preallocation::Off), &error);
    let length = image.size()?;
    session.engine.resize(&image.node, after).await.map_err(told)?;
    let fresh = ByteRange::between(before, after.max(before));
    let made = match (mode, &image.header) {
        (Preallocation::Off, _) => Ok(()),
        (_, Some(_)) => session.engine.preallocate(&image.node, fresh, mode).await,
        (_, None) => fill(image, fresh, mode).await,
    };
    if made.is_err() {
        session.engine.resize(&image.node, length).await.map_err(told)?;
    }
    let doing = match image.header {
        Some(_) => words::making_room_below(mode),
        None => words::making_room(mode).to_owned(),
    };
    made.map_err(|error| self::told(name, &doing, &error))
}

/// Why that was not possible, without the name of the image: it is the only one.
fn told(name: &str, doing: &str, error: &BlockError) -> Failure {
    let text = words::explained(error);
    if std::error::Error::source(error).is_some() {
        return Failure::new(format!("{doing}: {}", words::cause(error)));
    }
    let why = text.strip_prefix(&format!("image '{name}': ")).unwrap_or(&text);
    Failure::new(words::hinted(why.to_owned()))
}

/// Room in a file that is the disk itself.
async fn fill(image: &Image, range: ByteRange, mode: Preallocation) -> block::Result<()> {
    let user = image.attach_plainly(Demand::CHANGE)?;
    let mut rest = range;
    let mut outcome = Ok(());
    while !rest.is_empty() && outcome.is_ok() {
        let piece = if mode == Preallocation::Full { rest.head(ZEROES) } else { rest };
        let (rq, lease) = match mode {
            Preallocation::Full => (Request::new(Op::Write, piece), Lease::zeroed(piece.len() as usize)),
            _ => (Request::new(Op::WriteZeroes, piece), Lease::empty()),
        };
        outcome = seam::execute(&user.root.view(), rq, lease).await.0;
        rest = rest.skip(piece.len());
    }
    user.end_plainly().await?;
    outcome
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signs_say_how_a_size_is_meant() {
        assert_eq!(wanted("1k").unwrap(), By::Exactly(1024));
        assert_eq!(wanted("+1").unwrap(), By::More(1));
        assert_eq!(wanted("-0x10").unwrap(), By::Less(16));
        assert!(wanted("x").is_err());
    }
}
