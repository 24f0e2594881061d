//! Every file opens with what it is for.

use super::{Finding, tree::Tree};

/// The first line of every Rust file is `//!`.
pub(super) fn check(tree: &Tree) -> Vec<Finding> {
    let bare = tree.rust().filter(|file| !file.text.trim_start().starts_with("//!"));
    let message = "no `//!` at the top: say what this module is for and which invariants it keeps";
    bare.map(|file| Finding::new(&file.path, 1, message)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_without_its_purpose_fails() {
        let tree = Tree::sample(&[("a.rs", "//! Reads.\n"), ("b.rs", "// Reads.\n//! Late.\n")]);
        assert_eq!(check(&tree).iter().map(|finding| &*finding.path).collect::<Vec<_>>(), ["b.rs"]);
    }
}
