//! Standard output and standard error.
//!
//! Invariant: whoever closes them, or has no room for them, does not want what is told there; nothing fails for it.

use std::fmt::Display;
use std::io::{self, Write};

/// Prints an answer as it stands. Answers whether it could be written.
pub(crate) fn print(text: impl Display) -> bool {
    write(&mut io::stdout().lock(), text)
}

/// Prints a line of an answer.
pub(crate) fn line(text: impl Display) {
    print(format_args!("{text}\n"));
}

/// Tells something beside the answer, as it stands.
pub(crate) fn tell(text: impl Display) {
    write(&mut io::stderr().lock(), text);
}

/// Tells a line beside the answer: a warning, an error, how far it is.
pub(crate) fn tell_line(text: impl Display) {
    tell(format_args!("{text}\n"));
}

fn write(out: &mut impl Write, text: impl Display) -> bool {
    // In one piece: the lines of several threads do not mix.
    out.write_all(text.to_string().as_bytes()).and_then(|()| out.flush()).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_written_is_dropped() {
        assert!(write(&mut Vec::new(), "text"));
        assert!(!write(&mut &mut [0; 3][..], "text"));
    }
}
