//! Every driver is in the registry, can be named in QMP, and has a manual page with an example that can be run.

use super::source::line_of;
use super::{
    Finding,
    tree::{TextFile, Tree},
};

/// The only list of drivers.
pub(super) const REGISTRY: &str = "crates/driver/src/registry.rs";
/// The drivers that `blockdev-add` takes.
const ARGUMENTS: &str = "crates/control/src/types/node_options.rs";
const FOLDERS: &[&str] = &["protocols", "formats", "filters"];
const EXAMPLE: &str = "```sh example";

/// Each registered driver has its page and its arguments, each driver's file is registered.
pub(super) fn check(tree: &Tree) -> Vec<Finding> {
    let Some(registry) = tree.file(REGISTRY) else {
        return Vec::new();
    };
    let names = registered(registry);
    let mut findings: Vec<_> =
        names.iter().filter_map(|(name, line)| check_page(tree, name, *line)).collect();
    if let Some(arguments) = tree.file(ARGUMENTS) {
        findings.extend(names.iter().filter_map(|(name, line)| check_arguments(arguments, name, *line)));
    }
    if names.is_empty() {
        findings.push(Finding::new(
            REGISTRY,
            1,
            "no driver is listed: a line is `kind::<driver::Options>(\"name\", ...)`",
        ));
    }
    findings.extend(FOLDERS.iter().flat_map(|folder| unregistered(tree, registry, folder)));
    findings
}

/// The drivers' names and the lines they stand on.
fn registered(registry: &TextFile) -> Vec<(&str, usize)> {
    let code = &registry.views.code;
    let listed = code.match_indices("::Options>(");
    listed
        .filter_map(|(at, start)| {
            let name = registry.text[at + start.len()..].trim_start().strip_prefix('"')?;
            Some((name.split('"').next()?, line_of(code, at)))
        })
        .collect()
}

fn check_page(tree: &Tree, name: &str, line: usize) -> Option<Finding> {
    let path = format!("docs/manual/{name}.md");
    match tree.file(&path) {
        None => {
            let message = format!("driver `{name}` has no manual page: write {path} with a {EXAMPLE} block");
            Some(Finding::new(REGISTRY, line, message))
        }
        Some(page) if !page.text.lines().any(|line| line.trim_end() == EXAMPLE) => {
            let message = format!("no example: show driver `{name}` at work in a {EXAMPLE} block");
            Some(Finding::new(&path, 1, message))
        }
        Some(_) => None,
    }
}

fn check_arguments(arguments: &TextFile, name: &str, line: usize) -> Option<Finding> {
    let message = format!("driver `{name}` has no line in DriverOptions of {ARGUMENTS}: QMP refuses it");
    let is_there = arguments.text.contains(&format!(" = \"{name}\","));
    (!is_there).then(|| Finding::new(REGISTRY, line, message))
}

fn unregistered(tree: &Tree, registry: &TextFile, folder: &str) -> Vec<Finding> {
    let folder = format!("crates/driver/src/{folder}");
    let modules = tree.entries(&folder).filter(|entry| *entry != "mod.rs");
    let missing = modules.filter(|entry| {
        let module = entry.trim_end_matches(".rs");
        !registry.views.code.contains(&format!("{module}::"))
    });
    let message = format!(
        "in no line of {REGISTRY}: register the driver, or move what is no driver out of this folder"
    );
    missing.map(|entry| Finding::new(&format!("{folder}/{entry}"), 1, &*message)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const LISTED: &str = "&[\n    protocol::<null::Options>(\"null\", null::open),\n    format::<formats::raw::Options>(\"raw\", formats::raw::open),\n]";

    #[test]
    fn drivers_with_pages_pass() {
        let page = "# null\n```sh example\nmillpond nbd null\n```\n";
        let arguments = "Null(Own) = \"null\",\nRaw(RawOptions) = \"raw\",\n";
        let pages = [("docs/manual/null.md", page), ("docs/manual/raw.md", page)];
        let files = [&[(REGISTRY, LISTED), (ARGUMENTS, arguments)], &pages[..]].concat();
        assert_eq!(check(&Tree::sample(&files)), []);
        let lacking =
            [&[(REGISTRY, LISTED), (ARGUMENTS, "Raw(RawOptions) = \"raw\",\n")], &pages[..]].concat();
        let found: Vec<_> = check(&Tree::sample(&lacking)).into_iter().map(|f| (f.path, f.line)).collect();
        assert_eq!(found, [(REGISTRY.to_owned(), 2)]);
    }

    #[test]
    fn a_missing_page_example_or_line_fails() {
        let files = [
            (REGISTRY, LISTED),
            ("docs/manual/null.md", "# null\n"),
            ("crates/driver/src/filters/delay.rs", "//! Delay."),
            ("crates/driver/src/filters/mod.rs", "//! Filters."),
        ];
        let found: Vec<_> = check(&Tree::sample(&files)).into_iter().map(|f| (f.path, f.line)).collect();
        let expected = [("docs/manual/null.md", 1), (REGISTRY, 3), ("crates/driver/src/filters/delay.rs", 1)];
        assert_eq!(found, expected.map(|(path, line)| (path.to_owned(), line)));
    }
}
