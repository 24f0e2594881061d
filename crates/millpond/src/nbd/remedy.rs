//! What to do about what `millpond nbd` cannot serve, in the words of its command line.

use std::io::ErrorKind as Std;

use block::BlockError;

use super::args::Args;
use crate::remedies::{BySystem, Remedies, by_system, with};

const IMAGES: Remedies = Remedies {
    said: &[
        ("Is another process using", "Stop the program that uses it, or let all of them only read it (-r)."),
        ("neither a regular file nor a block device", "name a disk image"),
        ("No such device", "name a file or a block device that is there"),
        ("cannot be greater than size", "choose a smaller offset (-o)"),
        ("encrypted with", "make an image without encryption of it with qemu-img convert"),
        (
            "Unsupported qcow2 feature",
            "make an image without them with qemu-img convert, where they are known",
        ),
        ("not a qcow2 image", "check the name, or say another format with -f"),
        ("requires cache.direct=on", "Add --cache=none."),
    ],
    system: &[
        (Std::NotFound, "check the name, or make the image first"),
        (Std::PermissionDenied, "allow this user to open it, or only read it with -r"),
        (Std::ReadOnlyFilesystem, "only read it with -r"),
        (Std::IsADirectory, "name a file in it"),
        (Std::NotADirectory, "check the name"),
        (Std::ConnectionRefused, "start its server"),
    ],
};
/// The same for one that is only read.
const READING: BySystem = &[(Std::PermissionDenied, "allow this user to read it")];

/// The same error of an image with its name, if it lacks it, and a remedy, if there is one.
pub(super) fn of_image(error: BlockError, args: &Args) -> BlockError {
    let name = args.file.as_deref().unwrap_or_default();
    let error = match error.to_string().contains(name) {
        true => error,
        false => error.within(format!("'{name}'")),
    };
    if error.to_string().contains("Unknown driver") {
        let known: Vec<_> = driver::DRIVERS.iter().map(|driver| driver.name).collect();
        return with(&error, &format!("use one of {}", known.join(", ")));
    }
    match by_system(&error, READING).filter(|_| args.read_only) {
        Some(remedy) => with(&error, remedy),
        None => IMAGES.advise(error),
    }
}
