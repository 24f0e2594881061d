//! What to do about what the pond refuses or cannot do, in the words of its command lines.
//!
//! The daemon says them for the verbs of `millpond`, which show what they are answered.

use std::io::ErrorKind as Std;

use block::{BlockError, ErrorKind};
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
        (Std::AlreadyExists, "name a folder, it is none"),
        (Std::PermissionDenied, "name folders that this user may write to (--pond, --runtime)"),
        (Std::ReadOnlyFilesystem, "name folders that can be written (--pond, --runtime)"),
        (Std::StorageFull, "make room, or name another --pond"),
    ],
};

/// By what other rooms say of sources, caches and overlays.
const VERBS: Remedies = Remedies {
    said: &[
        ("No space left on device", "make room"),
        ("cannot connect", "start that server, or check the address"),
        ("export unknown", "check the name ('nbdinfo --list' shows what there is)"),
        ("asks for TLS", "use nbd:// or nbd+unix://"),
        ("is no nbd://", "name nbd://HOST/NAME, nbd+unix:///NAME?socket=PATH, or a file"),
        ("cannot create '", "name a file in a folder that is there and can be written"),
        ("Could not open '", "check the name, and whether the daemon's user may read it"),
    ],
    system: &[],
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
        None => VERBS.advise(BlockError::new(ErrorKind::Invalid, what)).to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_pond_knows_no_help_for_is_explained_by_what_was_said() {
        let told = |what: &str| with(what, None);
        assert_eq!(
            told("'/a/b': cannot create '/a/b': No space left on device"),
            "'/a/b': cannot create '/a/b': No space left on device: make room"
        );
        assert!(told("cannot create '/a/b': No such file or directory").ends_with("can be written"));
        assert!(told("export 'x': option 'go' refused: export unknown").contains("nbdinfo"));
        assert_eq!(told("something else"), "something else");
        assert!(with("'/a' exists", Some(Remedy::OverwriteOverlay)).ends_with("--force to overwrite it"));
    }
}
