//! Files and functions are short. What is over the soft limit stands on the ratchet and may only shrink; what
//! is over the hard limit fails.

use super::ratchet::{self, Ratchet};
use super::source::functions;
use super::{Finding, tree::Tree};
use std::collections::BTreeMap;

/// Soft and hard limit, in lines.
struct Limits {
    soft: usize,
    hard: usize,
}

const FILE: Limits = Limits { soft: 500, hard: 800 };
const FUNCTION: Limits = Limits { soft: 50, hard: 70 };

/// A file or function over its soft limit.
pub(super) struct Large {
    path: String,
    line: usize,
    pub(super) lines: usize,
    limits: &'static Limits,
}

/// Everything over its soft limit, by its name on the ratchet; of functions that share a name in a file the longest.
pub(super) fn measure(tree: &Tree) -> BTreeMap<String, Large> {
    let mut large: BTreeMap<String, Large> = BTreeMap::new();
    let mut note = |name: String, found: Large| {
        if found.lines > found.limits.soft && large.get(&name).is_none_or(|known| known.lines < found.lines) {
            large.insert(name, found);
        }
    };
    for file in tree.rust() {
        let path = &file.path;
        let lines = file.text.lines().count();
        note(format!("file {path}"), Large { path: path.clone(), line: 1, lines, limits: &FILE });
        for function in functions(&file.views.code) {
            let found =
                Large { path: path.clone(), line: function.line, lines: function.lines, limits: &FUNCTION };
            note(format!("function {path} {}", function.name), found);
        }
    }
    large
}

/// Nothing is over its hard limit, and nothing over its soft limit but what the ratchet lists, at that size.
pub(super) fn check(tree: &Tree) -> Vec<Finding> {
    let measured = measure(tree);
    let listed = Ratchet::of(tree).sizes;
    let mut findings: Vec<_> = measured
        .iter()
        .filter_map(|(name, large)| {
            let complaint = complaint(name, large, listed.get(name).copied())?;
            Some(Finding::new(&large.path, large.line, complaint))
        })
        .collect();
    let stale = listed.keys().filter(|name| !measured.contains_key(*name));
    findings.extend(stale.map(|name| {
        let message = format!("`{name}` is no longer over its limit: run `cargo xtask tidy --bless`");
        Finding::new(ratchet::PATH, 1, message)
    }));
    findings
}

fn complaint(name: &str, large: &Large, listed: Option<usize>) -> Option<String> {
    let Large { lines, limits: Limits { soft, hard }, .. } = large;
    match listed {
        _ if lines > hard => {
            Some(format!("`{name}` has {lines} lines, over the hard limit of {hard}: split it by subject"))
        }
        None => Some(format!(
            "`{name}` has {lines} lines, over {soft}: split it, or add `{name} {lines}` to {} with the reason in the commit",
            ratchet::PATH
        )),
        Some(listed) if *lines > listed => Some(format!(
            "`{name}` grew from {listed} to {lines} lines: what is over {soft} may only shrink, split it"
        )),
        Some(listed) if *lines < listed => Some(format!(
            "`{name}` shrank from {listed} to {lines} lines: run `cargo xtask tidy --bless` to keep it so"
        )),
        Some(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn function_of(lines: usize) -> String {
        format!("fn f() {{\n{}}}\n", "    g();\n".repeat(lines - 2))
    }

    fn messages(text: &str, ratchet: &str) -> Vec<String> {
        let tree = Tree::sample(&[("a.rs", text), (ratchet::PATH, ratchet)]);
        check(&tree).into_iter().map(|finding| finding.message).collect()
    }

    #[test]
    fn limits_are_in_lines() {
        assert!(messages(&function_of(50), "").is_empty());
        assert!(messages(&function_of(51), "")[0].contains("over 50"));
        assert!(messages(&function_of(71), "function a.rs f 71\n")[0].contains("hard limit of 70"));
        assert!(messages(&"x\n".repeat(501), "")[0].contains("over 500"));
        assert!(messages(&"x\n".repeat(801), "file a.rs 801\n")[0].contains("hard limit of 800"));
    }

    #[test]
    fn the_ratchet_only_turns_one_way() {
        assert!(messages(&function_of(60), "function a.rs f 60\n").is_empty());
        assert!(messages(&function_of(61), "function a.rs f 60\n")[0].contains("grew"));
        assert!(messages(&function_of(59), "function a.rs f 60\n")[0].contains("--bless"));
        assert!(messages(&function_of(9), "function a.rs f 60\n")[0].contains("no longer"));
    }
}
