//! `unsafe` lives in `io` alone, and each one says why it is sound.

use super::source::{line_of, words};
use super::{
    Finding,
    tree::{TextFile, Tree},
};

const HOME: &str = "crates/io/";

/// No `unsafe` outside [`HOME`], none inside without its `// SAFETY:` (or `# Safety` section, for those who call it).
pub(super) fn check(tree: &Tree) -> Vec<Finding> {
    let mut findings = Vec::new();
    for file in tree.rust() {
        for at in words(&file.views.code, "unsafe") {
            let line = line_of(&file.text, at);
            if !file.path.starts_with(HOME) {
                let message = "`unsafe` outside crate `io`: put it behind a safe function there";
                findings.push(Finding::new(&file.path, line, message));
            } else if !is_justified(file, line) {
                let message = "`unsafe` without a reason: put a `// SAFETY:` comment right above it";
                findings.push(Finding::new(&file.path, line, message));
            }
        }
    }
    findings
}

/// Whether the line, or the comments and attributes right above its statement, hold the reason.
fn is_justified(file: &TextFile, line: usize) -> bool {
    let comments: Vec<&str> = file.views.comments.lines().collect();
    let code: Vec<&str> = file.views.code.lines().collect();
    let states = |at: usize| comments[at].contains("SAFETY:") || comments[at].contains("# Safety");
    for at in (0..line).rev() {
        let above = code[at].trim_end();
        let ends_earlier = at + 1 < line && above.ends_with([';', '{', '}', ',']);
        let is_blank = above.is_empty() && comments[at].trim().is_empty();
        if ends_earlier || is_blank {
            return false;
        }
        if states(at) {
            return true;
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(path: &str, text: &str) -> Vec<usize> {
        check(&Tree::sample(&[(path, text)])).into_iter().map(|finding| finding.line).collect()
    }

    #[test]
    fn unsafe_outside_io_fails() {
        assert_eq!(lines("crates/flow/src/a.rs", "//! unsafe\n// SAFETY: none\nunsafe { f() }\n"), [3]);
    }

    #[test]
    fn unsafe_in_io_needs_its_reason_right_above() {
        let path = "crates/io/src/a.rs";
        assert_eq!(lines(path, "// SAFETY: f has no conditions.\nlet x =\n    unsafe { f() };\n"), [0; 0]);
        assert_eq!(lines(path, "/// # Safety\n/// `f` is open.\n#[inline]\npub unsafe fn f() {}\n"), [0; 0]);
        assert_eq!(lines(path, "// SAFETY: for another.\ng();\nunsafe { f() }\n"), [3]);
        assert_eq!(lines(path, "// SAFETY: too far.\n\nunsafe { f() }\n"), [3]);
    }
}
