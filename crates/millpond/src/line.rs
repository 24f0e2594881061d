//! Text of others within one line of ours.

use std::fmt::Display;

/// `text` with its control characters written out: a name can neither begin a line nor move the terminal's cursor.
pub(crate) fn escaped(text: impl Display) -> String {
    let mut line = String::new();
    for c in text.to_string().chars() {
        match c.is_control() {
            true => line.extend(c.escape_default()),
            false => line.push(c),
        }
    }
    line
}

#[cfg(test)]
mod tests {
    use super::escaped;

    #[test]
    fn control_characters_are_written_out_and_all_else_stays() {
        assert_eq!(escaped("a\nb\x1b[31m\u{85}\t'\\\u{e9}"), "a\\nb\\u{1b}[31m\\u{85}\\t'\\\u{e9}");
    }
}
