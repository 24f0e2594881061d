//! The ratchet, `xtask/ratchet.txt`: what may still break a rule, a list that can only get shorter.
//!
//! Invariant: [`bless`] removes and lowers entries, it never adds or raises one; that takes an edit by hand,
//! which a reviewer sees.

use super::{sizes, tree::Tree};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::path::Path;

/// Where the list lies.
pub(super) const PATH: &str = "xtask/ratchet.txt";

const HEADING: &str = "\
# What may still break a rule of `cargo xtask tidy`. It only gets shorter: `cargo xtask tidy --bless` takes in
# what has shrunk. To add a line, edit this file and give the reason in the commit.
#   file PATH LINES | function PATH NAME LINES | awaited PATH
";

/// The parsed list.
#[derive(Default, PartialEq, Debug)]
pub(super) struct Ratchet {
    /// Lines that `file PATH` or `function PATH NAME` may have.
    pub(super) sizes: BTreeMap<String, usize>,
    /// Required files that are not written yet.
    pub(super) awaited: BTreeSet<String>,
}

impl Ratchet {
    /// The list of `tree`; empty where there is none.
    pub(super) fn of(tree: &Tree) -> Self {
        tree.file(PATH).map(|file| Self::parse(&file.text)).unwrap_or_default()
    }

    fn parse(text: &str) -> Self {
        let mut ratchet = Self::default();
        for line in text.lines().filter(|line| !line.starts_with('#')) {
            if let Some(path) = line.strip_prefix("awaited ") {
                ratchet.awaited.insert(path.to_owned());
            } else if let Some((what, lines)) = line.rsplit_once(' ') {
                ratchet.sizes.insert(what.to_owned(), lines.parse().unwrap_or(0));
            }
        }
        ratchet
    }

    /// The same list without what is no longer needed in `tree`.
    fn shrunk(&self, tree: &Tree) -> Self {
        let measured = sizes::measure(tree);
        let lower = |(what, &listed): (&String, &usize)| {
            let now = measured.get(what)?.lines;
            Some((what.clone(), now.min(listed)))
        };
        let awaited = self.awaited.iter().filter(|path| !tree.has(path)).cloned().collect();
        Self { sizes: self.sizes.iter().filter_map(lower).collect(), awaited }
    }
}

impl fmt::Display for Ratchet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(HEADING)?;
        self.awaited.iter().try_for_each(|path| writeln!(f, "awaited {path}"))?;
        self.sizes.iter().try_for_each(|(what, lines)| writeln!(f, "{what} {lines}"))
    }
}

/// Rewrites the list at `root` so that it holds no more than `tree` needs.
pub(super) fn bless(root: &Path, tree: &Tree) -> Result<(), String> {
    let shrunk = Ratchet::of(tree).shrunk(tree).to_string();
    std::fs::write(root.join(PATH), shrunk).map_err(|error| format!("{PATH}: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_list_survives_being_written() {
        let text = format!("{HEADING}awaited README.md\nfile a.rs 600\nfunction a.rs f 60\n");
        assert_eq!(Ratchet::parse(&text).to_string(), text);
    }

    #[test]
    fn blessing_never_grows_the_list() {
        let long = "x\n".repeat(600);
        let listed = "awaited README.md\nfile a.rs 700\nfile b.rs 550\nfile gone.rs 600\n";
        let files = [("a.rs", &*long), ("b.rs", &long), ("c.rs", &long), ("README.md", ""), (PATH, listed)];
        let tree = Tree::sample(&files);
        let shrunk = Ratchet::of(&tree).shrunk(&tree);
        let sizes: Vec<_> = shrunk.sizes.iter().map(|(what, &lines)| (&**what, lines)).collect();
        assert_eq!(sizes, [("file a.rs", 600), ("file b.rs", 550)]);
        assert!(shrunk.awaited.is_empty());
    }
}
