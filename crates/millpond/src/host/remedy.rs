//! What to do about what the pond cannot do, in the words of its command lines.

use std::io::ErrorKind as Std;

use block::BlockError;

use crate::remedies::Remedies;

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
