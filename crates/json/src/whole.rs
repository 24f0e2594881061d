//! One value that is a whole text.

use serde_json::Value;

use crate::{Error, Limits, Stream};

/// The one value in `text`.
///
/// Errors: no value, more than one, or garbage; in QEMU's words.
pub fn parse(text: &str) -> Result<Value, Error> {
    let (mut stream, mut rest, mut found) = (Stream::new(Limits::QEMU), text.as_bytes(), None);
    while !rest.is_empty() {
        let (taken, outcome) = stream.feed(rest);
        rest = &rest[taken..];
        add(&mut found, outcome)?;
    }
    add(&mut found, stream.end())?;
    found.ok_or_else(|| Error::new("Expecting a JSON value"))
}

fn add(found: &mut Option<Value>, outcome: Option<Result<Value, Error>>) -> Result<(), Error> {
    match outcome {
        None => Ok(()),
        Some(_) if found.is_some() => Err(Error::new("Expecting at most one JSON value")),
        Some(outcome) => {
            *found = Some(outcome?);
            Ok(())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn quotes_may_be_single() {
        for text in [r#"{"a": "b'c", "d": [1]}"#, "{'a': 'b\\'c', 'd': [1]}", " {'a':\"b'c\",\n'd':[1]} "] {
            assert_eq!(parse(text), Ok(json!({"a": "b'c", "d": [1]})), "{text}");
        }
        assert_eq!(parse("5"), Ok(json!(5)));
        assert_eq!(parse("true"), Ok(json!(true)));
    }

    /// As `qemu-img info json:...` of 10.0.2 says it.
    #[test]
    fn what_is_wrong_is_told_as_qemu_tells_it() {
        for (text, told) in [
            ("", "Expecting a JSON value"),
            (" ", "Expecting a JSON value"),
            ("{} {}", "Expecting at most one JSON value"),
            ("{'driver':'file'}x", "Expecting at most one JSON value"),
            ("{\"a\":1}}", "Expecting at most one JSON value"),
            ("{bad", "JSON parse error, invalid keyword 'bad'"),
            ("tru", "JSON parse error, invalid keyword 'tru'"),
            ("{'driver'", "JSON parse error, premature EOI"),
            ("{\"a\":1,\"a\":2}", "JSON parse error, duplicate key"),
            ("\"s", "JSON parse error, stray '\"s'"),
        ] {
            assert_eq!(parse(text).unwrap_err().to_string(), told, "{text}");
        }
    }
}
