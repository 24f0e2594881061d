//! `resize`: makes an image larger or smaller.

use block::ByteRange;
use flow::{Op, Request, seam};
use graph::Demand;
use io::Lease;

use crate::cache::Cache;
use crate::failure::{Failure, Result};
use crate::flags;
use crate::given::Flag;
use crate::image::{Image, SECTOR};
use crate::numbers::{self, SIZE_MAX};
use crate::session::{How, Session, Source};
use crate::verbs::{Call, Verb};

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
    Flag::long_with("preallocation", "PREALLOC", "off, falloc or full: room for what is new"),
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
    let (name, size) = match &given.operands[..] {
        [name, size] => (name, size),
        [_, _, ..] => return Err(Failure::misused("Extra argument(s) in command line")),
        _ => return Err(Failure::misused("Expecting image file name and size")),
    };
    let mode = match given.value("preallocation") {
        mode @ (None | Some("off" | "metadata" | "falloc" | "full")) => mode.unwrap_or("off"),
        Some(other) => return Err(Failure::new(format!("Invalid preallocation mode '{other}'"))),
    };
    let by = wanted(size)?;
    session.add_objects(given.values("object")).await?;
    let source = Source { name, format: given.format()?, image_opts: given.has("image-opts") };
    let how = How { cache: Cache::WRITEBACK, ..How::WRITE };
    let image = session.open(source, how).await?;
    let before = image.size_in_sectors()?;
    let after = match by {
        By::Exactly(size) => Some(size),
        By::More(more) => before.checked_add(more),
        By::Less(less) => before.checked_sub(less),
    };
    let after = after.filter(|size| (1..=SIZE_MAX).contains(size));
    let after = after.ok_or_else(|| Failure::new("New image size must be positive"))?;
    let after = after.next_multiple_of(SECTOR);
    if after <= before && mode != "off" {
        return Err(Failure::new("Preallocation can only be used for growing images"));
    }
    if after < before && !given.has("shrink") {
        session.listener.complain(SHRINKS);
        session.listener.complain(LOSES);
        return Err(Failure::silent(1));
    }
    check_mode(&image, mode)?;
    change(&session, &image, before, after, mode).await?;
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
    let size = numbers::size(digits).map_err(|_| {
        Failure::new(
            "Parameter 'size' expects a non-negative number below 2^64\nOptional suffix k, M, G, T, P or E means kilo-, mega-, giga-, tera-, peta-\nand exabytes, respectively.",
        )
    })?;
    Ok(make(size))
}

fn check_mode(image: &Image, mode: &str) -> Result<()> {
    match (mode, &image.header) {
        ("off", _) | ("falloc" | "full", None) => Ok(()),
        ("metadata", None) => Err(Failure::new("Unsupported preallocation mode: metadata")),
        _ => {
            Err(Failure::new("Preallocation of qcow2 images is not yet supported: leave out --preallocation"))
        }
    }
}

async fn change(session: &Session, image: &Image, before: u64, after: u64, mode: &str) -> Result<()> {
    session.engine.resize(&image.node, after).await?;
    if mode == "off" {
        return Ok(());
    }
    let user = image.attach(Demand::WRITE)?;
    let mut rest = ByteRange::between(before, after);
    let mut outcome = Ok(());
    while !rest.is_empty() && outcome.is_ok() {
        let piece = if mode == "full" { rest.head(ZEROES) } else { rest };
        let (rq, lease) = match mode {
            "full" => (Request::new(Op::Write, piece), Lease::zeroed(piece.len() as usize)),
            _ => (Request::new(Op::WriteZeroes, piece), Lease::empty()),
        };
        outcome = seam::execute(&user.root.view(), rq, lease).await.0;
        rest = rest.skip(piece.len());
    }
    user.end().await?;
    Ok(outcome?)
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
