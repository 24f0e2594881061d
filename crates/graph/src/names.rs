//! Node names: what a user may choose, and what is chosen where the user did not.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use block::{BlockError, ErrorKind, Result};

/// Longest name in bytes.
const LONGEST: usize = 31;

/// A name that a node may have. Whether another has it already shows when the node is added.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct NodeName(Arc<str>);

impl NodeName {
    /// A name that a user chose: a letter, then letters, digits, `-`, `.` and `_`, at most 31 bytes.
    pub fn new(name: &str) -> Result<Self> {
        let well_formed = name.starts_with(|c: char| c.is_ascii_alphabetic())
            && name.bytes().all(|c| c.is_ascii_alphanumeric() || b"-._".contains(&c));
        if !well_formed {
            return Err(BlockError::new(ErrorKind::Invalid, format!("Invalid node-name: '{name}'")));
        }
        if name.len() > LONGEST {
            return Err(BlockError::new(ErrorKind::Invalid, "Node name too long"));
        }
        Ok(Self(name.into()))
    }

    /// The text, shared.
    pub fn text(&self) -> &Arc<str> {
        &self.0
    }
}

impl fmt::Display for NodeName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// What is said of a name that another node has.
pub(crate) fn taken(name: &str) -> BlockError {
    BlockError::new(ErrorKind::Exists, format!("Duplicate nodes with node-name='{name}'"))
}

/// Names of a form that no user may choose.
#[derive(Default)]
pub(crate) struct AutoNames(AtomicU64);

impl AutoNames {
    /// `#block000` and so on.
    pub(crate) fn next(&self) -> NodeName {
        NodeName(format!("#block{:03}", self.0.fetch_add(1, Ordering::Relaxed)).into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_what_qemu_takes() {
        let longest = "a".repeat(31);
        for good in ["a", "disk0", "a-b.c_d", "Z9", &longest] {
            assert!(NodeName::new(good).is_ok(), "{good}");
        }
        for bad in ["", "#block000", "1a", "a b", "-a", "ä", "a/b"] {
            let said = NodeName::new(bad).expect_err(bad).to_string();
            assert_eq!(said, format!("Invalid node-name: '{bad}'"));
        }
        assert_eq!(NodeName::new(&"a".repeat(32)).expect_err("too long").to_string(), "Node name too long");
    }

    #[test]
    fn nobody_can_choose_an_automatic_name() {
        let names = AutoNames::default();
        let (first, second) = (names.next().to_string(), names.next().to_string());
        assert_eq!((first.as_str(), second.as_str()), ("#block000", "#block001"));
        assert!(NodeName::new(&first).is_err());
    }
}
