//! `cargo xtask tidy`: the rules of the house that a compiler does not know, each in a file of its own.
//!
//! Invariants: a rule looks at a [`Tree`] and returns findings, nothing else; every finding names the file,
//! the line and the remedy; one run shows all of them. A rule here is explained in CONTRIBUTING.md.

mod architecture;
mod drivers;
mod layers;
mod links;
mod manual;
mod module_docs;
mod module_names;
mod purity;
mod ratchet;
mod required;
mod root;
mod runtime;
mod sizes;
mod source;
mod tree;
mod unfinished;
mod unsafe_code;
mod widths;

use std::fmt;
use std::path::Path;
use tree::Tree;

/// One thing to mend.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Finding {
    path: String,
    /// From 1.
    line: usize,
    /// What is wrong, then the remedy.
    message: String,
}

impl Finding {
    fn new(path: &str, line: usize, message: impl Into<String>) -> Self {
        Self { path: path.to_owned(), line, message: message.into() }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}: {}", self.path, self.line, self.message)
    }
}

type Rule = fn(&Tree) -> Vec<Finding>;

/// All rules; the only list of them.
const RULES: &[(&str, Rule)] = &[
    ("layers", layers::check),
    ("purity", purity::check),
    ("runtime", runtime::check),
    ("unsafe", unsafe_code::check),
    ("sizes", sizes::check),
    ("widths", widths::check),
    ("module names", module_names::check),
    ("module docs", module_docs::check),
    ("unfinished", unfinished::check),
    ("required", required::check),
    ("root", root::check),
    ("drivers", drivers::check),
    ("manual", manual::check),
    ("architecture", architecture::check),
    ("links", links::check),
];

/// Runs every rule over the repository at `root` and prints the findings; with `bless` it first lets the
/// ratchet take in what has shrunk. Returns whether nothing was found.
pub(crate) fn run(root: &Path, bless: bool) -> Result<bool, String> {
    let read = || Tree::read(root).map_err(|error| format!("cannot read the repository: {error}"));
    let mut tree = read()?;
    if bless {
        ratchet::bless(root, &tree)?;
        tree = read()?;
    }
    let mut count = 0;
    for (name, rule) in RULES {
        let mut findings = rule(&tree);
        findings.sort();
        findings.iter().for_each(|finding| println!("{finding} [{name}]"));
        count += findings.len();
    }
    println!("tidy: {} files, {} rules, {count} findings", tree.files.len(), RULES.len());
    Ok(count == 0)
}
