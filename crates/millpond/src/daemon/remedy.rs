//! What to do about options that `millpond daemon` cannot carry out, in the words of its command line.

use std::io::ErrorKind as Std;

use block::BlockError;

use crate::remedies::{Remedies, with};

const NODES: Remedies = Remedies {
    said: &[
        ("'node-name' must be specified", "add node-name=NAME"),
        ("Duplicate nodes with node-name", "give each node a name of its own"),
        ("Cannot find device=", "name a node that an option before it adds"),
        (
            "Is another process using",
            "Stop the program that uses it, or let all of them only read it (read-only=on).",
        ),
        ("neither a regular file nor a block device", "name a disk image"),
        ("No such device", "name a file or a block device that is there"),
        ("cannot be greater than size", "choose a smaller offset"),
        ("encrypted with", "make an image without encryption of it with qemu-img convert"),
        (
            "Unsupported qcow2 feature",
            "make an image without them with qemu-img convert, where they are known",
        ),
        ("not a qcow2 image", "check the name, or use the driver of its format"),
        ("requires cache.direct=on", "Add cache.direct=on."),
        ("is unexpected", "leave it out, or see the driver's page in docs/manual"),
        ("the JSON", "write keys and values, or an object in braces"),
    ],
    system: &[
        (Std::NotFound, "check the name, or make the image first"),
        (Std::PermissionDenied, "allow this user to open it, or only read it with read-only=on"),
        (Std::ReadOnlyFilesystem, "only read it with read-only=on"),
        (Std::IsADirectory, "name a file in it"),
        (Std::NotADirectory, "check the name"),
        (Std::ConnectionRefused, "start its server"),
    ],
};
const EXPORTS: Remedies = Remedies {
    said: &[
        ("NBD server not running", "put --nbd-server before it"),
        ("Cannot find device=", "put the --blockdev that adds it before it"),
        ("is already in use", "give each export an id of its own"),
        ("is read-only", "leave out writable=on, or open the node for writing"),
        ("is unexpected", "leave it out"),
    ],
    system: &[],
};
const MONITORS: Remedies = Remedies {
    said: &[
        ("not found", "put its --chardev before it"),
        ("Parameter 'chardev' is missing", "add chardev=ID"),
        ("Parameter 'id' is missing", "add id=ID"),
        ("already exists", "give each chardev an id of its own"),
        ("is unexpected", "leave it out"),
    ],
    system: &[],
};

/// The same error of a node with a remedy, if there is one.
pub(super) fn of_node(error: BlockError) -> BlockError {
    let text = error.to_string();
    if text.contains("Unknown driver") || text.contains("'driver' does not accept") {
        let known: Vec<_> = driver::DRIVERS.iter().map(|driver| driver.name).collect();
        return with(&error, &format!("use one of {}", known.join(", ")));
    }
    NODES.advise(error)
}

/// The same error of an export with a remedy, if there is one.
pub(super) fn of_export(error: BlockError) -> BlockError {
    EXPORTS.advise(error)
}

/// The same error of a chardev or a monitor with a remedy, if there is one.
pub(super) fn of_monitor(error: BlockError) -> BlockError {
    MONITORS.advise(error)
}
