//! What to do about what the pond refuses or cannot do, in the words of its command lines.
//!
//! The daemon says them for the verbs of `millpond`, which show what they are answered.

use std::io::ErrorKind as Std;

use block::BlockError;
use control::Failure;
use pond::{Refusal, Remedy, Trouble};

use crate::remedies::Remedies;

/// By what would help, as the pond tells it.
const fn words(remedy: Remedy) -> &'static str {
    match remedy {
        Remedy::OverwriteOverlay => "name another file, or say --force to overwrite it",
        Remedy::Enlarge => "say a larger --size, or none",
        Remedy::StopVm => "shut the VM down first",
        Remedy::AwaitComplete => "wait for it with 'millpond watch --until-complete'",
        Remedy::RemoveOverlays => "remove that file first",
        Remedy::RemoveImage => "remove the image with 'millpond remove', and it is fetched anew",
        Remedy::NewClone => "make a new clone",
        Remedy::OtherPond => "stop it, or name another --pond",
        Remedy::SeeList => "look at 'millpond list'",
        Remedy::RunAsOwner => "run the daemon as root, or as that user",
        Remedy::RemoveFile => "remove that file",
    }
}

/// By the error of the system, when the pond is opened.
const PONDS: Remedies = Remedies {
    said: &[],
    system: &[
        (Std::NotFound, "check the path: the folder above it must be there"),
        (Std::NotADirectory, "check the path"),
        (Std::PermissionDenied, "name folders that this user may write to (--pond, --runtime)"),
        (Std::ReadOnlyFilesystem, "name folders that can be written (--pond, --runtime)"),
        (Std::StorageFull, "make room, or name another --pond"),
    ],
};

/// The same error of opening a pond with a remedy, if there is one.
pub(super) fn of_pond(error: BlockError) -> BlockError {
    PONDS.advise(error)
}

/// Why a pond was not opened, with a remedy, if there is one.
pub(super) fn of_opening(refusal: Refusal) -> BlockError {
    match refusal.remedy() {
        None => of_pond(refusal.into()),
        remedy => BlockError::new(refusal.kind(), with(&refusal.to_string(), remedy)),
    }
}

/// A refusal of a verb as its client is told of it.
pub(super) fn failure(refusal: Refusal) -> Failure {
    Failure::new(with(&refusal.to_string(), refusal.remedy()))
}

/// A trouble as lists show it.
pub(super) fn trouble(trouble: Trouble) -> String {
    with(&trouble.what, trouble.remedy)
}

fn with(what: &str, remedy: Option<Remedy>) -> String {
    match remedy {
        Some(remedy) => format!("{what}: {}", words(remedy)),
        None => what.to_owned(),
    }
}
