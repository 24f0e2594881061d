//! The other images that a header names.
//!
//! Invariant: names are answered as wishes; whether they may be opened is decided by who opens them.

use std::path::PathBuf;

use block::{BlockError, ErrorKind, Result};
use flow::Role;
use qcow2::{Backing, DataFile, Header, Target};

use crate::context::{OpenContext, Reference, Wanted};

/// The images that the header names, unless the options named theirs.
pub(crate) fn wants(context: &OpenContext, header: &Header) -> Result<Vec<Wanted>> {
    let mut wants = Vec::new();
    let given = |role| context.children.iter().any(|(r, _)| *r == role);
    if header.data_file.is_none() && given(Role::DataFile) {
        return Err(invalid("'data-file' can only be set for images with an external data file"));
    }
    if let Some(data) = header.data_file.as_ref().filter(|_| !given(Role::DataFile)) {
        wants.push(Wanted { role: Role::DataFile, reference: data_file(data)? });
    }
    if let Some(backing) = header.backing.as_ref().filter(|_| !given(Role::Backing) && !context.no_backing) {
        wants.push(Wanted { role: Role::Backing, reference: self::backing(context, backing)? });
    }
    Ok(wants)
}

/// A path as it stands, prefix or not, relative to the working directory: what QEMU 10 makes of it.
fn data_file(data: &DataFile) -> Result<Reference> {
    match data.name.as_deref() {
        Some(name) if !name.is_empty() => {
            Ok(Reference::File { path: PathBuf::from(name), format: Some("file".to_owned()) })
        }
        _ => Err(invalid("'data-file' is required for this image")),
    }
}

fn backing(context: &OpenContext, backing: &Backing) -> Result<Reference> {
    let overlay = context.base.as_deref().map(|path| path.to_string_lossy());
    // Only a file has a directory; a name with a prefix or an absolute path needs none.
    let target = qcow2::resolve(&backing.name, overlay.as_deref().unwrap_or("json:"))
        .map_err(|error| error.within(format_args!("backing file '{}'", backing.name)))?;
    let format = backing.format.clone();
    Ok(match target {
        Target::Path(path) => Reference::File { path: PathBuf::from(path), format },
        Target::Protocol { name, .. } => Reference::Protocol { name, format },
        Target::Options(options) => match options.nested()? {
            serde_json::Value::Object(map) => Reference::Options(map),
            _ => return Err(invalid("the json: name of its backing file holds no options")),
        },
    })
}

fn invalid(context: &str) -> BlockError {
    BlockError::new(ErrorKind::Invalid, context)
}
