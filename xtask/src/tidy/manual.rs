//! The manual is whole: every page is in its index, every subcommand and every export has a page.

use super::source::line_of;
use super::{Finding, tree::Tree};

const MANUAL: &str = "docs/manual";
const INDEX: &str = "docs/manual/README.md";
/// Where the subcommands of the binary are listed.
const BINARY: &str = "crates/millpond/src/main.rs";
const COMMANDS: &str = "enum Command {";
/// One folder per kind of export.
const EXPORTS: &str = "crates/export/src";

/// Pages without a line in the index, and things without a page.
pub(super) fn check(tree: &Tree) -> Vec<Finding> {
    let mut findings = unlisted(tree);
    findings.extend(commands(tree).into_iter().filter_map(|(name, line)| {
        lacks_page(tree, &[format!("millpond-{name}.md"), format!("{name}.md")])
            .map(|page| Finding::new(BINARY, line, format!("subcommand `{name}` has no page: write {page}")))
    }));
    let kinds = tree.entries(EXPORTS).filter(|name| tree.has(&format!("{EXPORTS}/{name}/mod.rs")));
    findings.extend(kinds.filter_map(|name| {
        let page = lacks_page(tree, &[format!("{name}-export.md")])?;
        let path = format!("{EXPORTS}/{name}/mod.rs");
        Some(Finding::new(&path, 1, format!("export `{name}` has no page: write {page}")))
    }));
    findings
}

fn unlisted(tree: &Tree) -> Vec<Finding> {
    let Some(index) = tree.file(INDEX) else { return Vec::new() };
    let pages = tree.entries(MANUAL).filter(|name| name.ends_with(".md") && *name != "README.md");
    let missing = pages.filter(|name| !index.text.contains(&format!("]({name})")));
    missing.map(|name| Finding::new(INDEX, 1, format!("`{name}` is not in the index: link to it"))).collect()
}

/// The first of `pages` unless one of them is there.
fn lacks_page(tree: &Tree, pages: &[String]) -> Option<String> {
    let mut paths = pages.iter().map(|page| format!("{MANUAL}/{page}"));
    let first = paths.next()?;
    (!tree.has(&first) && !paths.any(|path| tree.has(&path))).then_some(first)
}

/// The subcommands as they are typed, and the lines they stand on.
fn commands(tree: &Tree) -> Vec<(String, usize)> {
    let Some(file) = tree.file(BINARY) else { return Vec::new() };
    let code = &file.views.code;
    let Some(start) = code.find(COMMANDS).map(|at| at + COMMANDS.len()) else { return Vec::new() };
    let body = &code[start..];
    let body = &body[..body.find("\n}").unwrap_or(body.len())];
    let first = line_of(code, start);
    let variants = body.lines().enumerate().filter_map(|(at, line)| {
        let name = line.trim().split(|c: char| !c.is_ascii_alphanumeric()).next()?;
        name.starts_with(|c: char| c.is_ascii_uppercase()).then(|| (typed(name), first + at))
    });
    variants.collect()
}

/// A variant's name as clap has it: `BlockCopy` is `block-copy`.
fn typed(name: &str) -> String {
    let mut out = String::new();
    for c in name.chars() {
        if c.is_ascii_uppercase() && !out.is_empty() {
            out.push('-');
        }
        out.push(c.to_ascii_lowercase());
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAIN: &str =
        "//! Main.\nenum Command {\n    Nbd(Box<nbd::Args>),\n    /// Shows it.\n    BlockCopy(Args),\n}\n";

    #[test]
    fn what_has_its_page_in_the_index_passes() {
        let index = "[a](millpond-nbd.md) [b](block-copy.md) [c](nbd-export.md)";
        let files = [
            (BINARY, MAIN),
            (INDEX, index),
            ("crates/export/src/lib.rs", ""),
            ("crates/export/src/nbd/mod.rs", ""),
            ("docs/manual/millpond-nbd.md", ""),
            ("docs/manual/block-copy.md", ""),
            ("docs/manual/nbd-export.md", ""),
        ];
        assert_eq!(check(&Tree::sample(&files)), []);
    }

    #[test]
    fn a_missing_line_or_page_fails() {
        let files = [
            (BINARY, MAIN),
            (INDEX, "[a](millpond-nbd.md)"),
            ("crates/export/src/nbd/mod.rs", ""),
            ("docs/manual/millpond-nbd.md", ""),
            ("docs/manual/raw.md", ""),
        ];
        let found: Vec<_> = check(&Tree::sample(&files)).into_iter().map(|f| (f.path, f.line)).collect();
        let expected = [(INDEX, 1), (BINARY, 5), ("crates/export/src/nbd/mod.rs", 1)];
        assert_eq!(found, expected.map(|(path, line)| (path.to_owned(), line)));
    }
}
