//! Giving up layers below an image: only when the image has all of what they show, and by its header first.

use block::{BlockError, ByteRange, ErrorKind, Result};
use flow::{BackingName, NodeId, Request, View, Whence, seam};
use io::Lease;

/// Makes all that was stored durable, and fails where the image at the root of `view` still lacks something of the
/// layers down to `bottom` (of all layers without one).
pub async fn whole(view: &View, bottom: Option<NodeId>) -> Result<()> {
    seam::execute(view, Request::flush(), Lease::empty()).await.0?;
    let missing = missing(view, bottom).await?;
    if missing == 0 {
        return Ok(());
    }
    let name = view.root().name();
    let context = format!("the cache below node '{name}' lacks {missing} bytes of data: fill it first");
    Err(BlockError::new(ErrorKind::Busy, context))
}

/// From now on the image names `backing` as what lies below it, durably, where it names anything.
pub async fn rename(image: &View, backing: Option<BackingName>) -> Result<()> {
    match image.root().powers().backing {
        Some(power) => power.set_backing(backing, image.next()).await,
        None => Ok(()),
    }
}

/// Bytes that the image lacks.
async fn missing(view: &View, bottom: Option<NodeId>) -> Result<u64> {
    let mut missing = 0;
    let mut rest = ByteRange::between(0, view.size());
    while !rest.is_empty() {
        let extents = seam::extents(view, rest).await?;
        let end = extents.last().map_or(rest.end(), |extent| extent.range.end());
        for extent in extents {
            // Where nothing stays below, zeros stay zeros.
            if bottom.is_some() || !extent.state.reads_zero() {
                missing += missing_of(view, bottom, extent.range).await?;
            }
        }
        rest = ByteRange::between(end, rest.end());
    }
    Ok(missing)
}

async fn missing_of(view: &View, bottom: Option<NodeId>, range: ByteRange) -> Result<u64> {
    let (mut missing, mut rest) = (0, range);
    while !rest.is_empty() {
        let (whence, len) = seam::whence(view, bottom, rest).await?;
        missing += if whence == Whence::Between { len } else { 0 };
        rest = rest.skip(len);
    }
    Ok(missing)
}
