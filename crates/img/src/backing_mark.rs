//! What an image notes of its backing file, so that it is told when that has changed (`docs/formats/backing-mark.md`).

use std::path::Path;
use std::time::Duration;

use flow::Amendment;
use qcow2::{Backing, BackingMark, Header, Target, Version};

use crate::failure::Result;
use crate::session::{How, Session, Source};

/// What the backing file of the image `overlay` is now; `None` where it is no file that is there.
pub(crate) async fn of(session: &Session, backing: &Backing, overlay: &str) -> Option<BackingMark> {
    let Ok(Target::Path(path)) = qcow2::resolve(&backing.name, overlay) else { return None };
    let about = session.engine.world().folders().about(Path::new(&path)).await.ok()?;
    Some(BackingMark {
        len: about.len,
        modified_s: about.modified.as_secs(),
        modified_ns: about.modified.subsec_nanos(),
    })
}

/// Whether the image says of its backing file what is true.
pub(crate) async fn holds(session: &Session, header: &Header, overlay: &str) -> bool {
    let Some(backing) = &header.backing else { return false };
    let noted = BackingMark::read(header);
    noted.is_some() && noted == of(session, backing, overlay).await
}

/// Has an image that nobody uses note what its backing file is now, where that can be said and the image has room for
/// it.
pub(crate) async fn note(session: &Session, source: Source<'_>, how: How<'_>) {
    // It is of use, and not needed.
    let _ = try_to_note(session, source, how).await;
}

async fn try_to_note(session: &Session, source: Source<'_>, how: How<'_>) -> Result<()> {
    let looked = session.look(source, How { writable: false, ..how }).await?;
    session.engine.delete_node(&looked.node).await?;
    let header = looked.header.as_ref().filter(|header| header.version == Version::V3);
    let Some(backing) = header.and_then(|header| header.backing.as_ref()) else { return Ok(()) };
    let overlay = looked.named.filename(source.name);
    let Some(mark) = of(session, backing, &overlay).await else { return Ok(()) };
    let how = How { writable: true, alone: true, check_only: true, ..how };
    let image = session.open(source, how).await?;
    let noted = session
        .engine
        .amend(
            &image.node,
            &Amendment::NoteBacking(mark.len, Duration::new(mark.modified_s, mark.modified_ns)),
        )
        .await;
    image.close().await?;
    Ok(noted?)
}
