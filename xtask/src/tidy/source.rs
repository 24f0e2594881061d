//! Rust source as the rules read it: code apart from comments, literals blanked, functions found.
//!
//! Invariant: every view has the same length and the same line breaks as the file, so that an offset found
//! in one is an offset in all.

use std::ops::Range;

/// The two views of one Rust file.
#[derive(Default)]
pub(crate) struct Views {
    /// Comments and the insides of literals are spaces.
    pub(crate) code: String,
    /// Everything but comments is spaces.
    pub(crate) comments: String,
}

impl Views {
    /// Splits `text`.
    pub(crate) fn of(text: &str) -> Self {
        let (mut code, mut comments) = (blank(text), blank(text));
        let mut at = 0;
        while at < text.len() {
            let (piece, end) = next_piece(text, at);
            let view = match piece {
                Piece::Code => Some(&mut code),
                Piece::Comment => Some(&mut comments),
                Piece::Literal => None,
            };
            if let Some(view) = view {
                view[at..end].copy_from_slice(&text.as_bytes()[at..end]);
            }
            at = end;
        }
        let whole = |view| String::from_utf8_lossy(view).into_owned();
        Self { code: whole(&code), comments: whole(&comments) }
    }
}

fn blank(text: &str) -> Vec<u8> {
    text.bytes().map(|byte| if byte == b'\n' { byte } else { b' ' }).collect()
}

enum Piece {
    Code,
    Comment,
    Literal,
}

/// What begins at `at`, and where it ends.
fn next_piece(text: &str, at: usize) -> (Piece, usize) {
    let rest = &text[at..];
    let first = rest.chars().next().unwrap_or(' ');
    let (piece, length) = if rest.starts_with("//") {
        (Piece::Comment, rest.find('\n').unwrap_or(rest.len()))
    } else if rest.starts_with("/*") {
        (Piece::Comment, block_comment_length(rest))
    } else if let Some(length) = raw_string_length(rest) {
        (Piece::Literal, length)
    } else if is_word(first) {
        (Piece::Code, rest.find(|c| !is_word(c)).unwrap_or(rest.len()))
    } else if first == '"' {
        (Piece::Literal, quoted_length(rest, '"'))
    } else if first == '\'' && is_char_literal(rest) {
        (Piece::Literal, quoted_length(rest, '\''))
    } else {
        (Piece::Code, first.len_utf8())
    };
    (piece, at + length)
}

fn block_comment_length(rest: &str) -> usize {
    let (mut depth, mut at) = (0, 0);
    while at < rest.len() {
        match &rest.as_bytes()[at..rest.len().min(at + 2)] {
            b"/*" => (depth, at) = (depth + 1, at + 2),
            b"*/" if depth == 1 => return at + 2,
            b"*/" => (depth, at) = (depth - 1, at + 2),
            _ => at += 1,
        }
    }
    rest.len()
}

fn raw_string_length(rest: &str) -> Option<usize> {
    let opened = ["r", "br", "cr"].iter().find_map(|prefix| {
        let after = rest.strip_prefix(prefix)?;
        after.starts_with(['"', '#']).then_some(after)
    })?;
    let hashes = opened.len() - opened.trim_start_matches('#').len();
    let body = opened[hashes..].strip_prefix('"')?;
    let closing = format!("\"{}", "#".repeat(hashes));
    let end = body.find(&closing).map_or(body.len(), |at| at + closing.len());
    Some(rest.len() - body.len() + end)
}

fn quoted_length(rest: &str, quote: char) -> usize {
    let mut escaped = false;
    for (at, c) in rest.char_indices().skip(1) {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            c if c == quote => return at + 1,
            _ => {}
        }
    }
    rest.len()
}

/// Tells `'x'` and `'\n'` from the lifetime `'x`.
fn is_char_literal(rest: &str) -> bool {
    let mut inside = rest.chars().skip(1);
    match inside.next() {
        Some('\\') => true,
        Some(_) => inside.next() == Some('\''),
        None => false,
    }
}

