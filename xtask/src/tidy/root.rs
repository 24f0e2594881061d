//! What lies at the root is what everybody sees first: each thing there has its reason.

use super::{Finding, tree::Tree};

/// All that may lie there, but for what [`Tree`] passes over.
const KNOWN: &[&str] = &[
    ".cargo",
    ".ci",
    ".config",
    ".git",
    ".gitignore",
    "ARCHITECTURE.md",
    "CONTRIBUTING.md",
    "Cargo.lock",
    "Cargo.toml",
    "LICENSE-APACHE",
    "LICENSE-MIT",
    "README.md",
    "clippy.toml",
    "crates",
    "docs",
    "fuzz",
    "imago",
    "rustfmt.toml",
    "xtask",
];

/// Nothing else lies there: mostly it was left by an experiment.
pub(super) fn check(tree: &Tree) -> Vec<Finding> {
    let strangers = tree.at_root().filter(|name| !KNOWN.contains(name));
    let complaint = "what is it for? Remove it, or name it in xtask/src/tidy/root.rs";
    strangers.map(|name| Finding::new(name, 1, complaint)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_an_experiment_left_fails() {
        let found = check(&Tree::sample(&[("README.md", ""), ("c.raw", ""), ("docs/c.raw", "")]));
        let paths: Vec<_> = found.iter().map(|finding| &*finding.path).collect();
        assert_eq!(paths, ["c.raw"]);
    }
}
