//! JSON as QEMU prints it: four spaces, and a line for each bracket of what is empty.

use serde_json::Value;

/// The text of `value`, ended by a line feed.
pub(crate) fn pretty(value: &Value) -> String {
    let mut text = String::new();
    put(&mut text, value, 0);
    text.push('\n');
    text
}

fn put(text: &mut String, value: &Value, depth: usize) {
    match value {
        Value::Object(map) => {
            let members = map.iter().map(|(key, value)| (Some(key.as_str()), value));
            put_all(text, '{', '}', members, depth);
        }
        Value::Array(list) => put_all(text, '[', ']', list.iter().map(|value| (None, value)), depth),
        other => text.push_str(&other.to_string()),
    }
}

fn put_all<'a>(
    text: &mut String,
    open: char,
    close: char,
    members: impl Iterator<Item = (Option<&'a str>, &'a Value)>,
    depth: usize,
) {
    text.push(open);
    for (at, (key, value)) in members.enumerate() {
        if at > 0 {
            text.push(',');
        }
        new_line(text, depth + 1);
        if let Some(key) = key {
            text.push_str(&format!("{}: ", Value::from(key)));
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
}