/// Whether `c` can stand inside an identifier.
pub(crate) fn is_word(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

/// Offsets at which `word` stands alone in `text`.
pub(crate) fn words<'a>(text: &'a str, word: &'a str) -> impl Iterator<Item = usize> + 'a {
    text.match_indices(word)
        .map(|(at, _)| at)
        .filter(move |&at| !text[..at].ends_with(is_word) && !text[at + word.len()..].starts_with(is_word))
}

/// Line number, from 1, of the byte at `offset`.
pub(crate) fn line_of(text: &str, offset: usize) -> usize {
    text.as_bytes()[..offset].iter().filter(|&&byte| byte == b'\n').count() + 1
}

/// A function with a body.
pub(crate) struct Function {
    pub(crate) name: String,
    /// Line of its `fn`, from 1.
    pub(crate) line: usize,
    /// Lines from its `fn` to its closing brace, both counted.
    pub(crate) lines: usize,
}

/// Functions with a body in the code view `code`, nested ones too.
pub(crate) fn functions(code: &str) -> Vec<Function> {
    words(code, "fn").filter_map(|at| function_at(code, at)).collect()
}

fn function_at(code: &str, at: usize) -> Option<Function> {
    let after = code[at + 2..].trim_start();
    let name: String = after.chars().take_while(|&c| is_word(c)).collect();
    if name.is_empty() {
        return None;
    }
    let body = body_after(code, code.len() - after.len())?;
    let line = line_of(code, at);
    Some(Function { name, line, lines: line_of(code, body.end - 1) - line + 1 })
}

/// The braces of the body that follows the signature at `from`; `None` where a `;` ends it first.
fn body_after(code: &str, from: usize) -> Option<Range<usize>> {
    let mut depth = 0_usize;
    let mut start = None;
    for (at, c) in code[from..].char_indices().map(|(at, c)| (from + at, c)) {
        match c {
            ';' if depth == 0 => return None,
            '(' | '[' | '{' => {
                if depth == 0 && c == '{' {
                    start = Some(at);
                }
                depth += 1;
            }
            ')' | ']' | '}' => {
                depth = depth.saturating_sub(1);
                if let (0, Some(start)) = (depth, start) {
                    return Some(start..at + 1);
                }
            }
            _ => {}
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn literals_and_comments_are_not_code() {
        let text =
            "let a = \"fn // x\"; // fn one\nlet b = 'f'; let c: &'static str = r#\"unsafe \"fn\" \"#;\n";
        let views = Views::of(text);
        assert_eq!(views.code.len(), text.len());
        assert!(!views.code.contains("fn") && !views.code.contains("unsafe"));
        assert!(views.code.contains("&'static str"));
        assert_eq!(views.comments.trim(), "// fn one");
    }

    #[test]
    fn nested_comments_escapes_and_raw_identifiers_are_followed() {
        let views = Views::of("/* a /* b */ c */ r#type('\\'', \"\\\\\\\"\", b\"x\", br\"\\\") end");
        assert_eq!(
            views.code.split_whitespace().collect::<Vec<_>>(),
            ["r#type(", ",", ",", "b", ",", ")", "end"]
        );
    }

    #[test]
    fn words_stand_alone() {
        assert_eq!(words("unsafe_code unsafe un unsafely", "unsafe").collect::<Vec<_>>(), [12]);
    }

    #[test]
    fn functions_have_names_and_lengths() {
        let code = "trait T { fn none(&self, x: [u8; 4]); }\nfn outer(f: fn(u8)) -> [u8; 2] {\n    fn inner() {}\n    x\n}\n";
        let found: Vec<_> = functions(code).into_iter().map(|f| (f.name, f.line, f.lines)).collect();
        assert_eq!(found, [("outer".to_owned(), 2, 4), ("inner".to_owned(), 3, 1)]);
    }
}
