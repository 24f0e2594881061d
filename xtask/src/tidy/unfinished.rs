//! What is merged is finished: no placeholder, no debugging aid, no note to self, no test that does not run.

use super::source::{line_of, words};
use super::{Finding, tree::Tree};

/// Macros and what to do instead. Spelled in two pieces, so that a plain search for them finds no rule.
const MACROS: &[(&str, &str)] = &[
    (concat!("to", "do"), "write it, or return an error that says it is not there yet"),
    (concat!("un", "implemented"), "write it, or return an error that says it is not there yet"),
    ("dbg", "remove it"),
];
const NOTES: &[&str] = &[concat!("FIX", "ME"), concat!("XX", "X")];
const IGNORE: &str = concat!("#[", "ignore");

/// No placeholder macro, no note to self in a comment, no ignored test.
pub(super) fn check(tree: &Tree) -> Vec<Finding> {
    let mut findings = Vec::new();
    for file in tree.rust() {
        let mut found =
            |at, message| findings.push(Finding::new(&file.path, line_of(&file.text, at), message));
        let code = &file.views.code;
        for (name, remedy) in MACROS {
            let calls = words(code, name).filter(|at| code[at + name.len()..].starts_with('!'));
            calls.for_each(|at| found(at, format!("`{name}!`: {remedy}")));
        }
        for note in NOTES {
            let notes = words(&file.views.comments, note);
            notes.for_each(|at| {
                found(at, format!("`{note}`: mend it now, or open an issue and say here what holds"))
            });
        }
        let ignored = code.match_indices(IGNORE);
        ignored.for_each(|(at, _)| found(at, format!("`{IGNORE}]`: mend the test or delete it")));
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unfinished_work_fails() {
        let [note, other] = [NOTES[0], NOTES[1]];
        let text = format!(
            "// {note} later\nlet s = \"{other}\";\n{IGNORE} = \"slow\"]\nfn f() {{ {}!() }}\nfn g(to_do: u8) {{ dbg!(1); }}\n",
            MACROS[0].0
        );
        let mut lines: Vec<_> =
            check(&Tree::sample(&[("a.rs", &text)])).into_iter().map(|f| f.line).collect();
        lines.sort_unstable();
        assert_eq!(lines, [1, 3, 4, 5]);
    }
}
