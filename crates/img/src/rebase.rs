//! `rebase`: gives an overlay another backing image, or none.
//!
//! Invariants: unless `-u` says that both backing images read the same, what would read differently is stored in the
//! overlay first, durably, and only then is the name changed; so whenever it ends, the overlay reads as before.

mod content;

use flow::BackingName;

use crate::backing_mark;
use crate::cache::Cache;
use crate::failure::{Failure, Result};
use crate::flags;
use crate::foreign;
use crate::given::{Flag, Given};
use crate::session::{How, Source};
use crate::verbs::{Call, Verb};
use crate::words;

/// The verb.
pub(crate) const VERB: Verb = Verb {
    name: "rebase",
    about: "change the backing image of an overlay",
    operands: "FILENAME",
    flags: FLAGS,
    signed: false,
    run: |call| Box::pin(run(call)),
};

const FLAGS: &[Flag] = &[
    flags::FORMAT,
    flags::CACHE,
    Flag::with('b', "backing", "BACKING_FILENAME", "the new backing image; '' for none"),
    Flag::with('F', "backing-format", "BACKING_FMT", "its format"),
    Flag::with('T', "backing-cache", "CACHE", "cache mode of the backing images (writeback)"),
    Flag::switch('u', "backing-unsafe", "change the name only: both read the same"),
    Flag::switch('c', "compress", "compress what is stored in the overlay"),
    flags::FORCE_SHARE,
    flags::PROGRESS,
    flags::QUIET,
    flags::OBJECT,
    flags::IMAGE_OPTS,
];

async fn run(call: Call) -> Result<u8> {
    let Call { session, given } = call;
    session.add_objects(given.objects()).await?;
    let name = given.one_operand()?;
    let backing = given.value("backing");
    let only_name = given.has("backing-unsafe");
    if backing.is_none() && !only_name {
        let text = "Must specify backing file (-b) or use unsafe mode (-u)";
        return Err(Failure::misused(text));
    }
    session.listener.begin_progress();
    session.listener.progress(0.0);
    let source = Source { name, format: given.value("format"), image_opts: given.has("image-opts") };
    let cache = Cache::named(given.value("cache"), "cache", Cache::WRITEBACK)?;
    let below = Cache::named(given.value("backing-cache"), "source cache", Cache::WRITEBACK)?;
    let overlay = session.open(source, How { cache, alone: only_name, ..How::WRITE }).await?;
    let compress = given.has("compress");
    if compress && overlay.header.is_none() {
        return Err(Failure::new("Compression not supported for this file format"));
    }
    let wanted = wanted(&given)?;
    let shown = backing.unwrap_or_default();
    let refused = |why: &str| Failure::new(format!("Could not change the backing file to '{shown}': {why}"));
    let data = overlay.header.as_ref().and_then(|header| header.data_file.as_ref());
    if wanted.is_some() && data.is_some_and(|data| data.raw) {
        // Found out only in the end it would have been copied for nothing.
        return Err(refused("its data file is raw: it is the disk by itself"));
    }
    if let (false, Some(wanted)) = (only_name, &wanted) {
        content::keep_content(&session, name, &overlay, Some(wanted), (below, compress)).await?;
    } else if !only_name {
        content::keep_content(&session, name, &overlay, None, (below, compress)).await?;
    }
    let changed = session.engine.set_backing(&overlay.node, wanted).await;
    changed.map_err(|error| {
        refused(&match error.kind() {
            block::ErrorKind::Unsupported => "Operation not supported".to_owned(),
            _ => words::explained(&error),
        })
    })?;
    session.engine.flush(&overlay.node).await?;
    overlay.close().await?;
    backing_mark::note(&session, source, How { cache, ..How::READ }).await;
    session.listener.progress(100.0);
    Ok(0)
}

/// The new backing image; `None`: none.
fn wanted(given: &Given) -> Result<Option<BackingName>> {
    let (name, format) = (given.value("backing").unwrap_or_default(), given.value("backing-format"));
    if let Some(format) = format.filter(|name| driver::find(name).is_none() && !foreign::is_foreign(name)) {
        return Err(Failure::new(format!("Invalid format name: '{format}'")));
    }
    if name.is_empty() {
        return Ok(None);
    }
    let Some(format) = format else {
        return Err(Failure::new(format!(
            "Could not change the backing file to '{name}': backing format must be specified"
        )));
    };
    Ok(Some(BackingName { name: name.to_owned(), format: format.to_owned() }))
}
