//! A module is named after what it holds; a drawer for everything is not a name.

use super::source::{is_word, line_of, words};
use super::{Finding, tree::Tree};

const DRAWERS: &[&str] = &["utils", "util", "common", "misc", "helpers", "helper"];

/// No module is a drawer.
pub(super) fn check(tree: &Tree) -> Vec<Finding> {
    let mut findings = Vec::new();
    for file in tree.rust() {
        for at in words(&file.views.code, "mod") {
            let after = file.views.code[at + 3..].trim_start();
            let name = after.split(|c| !is_word(c)).next().unwrap_or_default();
            if DRAWERS.contains(&name) {
                let message = format!(
                    "`mod {name}` says nothing: name it after what it holds, or put each piece where it is used"
                );
                findings.push(Finding::new(&file.path, line_of(&file.text, at), message));
            }
        }
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_drawer_fails() {
        let tree = Tree::sample(&[("a.rs", "mod mapping;\npub(crate) mod utils;\n// mod misc\n")]);
        let found = check(&tree);
        assert_eq!((found.len(), found[0].line), (1, 2));
    }
}
