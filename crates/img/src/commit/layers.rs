//! Which of the images below an overlay is committed into.
//!
//! Invariant: an image is the one that is named if it lies where the name leads, whatever the image above calls it:
//! options may have put another one there.

use std::path::{Path, PathBuf};

use engine::NodeInfo;
use qcow2::Target;

use crate::failure::{Failure, Result};
use crate::naming;
use crate::session::Session;

/// The nodes of the images below the node `overlay`, named `name`, down to `base` (without one that is the nearest),
/// nearest first, and at least one.
pub(super) fn below(session: &Session, overlay: &str, name: &str, base: Option<&str>) -> Result<Vec<String>> {
    let nodes = session.engine.nodes();
    let info = |node: &str| nodes.iter().find(|info| info.name == node);
    let (mut found, mut above) = (Vec::new(), info(overlay));
    while let Some(layer) = above.and_then(|above| above.child("backing")).and_then(info) {
        found.push(layer.name.clone());
        if base.is_none_or(|base| is_called(layer, base, &filename(above))) {
            return Ok(found);
        }
        above = Some(layer);
    }
    Err(Failure::new(match base {
        Some(base) => format!("Did not find '{base}' in the backing chain of '{name}'"),
        None => "Image does not have a backing file".to_owned(),
    }))
}

/// Whether `base`, taken from where the image above lies, leads to this image.
fn is_called(layer: &NodeInfo, base: &str, above: &str) -> bool {
    let real = |path: &str| Path::new(path).canonicalize().unwrap_or_else(|_| PathBuf::from(path));
    let named = match qcow2::resolve(base, above) {
        Ok(Target::Path(path)) => path,
        _ => naming::named(base, None, false).map_or_else(|_| base.to_owned(), |named| named.filename(base)),
    };
    real(&named) == real(&filename(Some(layer)))
}

fn filename(info: Option<&NodeInfo>) -> String {
    info.and_then(|info| info.filename.as_ref()).map(|path| path.display().to_string()).unwrap_or_default()
}
