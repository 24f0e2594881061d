//! `commit`: writes what an overlay holds into the image below it.
//!
//! Invariant: the overlay reads the same at any moment, before, while and after: what is written below it, it holds
//! itself, until all of that is durable below; only then it is emptied.

use std::path::Path;

use block::Permissions;
use flow::copy::{self, Failed, Transfer, Zeroes};
use flow::sabotage::{Rule, broken};
use flow::{Request, seam};
use graph::Demand;
use io::Lease;
use qcow2::{Header, Target};
use serde_json::{Map, Value};

use crate::backing_mark;
use crate::cache::Cache;
use crate::chain;
use crate::failure::{Failure, Result};
use crate::flags;
use crate::following::Following;
use crate::given::Flag;
use crate::image::Image;
use crate::naming;
use crate::numbers;
use crate::session::{How, Looked, Session, Source};
use crate::verbs::{Call, Verb};
use crate::words;

/// The verb.
pub(crate) const VERB: Verb = Verb {
    name: "commit",
    about: "write an overlay into the image below it",
    operands: "FILENAME",
    flags: FLAGS,
    signed: false,
    run: |call| Box::pin(run(call)),
};

const FLAGS: &[Flag] = &[
    flags::FORMAT,
    flags::CACHE,
    Flag::with('b', "base", "BASE_IMG", "into this image of the chain"),
    Flag::switch('d', "drop", "leave the overlay as it is, not empty"),
    Flag::with('r', "rate", "RATE", "most bytes per second"),
    flags::PROGRESS,
    flags::QUIET,
    flags::OBJECT,
    flags::IMAGE_OPTS,
];

const CHUNK: u64 = 1 << 20;
const PARALLEL: usize = 8;
/// Of the images between: from the first write on, into what is below them, they read as something else than they
/// were, and nobody else may be there who relies on them.
const BETWEEN: Demand = Demand {
    uses: Permissions::NONE,
    shares: Permissions::WRITE.union(Permissions::WRITE_UNCHANGED).union(Permissions::RESIZE),
};
/// What is said of an overlay that is none.
const NO_BACKING: &str = "Image does not have a backing file";

/// Most images that are looked at for one of them.
const DEPTH_MAX: usize = 1024;

async fn run(call: Call) -> Result<u8> {
    let Call { session, given } = call;
    let name = given.one_operand()?;
    let source = Source { name, format: given.format()?, image_opts: given.has("image-opts") };
    let cache = Cache::named(given.value("cache"), "cache", Cache::WRITEBACK)?;
    let rate = given.bytes("rate", "rate limit", numbers::ANY)?;
    session.add_objects(given.values("object")).await?;
    let looked = look_at(&session, source).await?;
    let header = looked.header.as_ref();
    let mut below = images_below(&session, name, header, given.value("base")).await?;
    let Some(base) = below.pop() else { return Err(Failure::new(NO_BACKING)) };
    let was_noted = match header {
        Some(header) => backing_mark::holds(&session, header, &looked.named.filename(name)).await,
        None => false,
    };
    let into = open_base(&session, name, &base, cache).await?;
    // Before anybody relies on its size.
    let size = header.map_or(0, |header| header.virtual_size);
    if size > into.size()? {
        session.engine.resize(&into.node, size).await?;
    }
    let is_emptied = !given.has("drop") && !given.has("base");
    let mut between = open_between(&session, &below, &into, cache).await?;
    let over = between.last().map_or(&into.node, |image| &image.node);
    let how = How { demand: above(&between), cache, over: Some(over), writable: is_emptied, ..How::READ };
    let overlay = session.open(source, how).await?;
    copy_down(&session, &overlay, &into, between.len() as u32 + 1, rate).await?;
    if is_emptied && overlay.format == "qcow2" {
        session.engine.make_empty(&overlay.node).await?;
    }
    overlay.close().await?;
    while let Some(image) = between.pop() {
        image.close().await?;
    }
    into.close().await?;
    if was_noted {
        // What was written below is what the overlay holds.
        backing_mark::note(&session, source, How { cache, ..How::READ }).await;
    }
    session.listener.progress(100.0);
    session.listener.end_progress();
    if !given.has("quiet") {
        session.listener.say("Image committed.\n");
    }
    Ok(0)
}

/// Finds out what the overlay is, and that its header alone says what is below.
async fn look_at(session: &Session, source: Source<'_>) -> Result<Looked> {
    let looked = session.look(source, How::READ).await.map_err(|failure| failure.opening(source.name))?;
    session.engine.delete_node(&looked.node).await?;
    if let (true, Some(header)) = (looked.recognised, &looked.header) {
        chain::stands_alone(header, &looked.named.own).map_err(|failure| failure.opening(source.name))?;
    }
    named_by_header(&looked.named.own)?;
    Ok(looked)
}

/// Fails where options name another backing image than the header does: nothing is to be written into the wrong one.
fn named_by_header(own: &Map<String, Value>) -> Result<()> {
    match own.get("backing") {
        None => Ok(()),
        Some(Value::Null) => Err(Failure::new(NO_BACKING)),
        Some(Value::String(name)) if name.is_empty() => Err(Failure::new(NO_BACKING)),
        Some(_) => Err(Failure::new(
            "commit goes into the backing file that the image names: leave 'backing' out of its options, or have the image name another one ('rebase -u')",
        )),
    }
}

