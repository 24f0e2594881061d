//! What to do about what cannot be served, beside what the system says of it.
//!
//! Invariant: whatever is explained names the thing once, and a remedy where there is one.

use std::error::Error as _;
use std::io::ErrorKind as Std;

use block::BlockError;
use io::Address;

use super::args::Args;

type BySystem = &'static [(Std, &'static str)];

/// Errors of the system whose text alone does not say what to do about an image.
const OPENING: BySystem = &[
    (Std::NotFound, "check the name, or make the image first"),
    (Std::PermissionDenied, "allow this user to open it, or only read it with -r"),
    (Std::ReadOnlyFilesystem, "only read it with -r"),
    (Std::IsADirectory, "name a file in it"),
    (Std::NotADirectory, "check the name"),
    (Std::ConnectionRefused, "start its server"),
];
/// The same for one that is only read.
const READING: BySystem = &[(Std::PermissionDenied, "allow this user to read it")];
const LISTENING: BySystem = &[
    (Std::AddrNotAvailable, "name an address of this machine with -b"),
    (Std::PermissionDenied, "use a port above 1023, or a directory that this user may write to"),
    (Std::NotADirectory, "check the path of -k"),
];
const WRITING_PID: BySystem = &[
    (Std::NotFound, "make its directory first"),
    (Std::NotADirectory, "check the path"),
    (Std::PermissionDenied, "use a directory that this user may write to"),
    (Std::IsADirectory, "name a file in it"),
];

/// What other rooms say of images and objects, and what to do about it on this command line.
const SAID: &[(&str, &str)] = &[
    ("Is another process using", "Stop the program that uses it, or let all of them only read it (-r)."),
    ("neither a regular file nor a block device", "name a disk image"),
    ("No such device", "name a file or a block device that is there"),
    ("cannot be greater than size", "choose a smaller offset (-o)"),
    ("encrypted with", "make an image without encryption of it with qemu-img convert"),
    ("qcow2 features unknown", "make an image without them with qemu-img convert, where they are known"),
    ("not a qcow2 image", "check the name, or say another format with -f"),
    ("requires cache.direct=on", "Add --cache=none."),
    ("Parameter 'id' is missing", "add id=NAME"),
    ("Parameter 'id' expects an identifier", "use a letter, then letters, digits, '-', '.' and '_'"),
    ("add duplicate property", "give each object an id of its own"),
    ("Unable to read", "check the name"),
    ("expected: integer", "give a number"),
    ("is unexpected", "leave it out"),
];

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
    let reading = if args.read_only { by_system(&error, READING) } else { None };
    advised(error, reading, OPENING)
}

/// The same error of an object with the option that it is from. The rest of that may be secret.
pub(super) fn of_object(error: BlockError, option: &str) -> BlockError {
    let mut items = option.split(',');
    let kind = items.next().filter(|kind| !kind.contains('=')).unwrap_or_default();
    let id = items.find(|item| item.starts_with("id=")).map_or(String::new(), |id| format!(",{id}"));
    let error = error.within(format_args!("--object {kind}{id}"));
    if error.to_string().contains("'qom-type'") {
        return with(&error, &format!("use one of {}", object::KINDS.join(", ")));
    }
    advised(error, None, &[])
}

/// The same error of listening at `address` with a remedy, if there is one.
pub(super) fn of_listening(error: BlockError, address: &Address) -> BlockError {
    let missing = by_system(&error, &[(Std::NotFound, "")]).map(|_| match address {
        Address::Tcp { .. } => "check the name given with -b",
        _ => "make its directory first",
    });
    advised(error, missing, LISTENING)
}

/// The process id could not be written.
pub(super) fn of_pid_file(error: BlockError) -> BlockError {
    advised(error, None, WRITING_PID)
}

fn advised(error: BlockError, remedy: Option<&str>, table: BySystem) -> BlockError {
    let text = error.to_string();
    let said = || SAID.iter().find(|(part, _)| text.contains(part)).map(|(_, remedy)| *remedy);
    match remedy.or_else(|| by_system(&error, table)).or_else(said) {
        Some(remedy) => with(&error, remedy),
        None => error,
    }
}

fn by_system(error: &BlockError, table: BySystem) -> Option<&'static str> {
    let system = error.source()?.downcast_ref::<std::io::Error>()?;
    table.iter().find(|(kind, _)| *kind == system.kind()).map(|(_, remedy)| *remedy)
}

/// Sentences are QEMU's, and stay whole; a clause goes on.
fn with(error: &BlockError, remedy: &str) -> BlockError {
    let text = error.to_string();
    let joint = if text.ends_with(['?', '.', ']']) { "" } else { ":" };
    BlockError::new(error.kind(), format!("{text}{joint} {remedy}"))
}
