//! Values to ASCII on one line.

use serde_json::Value;
use std::fmt::Write as _;

/// `value` as QEMU writes it: `{"a": 1, "b": [true, null]}`, what is not printable ASCII as `\u` and four digits.
pub fn to_ascii(value: &Value) -> String {
    let mut text = String::new();
    write(value, &mut text);
    text
}

fn write(value: &Value, text: &mut String) {
    match value {
        Value::Null | Value::Bool(_) | Value::Number(_) => {
            // Writing to a string does not fail.
            let _ = write!(text, "{value}");
        }
        Value::String(string) => quote(string, text),
        Value::Array(list) => {
            text.push('[');
            for (at, item) in list.iter().enumerate() {
                text.push_str(if at == 0 { "" } else { ", " });
                write(item, text);
            }
            text.push(']');
        }
        Value::Object(map) => {
            text.push('{');
            for (at, (key, item)) in map.iter().enumerate() {
                text.push_str(if at == 0 { "" } else { ", " });
                quote(key, text);
                text.push_str(": ");
                write(item, text);
            }
            text.push('}');
        }
    }
}

fn quote(string: &str, text: &mut String) {
    text.push('"');
    for c in string.chars() {
        match c {
            '"' => text.push_str("\\\""),
            '\\' => text.push_str("\\\\"),
            '\u{8}' => text.push_str("\\b"),
            '\u{c}' => text.push_str("\\f"),
            '\n' => text.push_str("\\n"),
            '\r' => text.push_str("\\r"),
            '\t' => text.push_str("\\t"),
            ' '..='~' => text.push(c),
            _ => c.encode_utf16(&mut [0; 2]).iter().for_each(|unit| {
                let _ = write!(text, "\\u{unit:04X}");
            }),
        }
    }
    text.push('"');
}
