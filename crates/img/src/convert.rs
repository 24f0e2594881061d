//! `convert`: copies one image, or several one after the other, to a new one.

mod bitmaps;
mod options;
mod target;

use flow::Root;
use flow::copy::{self, Failed, Transfer, Zeroes};
use graph::Demand;

use crate::failure::{Failure, Result};
use crate::flags;
use crate::following::Following;
use crate::given::Flag;
use crate::image::Image;
use crate::session::Session;
use crate::snapshot_table;
use crate::verbs::{Call, Verb};
use crate::words;

use options::Options;
use target::Target;

/// The verb.
pub(crate) const VERB: Verb = Verb {
    name: "convert",
    about: "copy images to a new one",
    operands: "FILENAME [FILENAME2 ...] OUTPUT_FILENAME",
    flags: FLAGS,
    signed: false,
    run: |call| Box::pin(run(call)),
};

const FLAGS: &[Flag] = &[
    Flag::with('f', "source-format", "FMT", "format of the sources"),
    Flag::long("source-image-opts", "the sources are sets of options"),
    Flag::long("image-opts", "the same"),
    Flag::with('l', "source-snapshot", "SNAPSHOT", "take this snapshot of the source").or("snapshot"),
    Flag::with('T', "source-cache", "CACHE", "cache mode of the sources (auto)"),
    Flag::with('O', "target-format", "FMT", "format of the target (raw)").or("output-format"),
    Flag::long("target-image-opts", "the target is a set of options; needs -n"),
    Flag::with('o', "target-options", "OPTIONS", "options of the target; -o help lists them").or("options"),
    Flag::switch('c', "compress", "compress the target"),
    Flag::with('t', "target-cache", "CACHE", "cache mode of the target (auto)").or("output-cache"),
    Flag::with('B', "backing", "BACKING_FILENAME", "make the target an overlay on this image"),
    Flag::with('F', "backing-format", "FMT", "format of the backing image"),
    Flag::switch('n', "no-create", "the target is there already"),
    Flag::long("target-is-zero", "and reads as zeros"),
    Flag::with('S', "sparse-size", "SIZE", "shortest run of zeros that becomes a hole (4k); 0: none does"),
    Flag::long("bitmaps", "copy persistent bitmaps, too"),
    Flag::long("skip-broken-bitmaps", "but not those that are broken"),
    flags::FORCE_SHARE,
    Flag::with('r', "rate", "RATE", "most bytes per second"),
    Flag::with('m', "parallel", "NUM", "requests at a time (8)"),
    Flag::switch('C', "copy-range-offloading", "let the kernel copy, which finds no zeros"),
    Flag::long("salvage", "what cannot be read becomes zeros"),
    Flag::switch('W', "oob-writes", "write in any order"),
    flags::PROGRESS,
    flags::QUIET,
    flags::OBJECT,
];

/// Most bytes of one request, as many as of qemu-img's. Each is handed to another thread and waited for: the longer
/// they are, the less often.
const CHUNK: u64 = 2 << 20;
/// The same where clusters are packed, which takes so much longer than reading them that more would only fill memory.
/// Never less than a cluster.
const PACKED_CHUNK: u64 = 64 << 10;

async fn run(call: Call) -> Result<u8> {
    let Call { session, given } = call;
    session.add_objects(given.objects()).await?;
    if let Some(text) = options::help(&given)? {
        session.listener.say(&text);
        return Ok(0);
    }
    snapshot_table::check_param(&session, given.value("source-snapshot"))?;
    let options = Options::parse(&given)?;
    session.listener.begin_progress();
    session.listener.progress(0.0);
    let sources = open_all(&session, &options).await?;
    let present = match options.bitmaps {
        true => bitmaps::check_source(&session, &options, &sources).await?,
        false => None,
    };
    let target = Target::prepare(&session, &options, &sources).await?;
    if options.bitmaps {
        bitmaps::check_target(&target)?;
    }
    copy_all(&session, &options, &sources, &target).await?;
    if let Some(source) = present.as_ref().or(sources.first()).filter(|_| options.bitmaps) {
        bitmaps::copy(&session, source, &target).await?;
    }
    target.finish(&session).await?;
    session.made.keep();
    for image in sources.into_iter().chain(present) {
        image.close().await?;
    }
    Ok(0)
}

async fn open_all(session: &Session, options: &Options<'_>) -> Result<Vec<Image>> {
    let mut sources = Vec::new();
    for name in options.sources {
        let opened = session.open(options.source(name), options.how()).await;
        sources.push(opened.map_err(|failure| options.explained(failure))?);
    }
    match options.snapshot {
        Some(_) if sources.len() > 1 => Err(Failure::new("No support for concatenating multiple snapshot")),
        _ => Ok(sources),
    }
}

async fn copy_all(
    session: &Session,
    options: &Options<'_>,
    sources: &[Image],
    target: &Target,
) -> Result<()> {
    let following = Following::begin(session, 0).telling_lost(!options.quiet);
    let to = target.image.attach(Demand::CHANGE)?;
    let mut from = Vec::new();
    for source in sources {
        from.push(source.attach(Demand::LOOK)?);
    }
    let how = Transfer {
        chunk: if options.compress { PACKED_CHUNK } else { CHUNK },
        parallel: options.parallel,
        ordered: !options.any_order,
        sparse: options.sparse,
        zeroes: if target.reads_zero { Zeroes::Skip } else { Zeroes::Write },
        over: target.over,
        layers: 1,
        compress: options.compress,
        offload: options.offload,
        salvage: options.salvage,
        rate: options.rate,
    };
    let roots: Vec<&Root> = from.iter().map(|attached| &*attached.root).collect();
    let amount = copy::to_move(&roots, &to.root, &how, &following).await.map_err(told)?;
    let following = following.of_copied(amount);
    copy::transfer(&roots, &to.root, &how, &following).await.map_err(told)?;
    for attached in from {
        attached.end().await?;
    }
    to.end().await?;
    session.listener.progress(100.0);
    Ok(())
}

fn told(failed: Failed) -> Failure {
    match failed {
        Failed::Reading(at, error) => {
            Failure::new(format!("error while reading at byte {at}: {}", words::cause(&error)))
        }
        Failed::Writing(at, error) => {
            Failure::new(format!("error while writing at byte {at}: {}", words::cause(&error)))
        }
        Failed::Ended => Failure::silent(1),
    }
}
