//! The pure crates are bytes in, bytes out: no file, socket, clock, thread or future.

use super::source::{is_word, line_of, words};
use super::{Finding, tree::Tree};

/// Their sources; their `tests/` folders may read corpora.
const PURE: &[&str] = &["crates/block/src/", "crates/nbd/src/", "crates/qcow2/src/", "crates/qmp/src/"];
/// Modules of std that reach the outside world.
const OUTSIDE: &[&str] = &["fs", "net", "time", "thread", "process", "os"];
const FUTURES: &[&str] = &["async", "await"];

/// No pure crate names the outside world or a future.
pub(super) fn check(tree: &Tree) -> Vec<Finding> {
    let pure = tree.rust().filter(|file| PURE.iter().any(|folder| file.path.starts_with(folder)));
    let mut findings = Vec::new();
    for file in pure {
        let code = &file.views.code;
        let mut found = |at, what: &str| {
            let message =
                format!("`{what}` in a pure crate: let the caller do it and pass bytes or values in");
            findings.push(Finding::new(&file.path, line_of(code, at), message));
        };
        for word in FUTURES {
            words(code, word).for_each(|at| found(at, word));
        }
        for at in words(code, "std") {
            modules_named(&code[at + 3..]).filter(|name| OUTSIDE.contains(name)).for_each(|name| {
                found(at, &format!("std::{name}"));
            });
        }
    }
    findings
}

/// Modules named by what follows `std`: `::a::b` names a, `::{a, b::c}` names a and b.
fn modules_named(after: &str) -> impl Iterator<Item = &str> {
    let path = after.strip_prefix("::").unwrap_or_default();
    let group = path.strip_prefix('{').and_then(|rest| rest.split_once('}'));
    let list = group.map_or(path.split(|c| !is_word(c)).next().unwrap_or_default(), |(list, _)| list);
    list.split(',').map(|item| item.trim().split("::").next().unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pure_crate_that_reads_the_clock_or_waits_fails() {
        let text =
            "use std::{fmt, fs};\nuse std::time::Instant;\nuse core::time::Duration;\nasync fn f() {}\n";
        let tree = Tree::sample(&[("crates/nbd/src/codec.rs", text), ("crates/flow/src/walk.rs", text)]);
        let lines: Vec<_> = check(&tree).into_iter().map(|finding| (finding.path, finding.line)).collect();
        let path = || "crates/nbd/src/codec.rs".to_owned();
        assert_eq!(lines, [(path(), 4), (path(), 1), (path(), 2)]);
    }
}
