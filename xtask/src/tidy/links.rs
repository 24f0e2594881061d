//! Relative links in Markdown lead somewhere.

use super::{Finding, tree::Tree};

/// Every relative link leads to a file or folder of the repository.
pub(super) fn check(tree: &Tree) -> Vec<Finding> {
    let mut findings = Vec::new();
    for file in tree.files.iter().filter(|file| file.path.ends_with(".md")) {
        for (line, text) in prose_lines(&file.text) {
            for target in targets(text).filter(|target| !leads_somewhere(tree, &file.path, target)) {
                let message = format!(
                    "the link to `{target}` leads nowhere: name an existing file, relative to this one"
                );
                findings.push(Finding::new(&file.path, line, message));
            }
        }
    }
    findings
}

/// Lines outside fenced blocks, numbered from 1.
pub(super) fn prose_lines(text: &str) -> impl Iterator<Item = (usize, &str)> {
    let mut fenced = false;
    text.lines().enumerate().filter_map(move |(index, line)| {
        let is_fence = line.trim_start().starts_with("```");
        fenced ^= is_fence;
        (!fenced && !is_fence).then_some((index + 1, line))
    })
}

/// The targets of `[text](target)`, without their title and anchor.
fn targets(line: &str) -> impl Iterator<Item = &str> {
    let outside_code = line.split('`').step_by(2);
    outside_code.flat_map(|piece| piece.split("](").skip(1)).map(|rest| {
        let end = rest.find([')', ' ', '#']).unwrap_or(rest.len());
        &rest[..end]
    })
}

fn leads_somewhere(tree: &Tree, from: &str, target: &str) -> bool {
    let is_foreign = target.is_empty() || target.contains("://") || target.starts_with("mailto:");
    is_foreign || resolve(from, target).is_some_and(|path| path.is_empty() || tree.has(&path))
}

/// `target` seen from the file `from`, as a path from the root; `None` when it leaves the repository.
fn resolve(from: &str, target: &str) -> Option<String> {
    let mut parts: Vec<&str> = from.split('/').collect();
    parts.pop();
    for part in target.split('/') {
        match part {
            "" | "." => {}
            ".." => {
                parts.pop()?;
            }
            name => parts.push(name),
        }
    }
    Some(parts.join("/"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_link_that_leads_nowhere_fails() {
        let text = "[a](../README.md#top) [b](manual/null.md) [c](https://example.org/x) [d](#here)\n\
                    ```\n[e](nowhere)\n```\n`[f](nowhere)` [g](gone.md \"title\") [h](../../out)\n[i`x`](gone/too.md)\n";
        let tree = Tree::sample(&[("docs/a.md", text), ("README.md", ""), ("docs/manual/null.md", "")]);
        let found: Vec<_> = check(&tree).into_iter().map(|finding| finding.line).collect();
        assert_eq!(found, [5, 5, 6]);
    }
}
