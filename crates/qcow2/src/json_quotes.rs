//! QEMU's JSON lets strings stand in single quotes, which shell users make use of. Here they become standard.

use std::borrow::Cow;

/// `text` with strings in single quotes put in double quotes. What is wrong with it stays wrong.
pub(crate) fn double(text: &str) -> Cow<'_, str> {
    if !text.contains('\'') {
        return Cow::Borrowed(text);
    }
    let mut out = String::with_capacity(text.len() + 8);
    let mut quote = None;
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        match (quote, c) {
            (None, '\'' | '"') => {
                quote = Some(c);
                out.push('"');
            }
            (Some(q), c) if q == c => {
                quote = None;
                out.push('"');
            }
            (Some(_), '"') => out.push_str("\\\""),
            (Some(_), '\\') => match chars.next() {
                // Standard JSON knows no escaped single quote.
                Some('\'') => out.push('\''),
                Some(escaped) => out.extend(['\\', escaped]),
                None => out.push('\\'),
            },
            (_, c) => out.push(c),
        }
    }
    Cow::Owned(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_quotes_change() {
        for (text, want) in [
            (r#"{"a": "b"}"#, r#"{"a": "b"}"#),
            (r"{'a': 'b'}", r#"{"a": "b"}"#),
            (r#"{'a"b': "c'd"}"#, r#"{"a\"b": "c'd"}"#),
            (r"{'a\'b\\': 1}", r#"{"a'b\\": 1}"#),
            (r#"{"a\"'": '\n'}"#, r#"{"a\"'": "\n"}"#),
            (r"{'a", r#"{"a"#),
            (r"'\", r#""\"#),
        ] {
            assert_eq!(double(text), want, "{text}");
        }
    }
}
