//! JSON as QEMU prints it: four spaces, and a line for each bracket of what is empty.

use ::json::to_ascii;
use serde_json::Value;

/// What is to be shown: a value, or one whose parts are made when their turn comes, because there may be many.
pub(crate) enum Part<'a> {
    Whole(Value),
    Object(Vec<(&'static str, Part<'a>)>),
    List(Vec<Part<'a>>),
    Each(Box<dyn Iterator<Item = Value> + 'a>),
}

/// The text of `value`, ended by a line feed.
pub(crate) fn pretty(value: &Value) -> String {
    let mut text = String::new();
    put(&mut text, value, 0);
    text.push('\n');
    text
}

/// The same of parts.
pub(crate) fn pretty_parts(part: Part<'_>) -> String {
    let mut text = String::new();
    put_part(&mut text, part, 0);
    text.push('\n');
    text
}

fn put_part(text: &mut String, part: Part<'_>, depth: usize) {
    match part {
        Part::Whole(value) => put(text, &value, depth),
        Part::Object(members) => {
            let members = members.into_iter().map(|(key, part)| (Some(key), part));
            put_all(text, ('{', '}'), members, depth, put_part);
        }
        Part::List(parts) => {
            put_all(text, ('[', ']'), parts.into_iter().map(|part| (None, part)), depth, put_part);
        }
        Part::Each(values) => {
            let put = |text: &mut String, value, depth| put(text, &value, depth);
            put_all(text, ('[', ']'), values.map(|value| (None, value)), depth, put);
        }
    }
}

fn put(text: &mut String, value: &Value, depth: usize) {
    match value {
        Value::Object(map) => {
            let members = map.iter().map(|(key, value)| (Some(key.as_str()), value));
            put_all(text, ('{', '}'), members, depth, put);
        }
        Value::Array(list) => put_all(text, ('[', ']'), list.iter().map(|value| (None, value)), depth, put),
        other => text.push_str(&to_ascii(other)),
    }
}

fn put_all<'a, T>(
    text: &mut String,
    (open, close): (char, char),
    members: impl Iterator<Item = (Option<&'a str>, T)>,
    depth: usize,
    put: impl Fn(&mut String, T, usize),
) {
    text.push(open);
    for (at, (key, value)) in members.enumerate() {
        if at > 0 {
            text.push(',');
        }
        new_line(text, depth + 1);
        if let Some(key) = key {
            text.push_str(&format!("{}: ", to_ascii(&Value::from(key))));
        }
        put(text, value, depth + 1);
    }
    new_line(text, depth);
    text.push(close);
}

fn new_line(text: &mut String, depth: usize) {
    text.push('\n');
    text.push_str(&"    ".repeat(depth));
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn empty_lists_take_two_lines() {
        let text = pretty(&json!({ "a": [], "b": { "c": "x\"" }, "d": [1, true] }));
        let expected = "{\n    \"a\": [\n    ],\n    \"b\": {\n        \"c\": \"x\\\"\"\n    },\n    \"d\": [\n        1,\n        true\n    ]\n}\n";
        assert_eq!(text, expected);
    }

    #[test]
    fn parts_are_shown_as_the_whole_is() {
        let whole = json!({ "a": [{ "b": 1 }, "c"], "d": [], "e": [[2]] });
        let members = vec![
            ("a", Part::Each(Box::new([json!({ "b": 1 }), json!("c")].into_iter()))),
            ("d", Part::List(vec![])),
            ("e", Part::List(vec![Part::Whole(json!([2]))])),
        ];
        assert_eq!(pretty_parts(Part::Object(members)), pretty(&whole));
    }
}