/// Opens what is committed into. Others who use it are told of in the words of one who has opened the overlay before.
async fn open_base(session: &Session, overlay: &str, base: &Below, cache: Cache) -> Result<Image> {
    let source = base.source();
    let opened = session.open_plainly(source, How { cache, unmap: true, ..How::WRITE }).await;
    opened.map_err(|failure| match failure.text {
        Some(text) if text.starts_with("Failed to get shared") => {
            Failure::new(format!("Could not open backing file: {text}")).opening(overlay)
        }
        Some(text) if text.starts_with("Failed to get") => Failure::new(text),
        _ => failure.opening(source.name),
    })
}

/// Opens the images between the overlay and the one that is committed into, the lowest first.
async fn open_between(session: &Session, below: &[Below], into: &Image, cache: Cache) -> Result<Vec<Image>> {
    let mut between = Vec::new();
    for image in below.iter().rev() {
        let over = between.last().map_or(&into.node, |image: &Image| &image.node);
        let how = How { cache, over: Some(over), demand: Some(BETWEEN), ..How::READ };
        let opened = session.open_plainly(image.source(), how).await;
        between.push(opened.map_err(|failure| match failure.text {
            // Others read it: asked of an image that is open, in QEMU's way.
            Some(text) if text.starts_with("Failed to get shared \"consistent") => Failure::new(text),
            _ => failure.opening(&image.name),
        })?);
    }
    Ok(between)
}

/// What the overlay is opened for: over images that nobody is to rely on it must not say that it does.
fn above(between: &[Image]) -> Option<Demand> {
    (!between.is_empty()).then_some(Demand::NOTHING)
}

/// Writes what so many layers on top hold into the image below, durably.
async fn copy_down(
    session: &Session,
    overlay: &Image,
    into: &Image,
    layers: u32,
    rate: Option<u64>,
) -> Result<()> {
    let following = Following::begin(session, overlay.size()?);
    // What is between is of no use from the first write on: nobody may rely on it, and we do not say that we do.
    let (from, to) = (overlay.attach(Demand::NOTHING)?, into.attach(Demand::WRITE)?);
    let how = Transfer {
        chunk: CHUNK,
        parallel: PARALLEL,
        ordered: false,
        sparse: 0,
        zeroes: Zeroes::Write,
        // All that the overlay holds counts, also behind the end of what was below it.
        over: Some(u64::MAX),
        layers,
        compress: false,
        offload: None,
        salvage: false,
        rate,
    };
    copy::transfer(&[&from.root], &to.root, &how, &following).await.map_err(told)?;
    // Now, while it is in use: nobody hears of what fails when it is given up.
    if !broken(Rule::CommitBarrier) {
        seam::execute(&to.root.view(), Request::flush(), Lease::empty()).await.0?;
    }
    from.end().await?;
    to.end().await
}

/// An image of a chain.
struct Below {
    name: String,
    format: String,
}

impl Below {
    fn source(&self) -> Source<'_> {
        Source { name: &self.name, format: Some(&self.format), image_opts: false }
    }
}

/// The images below `name`, down to `base` (without one that is the nearest); none where it has none.
async fn images_below(
    session: &Session,
    name: &str,
    header: Option<&Header>,
    base: Option<&str>,
) -> Result<Vec<Below>> {
    let (mut found, mut header, mut above) = (Vec::new(), header.cloned(), name.to_owned());
    while let Some(named) = header.as_ref().and_then(|header| header.backing.clone()) {
        let Some((name, format)) = header.as_ref().and_then(|header| backing(header, &above)) else { break };
        let format = format.ok_or_else(|| chain::no_format(&above, &name))?;
        let is_last = base.is_none_or(|base| base == named.name || is_same(base, &name, &above));
        found.push(Below { name: name.clone(), format });
        if is_last {
            return Ok(found);
        }
        if found.len() > DEPTH_MAX {
            break;
        }
        let looked = session.look(found[found.len() - 1].source(), How::READ).await;
        let looked = looked.map_err(|failure| failure.opening(&name))?;
        session.engine.delete_node(&looked.node).await?;
        (header, above) = (looked.header, name);
    }
    match base {
        Some(base) if !found.is_empty() => {
            Err(Failure::new(format!("Did not find '{base}' in the backing chain of '{name}'")))
        }
        _ => Ok(Vec::new()),
    }
}

/// Whether `base`, said of the images below `overlay` and taken from where that lies, is the image `name`.
fn is_same(base: &str, name: &str, overlay: &str) -> bool {
    let real = |path: &str| Path::new(path).canonicalize().unwrap_or_else(|_| path.into());
    match qcow2::resolve(base, overlay) {
        Ok(Target::Path(path)) => real(&path) == real(name),
        _ => base == name,
    }
}

/// The image below, and its format.
fn backing(header: &Header, overlay: &str) -> Option<(String, Option<String>)> {
    let backing = header.backing.as_ref()?;
    Some((naming::full_name(&backing.name, overlay), backing.format.clone()))
}

fn told(failed: Failed) -> Failure {
    match failed {
        Failed::Reading(_, error) | Failed::Writing(_, error) => Failure::new(words::explained(&error)),
        Failed::Ended => Failure::silent(1),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn options_that_name_another_backing_image_are_refused() {
        let refused = |own: Value| match named_by_header(own.as_object().unwrap()) {
            Ok(()) => None,
            Err(failure) => failure.text,
        };
        assert_eq!(refused(json!({ "cache": { "direct": "on" } })), None);
        for none in [json!(null), json!("")] {
            assert_eq!(refused(json!({ "backing": none })).as_deref(), Some(NO_BACKING));
        }
        for other in [json!("node"), json!({ "driver": "qcow2" })] {
            assert!(refused(json!({ "backing": other })).unwrap().contains("leave 'backing' out"));
        }
    }
}
