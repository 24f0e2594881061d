//! What to do about what `millpond serve` cannot do, in the words of its command line.

use std::io::ErrorKind as Std;

use block::BlockError;

use crate::remedies::Remedies;

const FOLDERS: Remedies = Remedies {
    said: &[
        ("it is no folder", "name the folder that it is in, or serve one image with 'millpond nbd'"),
        ("raw and qcow2", "leave out --format, and names say it (.qcow2, .raw, .img)"),
    ],
    system: &[
        (Std::NotFound, "check the name, or make the folder first"),
        (Std::NotADirectory, "check the name"),
        (Std::PermissionDenied, "allow this user to read it"),
    ],
};

/// The same error of the folder that is to be served, with a remedy, if there is one.
pub(super) fn of_folder(error: BlockError) -> BlockError {
    FOLDERS.advise(error)
}
