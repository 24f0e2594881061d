//! What to do about an image that cannot be opened, beside what the system says of it.

use std::error::Error as _;

use block::BlockError;

use super::args::Args;

/// Errors of the system whose text alone does not say what to do.
const REMEDIES: &[(std::io::ErrorKind, &str)] = &[
    (std::io::ErrorKind::NotFound, "check the name, or make the image first"),
    (std::io::ErrorKind::PermissionDenied, "allow this user to open it, or only read it with -r"),
    (std::io::ErrorKind::ReadOnlyFilesystem, "only read it with -r"),
    (std::io::ErrorKind::IsADirectory, "name a file in it"),
    (std::io::ErrorKind::ConnectionRefused, "start its server"),
];

/// The same error with the image's name, if it lacks it, and a remedy, if there is one.
pub(super) fn explained(error: BlockError, args: &Args) -> BlockError {
    let name = args.file.as_deref().unwrap_or_default();
    let error = match error.to_string().contains(name) {
        true => error,
        false => error.within(format!("'{name}'")),
    };
    let system = error.source().and_then(|source| source.downcast_ref::<std::io::Error>());
    match system.and_then(|system| REMEDIES.iter().find(|(kind, _)| *kind == system.kind())) {
        Some((_, remedy)) => BlockError::new(error.kind(), format!("{error}: {remedy}")),
        None => error,
    }
}
