//! Comments are as wide as a screen beside another: what is wider is read with the head turned.

use super::{Finding, tree::Tree};

/// Columns of a comment with its indent. Code is narrower: rustfmt sees to that.
const COLUMNS: usize = 120;

/// No comment is wider than that, but for rows of tables.
pub(super) fn check(tree: &Tree) -> Vec<Finding> {
    let mut findings = Vec::new();
    for file in tree.rust() {
        for (at, line) in file.text.lines().enumerate() {
            let comment = line.trim_start();
            let wide = comment.starts_with("//") && line.chars().count() > COLUMNS && !comment.contains('|');
            if wide {
                findings.push(Finding::new(
                    &file.path,
                    at + 1,
                    format!("a comment of more than {COLUMNS} columns: break it"),
                ));
            }
        }
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wide_comments_fail_and_rows_of_tables_do_not() {
        let (fits, wide) = ("x".repeat(COLUMNS - 4), "x".repeat(COLUMNS - 3));
        let text = format!(
            "//! {fits}\n//! {wide}\n//! | {wide} |\nconst TEXT: &str = \"// {wide}\";\n    // {fits}\n"
        );
        let lines: Vec<_> = check(&Tree::sample(&[("a.rs", &text)])).iter().map(|found| found.line).collect();
        assert_eq!(lines, [2, 5]);
    }
}
