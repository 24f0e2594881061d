//! Files that a newcomer and the other rules count on.

use super::ratchet::{self, Ratchet};
use super::{Finding, drivers, tree::Tree};

const REQUIRED: &[(&str, &str)] = &[
    ("README.md", "what it is and how to run it"),
    ("ARCHITECTURE.md", "the rooms, one read and one write followed"),
    ("CONTRIBUTING.md", "style, commits, where to put what"),
    ("LICENSE-MIT", "the licence"),
    ("LICENSE-APACHE", "the licence"),
    (".ci/run", "what CI runs"),
    (drivers::REGISTRY, "the only list of drivers"),
];

/// Required files are there, or awaited on the ratchet until they first appear.
pub(super) fn check(tree: &Tree) -> Vec<Finding> {
    let awaited = Ratchet::of(tree).awaited;
    let complaints =
        REQUIRED.iter().filter_map(|(path, purpose)| match (tree.has(path), awaited.contains(*path)) {
            (false, false) => Some(Finding::new(path, 1, format!("missing: write it ({purpose})"))),
            (true, true) => {
                let message =
                    format!("`{path}` is there and no longer awaited: run `cargo xtask tidy --bless`");
                Some(Finding::new(ratchet::PATH, 1, message))
            }
            _ => None,
        });
    complaints.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_file_fails_unless_it_is_still_awaited() {
        let list: String = REQUIRED.iter().skip(1).map(|(path, _)| format!("awaited {path}\n")).collect();
        let found = check(&Tree::sample(&[(ratchet::PATH, &list), ("LICENSE-MIT", "")]));
        let paths: Vec<_> = found.iter().map(|finding| &*finding.path).collect();
        assert_eq!(paths, ["README.md", ratchet::PATH]);
    }
}
