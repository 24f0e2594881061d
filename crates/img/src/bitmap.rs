//! `bitmap`: changes the persistent dirty bitmaps of an image, one action after the other.
//!
//! Invariant: what was done before an action that fails stays done, and is stored.

use block::BlockError;
use flow::BitmapChange;

use crate::failure::{Failure, Result};
use crate::flags;
use crate::given::{Flag, Given};
use crate::image::Image;
use crate::numbers;
use crate::session::{How, Session, Source};
use crate::verbs::{Call, Verb};
use crate::words;

/// The verb.
pub(crate) const VERB: Verb = Verb {
    name: "bitmap",
    about: "change persistent bitmaps of an image",
    operands: "FILENAME BITMAP",
    flags: FLAGS,
    signed: false,
    run: |call| Box::pin(run(call)),
};

const FLAGS: &[Flag] = &[
    flags::FORMAT,
    flags::IMAGE_OPTS,
    flags::OBJECT,
    Flag::long("add", "make it"),
    Flag::long("remove", "remove it"),
    Flag::long("clear", "clear it"),
    Flag::long("enable", "record writes in it"),
    Flag::long("disable", "record no more"),
    Flag::long_with("merge", "SOURCE", "take SOURCE in"),
    Flag::with('g', "granularity", "SIZE", "of the new one"),
    Flag::with('b', "source-file", "SRC_FILENAME", "image that has SOURCE"),
    Flag::with('F', "source-format", "SRC_FMT", "its format"),
];

/// Flags that are actions.
const ACTIONS: &[&str] = &["add", "remove", "clear", "enable", "disable", "merge"];

async fn run(call: Call) -> Result<u8> {
    let Call { session, given } = call;
    session.add_objects(given.objects()).await?;
    let granularity = given.bytes("granularity", "granularity", numbers::ANY)?.filter(|size| *size > 0);
    check(&given, granularity)?;
    let [name, bitmap] = &given.operands[..] else {
        return Err(Failure::new("Expecting filename and bitmap name"));
    };
    let source = Source { name, format: given.value("format"), image_opts: given.has("image-opts") };
    let image = session.open(source, How { alone: true, ..How::WRITE }).await?;
    let other = match given.value("source-file") {
        Some(name) => {
            let source = Source { name, format: given.value("source-format"), image_opts: false };
            Some(session.open(source, How { alone: true, ..How::READ }).await?)
        }
        None => None,
    };
    let done = act(&session, &given, (&image, bitmap, granularity), other.as_ref()).await;
    let stored =
        session.engine.rest(&image.node).await.map_err(|error| Failure::of("Cannot store bitmaps", &error));
    for image in [Some(image), other].into_iter().flatten() {
        image.close().await?;
    }
    done.and(stored).map(|()| 0)
}

/// Whether the flags fit each other.
fn check(given: &Given, granularity: Option<u64>) -> Result<()> {
    let refusal = if !ACTIONS.iter().any(|action| given.has(action)) {
        "Need at least one of --add, --remove, --clear, --enable, --disable, or --merge"
    } else if granularity.is_some() && !given.has("add") {
        "granularity only supported with --add"
    } else if given.has("source-format") && !given.has("source-file") {
        "-F only supported with -b"
    } else if given.has("source-file") && !given.has("merge") {
        "Merge bitmap source file only supported with --merge"
    } else {
        return Ok(());
    };
    Err(Failure::new(refusal))
}

async fn act(
    session: &Session,
    given: &Given,
    (image, bitmap, granularity): (&Image, &str, Option<u64>),
    other: Option<&Image>,
) -> Result<()> {
    for (action, value) in given.in_order().filter(|(flag, _)| ACTIONS.contains(flag)) {
        let change = match action {
            "add" => {
                let granularity = granularity.unwrap_or_else(|| image.bitmap_granularity());
                Ok(BitmapChange::Add { granularity, recording: true, persistent: true })
            }
            "remove" => Ok(BitmapChange::Remove),
            "clear" => Ok(BitmapChange::Clear),
            "merge" => {
                let from = other.unwrap_or(image);
                merged(session, (image, bitmap), (from, value.unwrap_or_default())).await
            }
            enable => Ok(BitmapChange::Record(enable == "enable")),
        };
        let done = match change {
            Ok(change) => session.engine.change_bitmap(&image.node, bitmap, change).await,
            Err(error) => Err(error),
        };
        done.map_err(|error| failed(action, bitmap, &error))?;
    }
    Ok(())
}

/// The change that takes `from` into `into`. Where neither is there, the error is of the one that was to change.
async fn merged(
    session: &Session,
    (into, bitmap): (&Image, &str),
    (from, name): (&Image, &str),
) -> std::result::Result<BitmapChange, BlockError> {
    session.engine.bitmap(&into.node, bitmap).await?;
    session.engine.bitmap(&from.node, name).await.map(BitmapChange::Merge)
}

fn failed(action: &str, bitmap: &str, error: &BlockError) -> Failure {
    Failure::new(words::hinted(format!(
        "Operation {action} on bitmap {bitmap} failed: {}",
        words::explained(error)
    )))
}
