//! Whether a backing file still is what it was when the image was made over it.
//!
//! Invariant: this warns or refuses; what is read does not depend on it, and no file is opened for it.

use block::{BlockError, ErrorKind, Result};
use flow::Role;
use qcow2::{BackingMark, Header};
use serde::Deserialize;

use crate::context::{OpenContext, Reference, Wanted};

/// What becomes of an image whose backing file has changed since.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Validation {
    /// Nobody looks.
    Off,
    /// It is opened, and an event says so.
    #[default]
    Warn,
    /// It is not opened.
    Refuse,
}

/// Looks at the backing file that the header names and notes, if that is one of those that are wanted.
pub(crate) async fn backing(
    context: &OpenContext,
    policy: Validation,
    header: &Header,
    wants: &[Wanted],
) -> Result<()> {
    let mark = BackingMark::read(header).filter(|_| policy != Validation::Off && context.kept.is_none());
    let wanted = wants.iter().find(|wanted| wanted.role == Role::Backing);
    let (Some(mark), Some(Wanted { reference: Reference::File { path, .. }, .. })) = (mark, wanted) else {
        return Ok(());
    };
    // Whoever opens it says what is wrong with one that is not there.
    let Ok(about) = context.world.folders().about(path).await else { return Ok(()) };
    let now = BackingMark {
        len: about.len,
        modified_s: about.modified.as_secs(),
        modified_ns: about.modified.subsec_nanos(),
    };
    if now == mark {
        return Ok(());
    }
    let text = format!(
        "its backing file '{}' has changed since the image was made over it, so what it does not hold itself may read otherwise; if that was meant, 'img rebase -u' to the same name notes how it is now",
        path.display()
    );
    match policy {
        Validation::Refuse => Err(BlockError::new(ErrorKind::Invalid, text)),
        _ => {
            context.events.backing_changed(text);
            Ok(())
        }
    }
}
