//! Errors of the engine in the words of QEMU.

use block::BlockError;
use flow::Preallocation;

/// What our rooms say, and what QEMU says in its place.
const WORDS: &[(&str, &str)] = &[
    (" lock: Is another process using the image", " lock\nIs another process using the image"),
    ("; you can force-remove ", REMEDY),
    (" with 'check -r all'", " with qemu-img check -r all"),
    ("equal to the actual size", "equal to the  actual size"),
    ("number below 2^64", SUFFIXES),
];

/// What stands between an oversized snapshot table and what may be removed of it.
const REMEDY: &str = "\nYou can force-remove ";

/// What may stand behind a number.
const SUFFIXES: &str = "number below 2^64\nOptional suffix k, M, G, T, P or E means kilo-, mega-, giga-, tera-, peta-\nand exabytes, respectively.";

/// The error as qemu-img words it: backing files as it names them.
pub fn explained(error: &BlockError) -> String {
    let text = of_qemu(&error.to_string());
    let text = without_node(&text);
    if let Some((_, told)) = text.split_once(UNKNOWN_EXPORT) {
        return no_export(told);
    }
    if let Some((_, rest)) = text.split_once(CONNECTING)
        && let Some((address, why)) = rest.rsplit_once(": ")
    {
        return match address.split_once(": ").filter(|_| address.contains(UNRESOLVED)) {
            Some((address, _)) => format!("address resolution failed for {address}: {why}"),
            None => format!("Failed to connect to '{address}': {why}"),
        };
    }
    match text.strip_prefix("Could not open '").and_then(|text| text.strip_suffix(DIRECTORY)) {
        Some(name) => format!("'file' driver requires '{name}' to be a regular file"),
        None => opening(text),
    }
}

/// The same of what was to be opened: a directory is found to be none only by who does not want to write to it.
pub(crate) fn not_opened(error: &BlockError, writable: bool) -> String {
    let text = error.to_string();
    match without_node(&text).strip_suffix(DIRECTORY).filter(|_| writable) {
        Some(name) => format!("{name}': Is a directory"),
        None => explained(error),
    }
}

/// The text with what QEMU says in the place of our own words.
pub(crate) fn of_qemu(text: &str) -> String {
    WORDS.iter().fold(text.to_owned(), |text, (ours, theirs)| text.replace(ours, theirs))
}

/// Without the names of the images on the way to what could not be opened.
fn opening(text: &str) -> String {
    let behind = |start: &str| text.strip_prefix(start)?.split_once("': ").map(|(_, why)| why);
    if let Some(why) = behind("image '") {
        return opening(why);
    }
    match behind("backing file of image '").or_else(|| text.strip_prefix(BACKING)) {
        Some(why) => format!("{BACKING}{}", opening(why)),
        None if text.contains("not a qcow2 image: ") => "Image is not in qcow2 format".to_owned(),
        None => text.to_owned(),
    }
}

/// What stands behind the name of a directory.
const DIRECTORY: &str = "': is a directory";

/// What stands behind the name of a host that has no address.
const UNRESOLVED: &str = ": no address found for this host: ";

const BACKING: &str = "Could not open backing file: ";

/// What stands between the name of an export and what its server says of it.
const UNKNOWN_EXPORT: &str = ": option 'go' refused: export unknown";

/// A server has no such export; `told` is what it says of that, in brackets.
fn no_export(told: &str) -> String {
    let told = told.strip_prefix(" (").and_then(|told| told.strip_suffix(')'));
    let told = told.map(|told| format!("\nserver reported: {}", told.replace("\\'", "'")));
    format!("Requested export not available{}", told.unwrap_or_default())
}

/// What stands before the address in our words.
const CONNECTING: &str = "cannot connect; does the server run there?: ";

/// Without the name of the node where it arose: nobody has named it.
fn without_node(text: &str) -> &str {
    match text.strip_prefix("node '").and_then(|rest| rest.split_once("': ")) {
        Some((_, rest)) => without_node(rest),
        None => text,
    }
}

/// Why a request has failed, without saying where: whoever tells it has said that.
pub(crate) fn cause(error: &BlockError) -> String {
    let system = std::error::Error::source(error).and_then(|source| source.downcast_ref::<std::io::Error>());
    match system {
        Some(system) => block::system_text(system),
        None => explained(error),
    }
}

/// What was being done when there was no room for what is new.
pub(crate) fn making_room(mode: Preallocation) -> &'static str {
    match mode {
        Preallocation::Off => "Could not resize file",
        Preallocation::Metadata => "Allocating clusters failed",
        Preallocation::Falloc => "Could not preallocate new data",
        Preallocation::Full => "Could not write zeros for preallocation",
    }
}

/// The same of a format, in the file that it lies in.
pub(crate) fn making_room_below(mode: Preallocation) -> String {
    match mode {
        Preallocation::Falloc | Preallocation::Full => {
            format!("Failed to resize underlying file: {}", making_room(mode))
        }
        Preallocation::Off | Preallocation::Metadata => making_room(mode).to_owned(),
    }
}

/// What `check` says first of a snapshot table that is larger than anybody accepts.
pub(crate) fn oversized_snapshots(error: &BlockError) -> Option<String> {
    let text = explained(error);
    let (before, remedy) = text.split_once(REMEDY)?;
    let what = before.rsplit_once("': ").map_or(before, |(_, what)| what);
    Some(match what {
        "Snapshot table too large" => format!("ERROR snapshot table too large{REMEDY}{remedy}"),
        _ => format!("ERROR failed to read the snapshot table: {what}{REMEDY}{remedy}"),
    })
}

/// An error with what QEMU's tools hint at behind it.
pub(crate) fn hinted(text: String) -> String {
    match text.ends_with("is inconsistent and cannot be used") {
        true => text + "\nTry block-dirty-bitmap-remove to delete this bitmap from disk",
        false => text,
    }
}

/// What an image says, without what could steer a terminal.
pub(crate) fn escaped(text: &str) -> String {
    text.chars().flat_map(|c| if c.is_control() { c.escape_default().collect() } else { vec![c] }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use block::ErrorKind;

    #[test]
    fn errors_read_as_those_of_qemu() {
        let missing = std::io::Error::from_raw_os_error(2);
        let error = BlockError::system("Could not open 'x'", missing);
        assert_eq!(explained(&error), "Could not open 'x': No such file or directory");
        let error = error.within("backing file of image 'y'");
        assert_eq!(
            explained(&error),
            "Could not open backing file: Could not open 'x': No such file or directory"
        );
        let text = "Failed to get \"write\" lock: Is another process using the image [a]?";
        let lock = BlockError::new(ErrorKind::Busy, text);
        assert_eq!(explained(&lock), "Failed to get \"write\" lock\nIs another process using the image [a]?");
    }

    #[test]
    fn who_has_no_address_and_what_is_no_file_is_told_in_words_of_qemu() {
        let error = |text: &str| BlockError::new(ErrorKind::NotFound, text);
        let text = "cannot connect; does the server run there?: a:1: a: no address found for this host: failed: Unknown";
        assert_eq!(explained(&error(text)), "address resolution failed for a:1: Unknown");
        let text = "cannot connect; does the server run there?: a:1: Connection refused";
        assert_eq!(explained(&error(text)), "Failed to connect to 'a:1': Connection refused");
        let directory = error("Could not open 'd': is a directory");
        assert_eq!(not_opened(&directory, true), "Could not open 'd': Is a directory");
        assert_eq!(not_opened(&directory, false), "'file' driver requires 'd' to be a regular file");
    }
}
