//! Persistent bitmaps of the source, in the target.

use flow::BitmapChange;
use qcow2::{Header, Version};

use crate::failure::{Failure, Result};
use crate::image::Image;
use crate::session::Session;

use super::options::Options;
use super::target::Target;

/// Whether the source has bitmaps that can be copied. What has them, where that is not the source itself: the present
/// state beside a snapshot.
pub(super) async fn check_source(
    session: &Session,
    options: &Options<'_>,
    sources: &[Image],
) -> Result<Option<Image>> {
    let ([source], [name]) = (sources, options.sources) else {
        return Err(Failure::new("Copying bitmaps only possible with single source"));
    };
    if !source.header.as_ref().is_some_and(has_bitmaps) {
        return Err(Failure::new("Source lacks bitmap support"));
    }
    let present = session.open_present(options.source(name), options.how()).await?;
    let bitmaps = present.as_ref().unwrap_or(source).bitmaps().await?;
    // qemu-img finds the last one first.
    match bitmaps.into_iter().rfind(|bitmap| bitmap.inconsistent && !options.skips_broken) {
        Some(bitmap) => Err(Failure::new(format!(
            "Cannot copy inconsistent bitmap '{}'\nTry --skip-broken-bitmaps, or use 'qemu-img bitmap --remove' to delete it",
            bitmap.name
        ))),
        None => Ok(present),
    }
}

/// Whether the target has room for bitmaps.
pub(super) fn check_target(target: &Target) -> Result<()> {
    match target.image.header.as_ref().is_some_and(has_bitmaps) {
        true => Ok(()),
        false => {
            Err(Failure::new(format!("Format driver '{}' does not support bitmaps", target.image.format)))
        }
    }
}

fn has_bitmaps(header: &Header) -> bool {
    header.version == Version::V3
}

/// Copies them: what is recorded in the source goes on being recorded in the target.
pub(super) async fn copy(session: &Session, source: &Image, target: &Target) -> Result<()> {
    let (broken, whole): (Vec<_>, Vec<_>) =
        source.bitmaps().await?.into_iter().partition(|bitmap| bitmap.inconsistent);
    for bitmap in broken.iter().rev() {
        session.listener.complain(&format!("warning: Skipping inconsistent bitmap '{}'", bitmap.name));
    }
    for bitmap in whole {
        let name = &bitmap.name;
        let add = BitmapChange::Add {
            granularity: bitmap.granularity,
            recording: bitmap.recording,
            persistent: true,
        };
        let added = session.engine.change_bitmap(&target.image.node, name, add).await;
        added.map_err(|error| Failure::of(format_args!("Failed to create bitmap {name}"), &error))?;
        let filled = async {
            let content = session.engine.bitmap(&source.node, name).await?;
            session.engine.change_bitmap(&target.image.node, name, BitmapChange::Merge(content)).await
        };
        if let Err(error) = filled.await {
            // An empty one would say that nothing has changed. What has failed counts.
            let _ = session.engine.change_bitmap(&target.image.node, name, BitmapChange::Remove).await;
            return Err(Failure::of(format_args!("Failed to populate bitmap {name}"), &error));
        }
    }
    let stored = session.engine.rest(&target.image.node).await;
    stored.map_err(|error| Failure::of("Cannot store bitmaps", &error))
}
