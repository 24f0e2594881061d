//! `rebase`: gives an overlay another backing image, or none.
//!
//! Invariants: unless `-u` says that both backing images read the same, what would read differently is stored in the
//! overlay first, durably, and only then is the name changed; so whenever it ends, the overlay reads as before.

use block::ByteRange;
use engine::Reader;
use flow::{BackingName, Holds, Layer, Op, Request, seam};
use graph::Demand;
use io::Lease;
use qcow2::Target;

use crate::backing_mark;
use crate::cache::Cache;
use crate::failure::{Failure, Result};
use crate::flags;
use crate::following::Following;
use crate::foreign;
use crate::given::{Flag, Given};
use crate::image::{Image, Use};
use crate::session::{How, Session, Source};
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

/// Most bytes that are compared at a time.
const CHUNK: u64 = 1 << 20;

async fn run(call: Call) -> Result<u8> {
    let Call { session, given } = call;
    let name = given.one_operand()?;
    let backing = given.value("backing");
    let only_name = given.has("backing-unsafe");
    if backing.is_none() && !only_name {
        let text = "Must specify backing file (-b) or use unsafe mode (-u)";
        return Err(Failure::misused(text));
    }
    let source = Source { name, format: given.format()?, image_opts: given.has("image-opts") };
    let cache = Cache::named(given.value("cache"), "cache", Cache::WRITEBACK)?;
    let below = Cache::named(given.value("backing-cache"), "source cache", Cache::WRITEBACK)?;
    session.add_objects(given.values("object")).await?;
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
        keep_content(&session, name, &overlay, Some(wanted), (below, compress)).await?;
    } else if !only_name {
        keep_content(&session, name, &overlay, None, (below, compress)).await?;
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
    let name = given.value("backing").unwrap_or_default();
    if name.is_empty() {
        return Ok(None);
    }
    let Some(format) = given.value("backing-format") else {
        return Err(Failure::new(format!(
            "Could not change the backing file to '{name}': backing format must be specified"
        )));
    };
    if driver::find(format).is_none() && !foreign::is_foreign(format) {
        return Err(Failure::new(format!("Invalid format name: '{format}'")));
    }
    Ok(Some(BackingName { name: name.to_owned(), format: format.to_owned() }))
}

/// Stores in the overlay what would read differently over the new backing image.
async fn keep_content(
    session: &Session,
    name: &str,
    overlay: &Image,
    wanted: Option<&BackingName>,
    (cache, compress): (Cache, bool),
) -> Result<()> {
    let following = Following::begin(session, overlay.size()?);
    let fresh = match wanted {
        Some(wanted) => {
            let full = match qcow2::resolve(&wanted.name, name) {
                Ok(Target::Path(path)) => path,
                Ok(Target::Protocol { name, .. }) => name,
                Ok(Target::Options(_)) | Err(_) => wanted.name.clone(),
            };
            let source = Source { name: &full, format: Some(&wanted.format), image_opts: false };
            let opened = session.open_plainly(source, How { cache, ..How::READ }).await;
            Some(opened.map_err(|failure| {
                let why = failure.text.unwrap_or_default();
                Failure::new(format!("Could not open new backing file '{}': {why}", wanted.name))
            })?)
        }
        None => None,
    };
    let reader = fresh.as_ref().map(|image| session.engine.reader("rebase", &image.node)).transpose()?;
    let user = overlay.attach(Demand::WRITE)?;
    let size = overlay.size()?;
    let mut rest = ByteRange::between(0, size);
    while !rest.is_empty() {
        let piece = one_piece(&user, rest).await?;
        if let Piece::Below(range) = piece {
            keep_piece(&user, reader.as_ref(), range, compress).await?;
        }
        rest = rest.skip(piece.range().len());
        following.reached(rest.start());
    }
    user.end().await?;
    if let Some(reader) = reader {
        reader.close().await?;
    }
    match fresh {
        Some(image) => image.close().await,
        None => Ok(()),
    }
}

/// A run of the overlay.
#[derive(Clone, Copy)]
enum Piece {
    /// It has the bytes itself.
    Own(ByteRange),
    /// They come from below.
    Below(ByteRange),
}

impl Piece {
    fn range(self) -> ByteRange {
        match self {
            Self::Own(range) | Self::Below(range) => range,
        }
    }
}

async fn one_piece(user: &Use, rest: ByteRange) -> Result<Piece> {
    let layer = seam::layer(&user.root.view(), rest).await?;
    let run = rest.head(layer.len);
    if is_own(&layer) {
        return Ok(Piece::Own(run));
    }
    // Chunks and clusters share their boundaries. Whoever has it below does not matter: clusters are stored whole.
    let most = rest.head(CHUNK.max(seam::granule(&user.root.view())) - run.start() % CHUNK);
    let mut end = run.end();
    while end < most.end() {
        let next = ByteRange::between(end, most.end());
        let layer = seam::layer(&user.root.view(), next).await?;
        if is_own(&layer) {
            break;
        }
        end += layer.len;
    }
    Ok(Piece::Below(ByteRange::between(run.start(), end.min(most.end()))))
}

/// Whether the overlay has it itself.
fn is_own(layer: &Layer) -> bool {
    layer.depth == 0 && !matches!(layer.holds, Holds::Nothing | Holds::Behind)
}

/// Whether a range is a cluster, or what the last one has of a disk of `size` bytes.
fn is_whole(range: ByteRange, granule: u64, size: u64) -> bool {
    range.start().is_multiple_of(granule) && (range.len() == granule || range.end() == size)
}

/// Stores the clusters of `range` that read differently over `fresh`.
async fn keep_piece(user: &Use, fresh: Option<&Reader>, range: ByteRange, compress: bool) -> Result<()> {
    let view = user.root.view();
    let granule = seam::granule(&view).max(1);
    let old = seam::read(&view, range).await?;
    let new = match fresh {
        Some(reader) => {
            let size = reader.size();
            let inside = ByteRange::between(range.start(), range.end().min(size).max(range.start()));
            let mut whole = Lease::zeroed(range.len() as usize);
            if !inside.is_empty() {
                let bytes = reader.read(inside).await?;
                whole[..bytes.len()].copy_from_slice(&bytes);
            }
            whole
        }
        None => Lease::zeroed(range.len() as usize),
    };
    let mut rest = range;
    while !rest.is_empty() {
        let cluster = rest.head(granule - rest.start() % granule);
        let from = (cluster.start() - range.start()) as usize;
        let bytes = &old[from..from + cluster.len() as usize];
        if bytes != &new[from..from + cluster.len() as usize] {
            match seam::is_zero(bytes) {
                true => {
                    let rq = Request::new(Op::WriteZeroes, cluster);
                    seam::execute(&view, rq, Lease::empty()).await.0?;
                }
                // A run may begin or end within a cluster, and compressed writes do not.
                false if compress && is_whole(cluster, granule, view.size()) => {
                    seam::write_compressed(&view, cluster.start(), Lease::copy_of(bytes)).await?;
                }
                false => seam::write(&view, cluster.start(), bytes).await?,
            }
        }
        rest = rest.skip(cluster.len());
    }
    Ok(())
}
