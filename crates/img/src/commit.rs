//! `commit`: writes what an overlay holds into the image below it.
//!
//! Invariant: the overlay reads the same at any moment, before, while and after: what is written below it, it holds
//! itself, until all of that is durable below; only then it is emptied.

mod layers;

use block::{BlockError, Permissions};
use flow::copy::{self, Failed, Over, Transfer, Zeroes};
use flow::sabotage::{Rule, broken};
use flow::{Request, Root, seam};
use graph::Demand;
use io::Lease;

use crate::backing_mark;
use crate::cache::Cache;
use crate::failure::{Failure, Result};
use crate::flags;
use crate::following::Following;
use crate::given::Flag;
use crate::image::Use;
use crate::numbers;
use crate::session::{How, Session, Source};
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

async fn run(call: Call) -> Result<u8> {
    let Call { session, given } = call;
    session.add_objects(given.objects()).await?;
    let source = Source {
        name: given.one_operand()?,
        format: given.value("format"),
        image_opts: given.has("image-opts"),
    };
    let cache = Cache::named(given.value("cache"), "cache", Cache::WRITEBACK)?;
    let rate = given.bytes("rate", "rate limit", numbers::ANY)?;
    let was_noted = is_noted(&session, source).await?;
    let is_emptied = !given.has("drop") && !given.has("base");
    // Over images that nobody is to rely on it must not say that it does.
    let demand = given.has("base").then_some(Demand::NOTHING);
    let how = How { cache, demand, unmap: true, writable: is_emptied, ..How::READ };
    let overlay = session.open(source, how).await?;
    session.listener.begin_progress();
    session.listener.progress(0.0);
    // A filter has no layers: what it shows has.
    let top = session.engine.unfiltered(&overlay.node)?;
    let below = layers::below(&session, &top, source.name, given.value("base"))?;
    commit(&session, &top, &below, rate).await?;
    if is_emptied && overlay.format == "qcow2" {
        session.engine.make_empty(&overlay.node).await?;
    }
    overlay.close().await?;
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

/// Whether the overlay says of its backing file what is true.
async fn is_noted(session: &Session, source: Source<'_>) -> Result<bool> {
    // It will be opened to be written.
    let how = How { writable: true, ..How::READ };
    source.agrees_with(how)?;
    let looked = session.look(source, how).await.map_err(|failure| failure.opening(source.name))?;
    session.engine.delete_node(&looked.node).await?;
    // What an image that was recognised names is not touched.
    let Some(header) = looked.header.as_ref().filter(|_| !looked.recognised) else { return Ok(false) };
    Ok(backing_mark::holds(session, header, &looked.named.filename(source.name)).await)
}

/// Writes what the overlay holds, and all but the last of the images `below`, into that one, which takes writes
/// meanwhile.
async fn commit(session: &Session, overlay: &str, below: &[String], rate: Option<u64>) -> Result<()> {
    let engine = &session.engine;
    let Some((base, between)) = below.split_last() else { return Ok(()) };
    let mut users = Vec::new();
    for node in between {
        users.push(Use::of(engine, node, BETWEEN)?);
    }
    let was_read_only = engine.is_read_only(base)?;
    engine.make_read_only(base, false).await?;
    grow(session, base, engine.size(overlay)?).await?;
    let into = Use::of(engine, base, Demand::WRITE)?;
    copy_down(session, overlay, &into.root, below.len() as u32, rate).await?;
    users.push(into);
    for user in users {
        user.end().await?;
    }
    Ok(engine.make_read_only(base, was_read_only).await?)
}

/// Makes an image below an overlay `size` bytes long at the least.
async fn grow(session: &Session, node: &str, size: u64) -> Result<()> {
    if size > session.engine.size(node)? {
        let user = Use::of(&session.engine, node, Demand::CHANGE.and(Demand::RESIZE))?;
        seam::resize(&user.root.view(), size).await?;
        user.end().await?;
    }
    Ok(())
}

/// Writes what so many layers on top hold into the image below, durably.
async fn copy_down(
    session: &Session,
    overlay: &str,
    into: &Root,
    layers: u32,
    rate: Option<u64>,
) -> Result<()> {
    let following = Following::begin(session, session.engine.size(overlay)?);
    // What is between is of no use from the first write on: nobody may rely on it, and we do not say that we do.
    let from = Use::of(&session.engine, overlay, Demand::NOTHING)?;
    let how = Transfer {
        chunk: CHUNK,
        parallel: PARALLEL,
        ordered: false,
        sparse: 0,
        zeroes: Zeroes::Write,
        // All that the overlay holds counts, also behind the end of what was below it.
        over: Some(Over::Next),
        layers,
        compress: false,
        offload: None,
        salvage: false,
        rate,
    };
    copy::transfer(&[&from.root], into, &how, &following).await.map_err(told)?;
    // Now, while it is in use: nobody hears of what fails when it is given up.
    if !broken(Rule::CommitBarrier) {
        seam::execute(&into.view(), Request::flush(), Lease::empty()).await.0.map_err(|e| ended_by(&e))?;
    }
    from.end().await
}

fn told(failed: Failed) -> Failure {
    match failed {
        Failed::Reading(_, error) | Failed::Writing(_, error) => ended_by(&error),
        Failed::Ended => Failure::silent(1),
    }
}

fn ended_by(error: &BlockError) -> Failure {
    Failure::new(format!("Block job failed: {}", words::explained(error)))
}
