//! What to do about what cannot be done, beside what the system says of it. Each face has tables in its own words;
//! what holds for all of them is here.
//!
//! Invariant: whatever is explained names the thing once, and a remedy where there is one.

use std::error::Error as _;
use std::io::ErrorKind as Std;

use block::BlockError;
use io::Address;

/// The largest number of an error that Linux has.
const ERRNO_MAX: i32 = 133;

/// Kinds of errors of the system whose text alone does not say what to do.
pub(crate) type BySystem = &'static [(Std, &'static str)];
/// What other rooms say, and what to do about it on this command line.
pub(crate) type BySaid = &'static [(&'static str, &'static str)];

/// What a face knows about one kind of trouble. What rooms say comes first: it is closer to the matter.
#[derive(Clone, Copy)]
pub(crate) struct Remedies {
    /// By what was said.
    pub(crate) said: BySaid,
    /// By the error of the system, also where only its text is left of it.
    pub(crate) system: BySystem,
}

/// What can be wrong with an object, whatever face it is named to.
const OBJECTS: Remedies = Remedies {
    said: &[
        ("Parameter 'id' is missing", "add id=NAME"),
        ("Parameter 'id' expects an identifier", "use a letter, then letters, digits, '-', '.' and '_'"),
        ("add duplicate property", "give each object an id of its own"),
        ("Unable to read", "check the name"),
        ("expected: integer", "give a number"),
        ("is unexpected", "leave it out"),
    ],
    system: &[],
};
const WRITING_PID: Remedies = Remedies {
    said: &[],
    system: &[
        (Std::NotFound, "make its directory first"),
        (Std::NotADirectory, "check the path"),
        (Std::PermissionDenied, "use a directory that this user may write to"),
        (Std::IsADirectory, "name a file in it"),
        (Std::ResourceBusy, "stop that one, or name another file"),
    ],
};
const LISTENING: Remedies = Remedies {
    said: &[("no address found for this host", "check the name of the host")],
    system: &[
        (Std::PermissionDenied, "use a port above 1023, or a directory that this user may write to"),
        (Std::NotADirectory, "check the path"),
    ],
};

impl Remedies {
    /// The same error with a remedy, if there is one.
    pub(crate) fn advise(&self, error: BlockError) -> BlockError {
        let text = error.to_string();
        let said = self.said.iter().find(|(part, _)| text.contains(part)).map(|(_, remedy)| *remedy);
        match said.or_else(|| by_system(&error, self.system)) {
            Some(remedy) => with(&error, remedy),
            None => error,
        }
    }
}

/// The same error of an object with the option that it is from. The rest of that may be secret.
pub(crate) fn of_object(error: BlockError, option: &str) -> BlockError {
    let mut items = option.split(',');
    let kind = items.next().filter(|kind| !kind.contains(['=', '{'])).unwrap_or_default();
    let id = items.find(|item| item.starts_with("id=")).map_or(String::new(), |id| format!(",{id}"));
    let error = error.within(format!("--object {kind}{id}").trim_end());
    if error.to_string().contains("'qom-type'") {
        return with(&error, &format!("use one of {}", object::KINDS.join(", ")));
    }
    OBJECTS.advise(error)
}

/// The same error of listening somewhere with a remedy, if there is one; over TCP, `host` is the option that names the
/// host.
pub(crate) fn of_listening(error: BlockError, host: Option<&str>) -> BlockError {
    let remedy = match (kind(&error), host) {
        (Some(Std::NotFound), None) => "make its directory first".to_owned(),
        (Some(Std::NotFound), Some(option)) => format!("check the name given with {option}"),
        (Some(Std::AddrNotAvailable), Some(option)) => {
            format!("name an address of this machine with {option}")
        }
        _ => return LISTENING.advise(error),
    };
    with(&error, &remedy)
}

/// [`of_listening`] at a known address.
pub(crate) fn of_listening_at(error: BlockError, address: &Address, option: &str) -> BlockError {
    of_listening(error, matches!(address, Address::Tcp { .. }).then_some(option))
}

/// The process id could not be written.
pub(crate) fn of_pid_file(error: BlockError) -> BlockError {
    WRITING_PID.advise(error)
}

/// What `table` says to an error of the system.
pub(crate) fn by_system(error: &BlockError, table: BySystem) -> Option<&'static str> {
    let kind = kind(error)?;
    table.iter().find(|(known, _)| *known == kind).map(|(_, remedy)| *remedy)
}

/// What the system said, also where only the text of that is left.
fn kind(error: &BlockError) -> Option<Std> {
    match error.source().and_then(|source| source.downcast_ref::<std::io::Error>()) {
        Some(system) => Some(system.kind()),
        None => said(&error.to_string()),
    }
}

/// The error of the system that a text ends with, as answers over QMP do.
fn said(text: &str) -> Option<Std> {
    let words = text.rsplit_once(": ")?.1;
    let known = (1..=ERRNO_MAX).map(std::io::Error::from_raw_os_error);
    known.into_iter().find(|error| block::system_text(error) == words).map(|error| error.kind())
}

/// Sentences are QEMU's, and stay whole; a clause goes on.
pub(crate) fn with(error: &BlockError, remedy: &str) -> BlockError {
    let text = error.to_string();
    let joint = if text.ends_with(['?', '.', ']']) { "" } else { ":" };
    BlockError::new(error.kind(), format!("{text}{joint} {remedy}"))
}

#[cfg(test)]
mod tests {
    use block::ErrorKind;

    use super::*;

    const TABLE: Remedies =
        Remedies { said: &[("nothing there", "look again")], system: &[(Std::NotFound, "check the name")] };

    #[test]
    fn what_is_said_counts_before_what_the_system_means() {
        let lost = || std::io::Error::from_raw_os_error(2);
        let advised = |context: &str| TABLE.advise(BlockError::system(context, lost())).to_string();
        assert!(advised("'x'").ends_with("No such file or directory: check the name"));
        assert!(advised("nothing there").ends_with(": look again"));
    }

    #[test]
    fn an_error_that_came_over_qmp_is_known_by_its_words() {
        let advised = |text: &str| TABLE.advise(BlockError::new(ErrorKind::Invalid, text)).to_string();
        let missing = "'x': No such file or directory";
        assert_eq!(advised(missing), format!("{missing}: check the name"));
        for other in ["'x': Input/output error", "'x': no such file", "'x'"] {
            assert_eq!(advised(other), other);
        }
    }
}
