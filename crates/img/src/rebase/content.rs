//! What an overlay has to hold itself, so that it reads the same over another backing image.

use block::ByteRange;
use engine::Reader;
use flow::{BackingName, Holds, Layer, Layers, Op, Request, View, seam};
use graph::Demand;
use io::Lease;
use qcow2::{Geometry, Version};

use crate::cache::Cache;
use crate::failure::{Failure, Result};
use crate::following::Following;
use crate::image::{Image, Use};
use crate::session::{How, Session, Source};
use crate::words;

/// Most bytes that are compared at a time.
const CHUNK: u64 = 1 << 20;

/// Stores in the overlay what would read differently over the new backing image.
pub(super) async fn keep_content(
    session: &Session,
    name: &str,
    overlay: &Image,
    wanted: Option<&BackingName>,
    (cache, compress): (Cache, bool),
) -> Result<()> {
    let following = Following::begin(session, overlay.size()?);
    let fresh = match wanted {
        Some(wanted) => {
            let full = qcow2::full_name(&wanted.name, name);
            let source = Source { name: &full, format: Some(&wanted.format), image_opts: false };
            let opened = session.open_plainly(source, How { cache, ..How::READ }).await;
            Some(opened.map_err(|failure| {
                let why = failure.text.unwrap_or_default();
                Failure::new(format!("Could not open new backing file '{}': {why}", wanted.name))
            })?)
        }
        None => None,
    };
    let reader = fresh.as_ref().map(|image| session.engine.look("rebase", &image.node)).transpose()?;
    let user = overlay.attach(Demand::CHANGE)?;
    let storing = Storing::new(overlay, &user.root.view(), compress);
    let size = overlay.size()?;
    let (mut rest, mut layers) = (ByteRange::between(0, size), Layers::default());
    while !rest.is_empty() {
        let piece = one_piece(&user, &mut layers, rest).await?;
        if let Piece::Below(range) = piece {
            keep_piece(&user, reader.as_ref(), range, storing).await?;
        }
        rest = rest.skip(piece.range().len());
        following.reached(rest.start());
        // Where nothing has to be waited for, signals would not be heard of.
        io::yield_now().await;
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

async fn one_piece(user: &Use, layers: &mut Layers, rest: ByteRange) -> Result<Piece> {
    let layer = seam::layer(&user.root.view(), layers, rest).await?;
    let run = rest.head(layer.len);
    if is_own(&layer) {
        return Ok(Piece::Own(run));
    }
    // Chunks and clusters share their boundaries. Whoever has it below does not matter: units are stored whole.
    let most = rest.head(CHUNK.max(seam::granule(&user.root.view())) - run.start() % CHUNK);
    let mut end = run.end();
    while end < most.end() {
        let next = ByteRange::between(end, most.end());
        let layer = seam::layer(&user.root.view(), layers, next).await?;
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

/// How what reads differently is stored.
#[derive(Clone, Copy)]
struct Storing {
    /// Bytes that are compared, and stored, as one: less would have to be filled up from below.
    unit: u64,
    compress: bool,
    /// Zeros can be marked. In version 2 they can only be left out, and the new backing image would show through.
    marks_zeros: bool,
}

impl Storing {
    fn new(overlay: &Image, view: &View, compress: bool) -> Self {
        let subcluster = overlay.header.as_ref().map(|header| Geometry::new(header).subcluster_size());
        let unit = match subcluster {
            Some(subcluster) if !compress => subcluster,
            _ => seam::granule(view).max(1),
        };
        let marks_zeros = overlay.header.as_ref().is_none_or(|header| header.version == Version::V3);
        Self { unit, compress, marks_zeros }
    }
}

/// What is to become of bytes of the overlay.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Fate {
    /// They read the same.
    Stay,
    Zero,
    Store,
    /// They are a cluster, or what the last one has of the disk: compressed writes are.
    Pack,
}

/// Stores what of `range` reads differently over `fresh`.
async fn keep_piece(user: &Use, fresh: Option<&Reader>, range: ByteRange, storing: Storing) -> Result<()> {
    let view = user.root.view();
    let old = seam::read(&view, range).await;
    let old = old.map_err(|error| Failure::of("error while reading from old backing file", &error))?;
    let new = read_fresh(fresh, range).await;
    let new = new.map_err(|failure| failure.doing("error while reading from new backing file"))?;
    let part = |unit: ByteRange| {
        let from = (unit.start() - range.start()) as usize;
        from..from + unit.len() as usize
    };
    let unit = |rest: ByteRange| rest.head(storing.unit - rest.start() % storing.unit);
    let fate = |unit: ByteRange| {
        let bytes = &old[part(unit)];
        match () {
            () if bytes == &new[part(unit)] => Fate::Stay,
            () if storing.marks_zeros && seam::is_zero(bytes) => Fate::Zero,
            () if storing.compress && is_whole(unit, storing.unit, view.size()) => Fate::Pack,
            () => Fate::Store,
        }
    };
    let mut rest = range;
    while !rest.is_empty() {
        let mut run = unit(rest);
        let what = fate(run);
        rest = rest.skip(run.len());
        while what != Fate::Pack && !rest.is_empty() && fate(unit(rest)) == what {
            run = ByteRange::between(run.start(), unit(rest).end());
            rest = ByteRange::between(run.end(), range.end());
        }
        let bytes = &old[part(run)];
        let written = match what {
            Fate::Stay => Ok(()),
            Fate::Zero => seam::execute(&view, Request::new(Op::WriteZeroes, run), Lease::empty()).await.0,
            Fate::Pack => seam::write_compressed(&view, run.start(), Lease::copy_of(bytes)).await,
            Fate::Store => seam::write(&view, run.start(), bytes).await,
        };
        written
            .map_err(|e| Failure::new(format!("Error while writing to COW image: {}", words::cause(&e))))?;
    }
    Ok(())
}

/// What `range` of the new backing image reads as: zeros where there is none, and behind its end.
async fn read_fresh(fresh: Option<&Reader>, range: ByteRange) -> Result<Lease> {
    let mut whole = Lease::zeroed(range.len() as usize);
    let Some(reader) = fresh else { return Ok(whole) };
    let inside = ByteRange::between(range.start(), range.end().min(reader.size()).max(range.start()));
    if !inside.is_empty() {
        let bytes = reader.read(inside).await?;
        whole[..bytes.len()].copy_from_slice(&bytes);
    }
    Ok(whole)
}
