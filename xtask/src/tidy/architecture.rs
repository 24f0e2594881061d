//! ARCHITECTURE.md names only what is there: a map of a house that was rebuilt is worse than none.

use super::links::prose_lines;
use super::{Finding, tree::Tree};

const PATH: &str = "ARCHITECTURE.md";
const ENDINGS: &[&str] = &[".rs", ".md", ".toml"];

/// Every path in backticks exists.
pub(super) fn check(tree: &Tree) -> Vec<Finding> {
    let Some(file) = tree.file(PATH) else {
        return Vec::new();
    };
    let mut findings = Vec::new();
    for (line, text) in prose_lines(&file.text) {
        for path in text.split('`').skip(1).step_by(2).filter(|quoted| is_path(quoted)) {
            if !tree.has(path) {
                let message =
                    format!("`{path}` is not there: name the path from the repository's root as it is now");
                findings.push(Finding::new(PATH, line, message));
            }
        }
    }
    findings
}

/// Whether a quoted piece is meant as a path of the repository; patterns are meant so too, and fail.
fn is_path(quoted: &str) -> bool {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "_-./{},*".contains(c);
    let starts_low = quoted.starts_with(|c: char| c.is_ascii_lowercase() || c == '.');
    let is_named = ENDINGS.iter().any(|ending| quoted.ends_with(ending));
    quoted.chars().all(is_plain)
        && !quoted.starts_with('/')
        && (is_named || (starts_low && quoted.contains('/')))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_that_is_not_there_fails() {
        let text = "See `crates/flow/` and `crates/flow/src/walk.rs`.\n`I/O` from `/dev/null` over `nbd://h/x`.\n\
                    ```\n`sketch/of.rs`\n```\nNot `gone.rs` nor `OLD.md`.\n";
        let tree = Tree::sample(&[(PATH, text), ("crates/flow/src/lib.rs", "")]);
        let lines: Vec<_> = check(&tree).into_iter().map(|finding| finding.line).collect();
        assert_eq!(lines, [1, 6, 6]);
    }
}
