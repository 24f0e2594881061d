//! Node names: what a user may choose, and what is chosen where the user did not.

use std::sync::atomic::{AtomicU64, Ordering};

use block::{BlockError, ErrorKind, Result};

/// Longest name in bytes.
const LONGEST: usize = 31;

/// Checks a name that a user chose: a letter, then letters, digits, `-`, `.` and `_`, at most 31 bytes.
pub(crate) fn check(name: &str) -> Result<()> {
    let well_formed = name.starts_with(|c: char| c.is_ascii_alphabetic())
        && name.bytes().all(|c| c.is_ascii_alphanumeric() || b"-._".contains(&c));
    if !well_formed {
        return Err(BlockError::new(ErrorKind::Invalid, format!("Invalid node-name: '{name}'")));
    }
    if name.len() > LONGEST {
        return Err(BlockError::new(ErrorKind::Invalid, "Node name too long"));
    }
    Ok(())
}

/// Names of a form that no user may choose.
#[derive(Default)]
pub(crate) struct AutoNames(AtomicU64);

impl AutoNames {
    /// `#block000` and so on.
    pub(crate) fn next(&self) -> String {
        format!("#block{:03}", self.0.fetch_add(1, Ordering::Relaxed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_what_qemu_takes() {
        let longest = "a".repeat(31);
        for good in ["a", "disk0", "a-b.c_d", "Z9", &longest] {
            assert!(check(good).is_ok(), "{good}");
        }
        for bad in ["", "#block000", "1a", "a b", "-a", "ä", "a/b"] {
            let said = check(bad).expect_err(bad).to_string();
            assert_eq!(said, format!("Invalid node-name: '{bad}'"));
        }
        assert_eq!(check(&"a".repeat(32)).expect_err("too long").to_string(), "Node name too long");
    }

    #[test]
    fn nobody_can_choose_an_automatic_name() {
        let names = AutoNames::default();
        assert_eq!((names.next(), names.next()), ("#block000".to_owned(), "#block001".to_owned()));
        assert!(check(&names.next()).is_err());
    }
}
