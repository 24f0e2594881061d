//! Help of `millpond img`, made of the tables of the verbs.

use std::fmt::Write as _;

use img::{Flag, VERBS, Verb};

/// The QEMU whose command line this is.
const QEMU: &str = "10.0.2";

/// What the program is.
pub(super) fn version(program: &str) -> String {
    // Scripts look for the first line.
    format!("qemu-img version {QEMU} ({program} {})\n", env!("CARGO_PKG_VERSION"))
}

/// Help of the program.
pub(super) fn of_all(program: &str) -> String {
    let mut text = version(program);
    let _ = write!(
        text,
        "Disk images: make, copy, look at and change them.\n\nUsage: {program} COMMAND [--help | options]\n\nCommands:\n"
    );
    for verb in VERBS {
        let _ = writeln!(text, "  {:<10} {}", verb.name, verb.about);
    }
    text.push_str("\nFormats: qcow2 raw\nMore: docs/manual/img.md\n");
    text
}

/// Help of a verb.
pub(super) fn of_verb(program: &str, verb: &Verb) -> String {
    let mut text = format!("{}.\n\nUsage: {program} {} [options]", capital(verb.about), verb.name);
    if !verb.operands.is_empty() {
        let _ = write!(text, " {}", verb.operands);
    }
    text.push_str("\n\nOptions:\n");
    let help = Flag { short: Some('h'), long: "help", also: None, value: None, about: "show this" };
    for flag in std::iter::once(&help).chain(verb.flags) {
        let short = flag.short.map_or_else(|| "    ".to_owned(), |letter| format!("-{letter}, "));
        let value = flag.value.map(|value| format!(" {value}")).unwrap_or_default();
        let _ = writeln!(text, "  {:<36} {}", format!("{short}--{}{value}", flag.long), flag.about);
    }
    let _ = writeln!(text, "\nMore: docs/manual/img-{}.md", verb.name);
    text
}

fn capital(text: &str) -> String {
    let mut chars = text.chars();
    chars.next().map(|first| first.to_uppercase().chain(chars).collect()).unwrap_or_default()
}
