//! What QEMU 10.0.2 answers to the same bytes, recorded; and properties.

use proptest::prelude::*;
use serde_json::{Value, json};

use super::{Limits, Stream, to_ascii};

/// Everything that `input` makes, fed in pieces of `piece` bytes: values as text, errors as `!desc`.
fn all(input: &[u8], piece: usize, limits: Limits) -> Vec<String> {
    let (mut stream, mut out) = (Stream::new(limits), Vec::new());
    for mut bytes in input.chunks(piece) {
        while !bytes.is_empty() {
            let (taken, outcome) = stream.feed(bytes);
            bytes = &bytes[taken..];
            out.extend(outcome.map(|outcome| match outcome {
                Ok(value) => to_ascii(&value),
                Err(error) => format!("!{error}").replace("JSON parse error, ", ""),
            }));
        }
    }
    out
}

fn qemu(input: &[u8]) -> Vec<String> {
    let whole = all(input, usize::MAX, Limits::QEMU);
    assert_eq!(all(input, 1, Limits::QEMU), whole, "in pieces");
    whole
}

#[test]
fn garbage_is_told_as_qemu_tells_it() {
    let separator = "!expected separator in dict";
    let cases: &[(&[u8], &[&str])] = &[
        (b"this\n", &["!invalid keyword 'this'"]),
        (br#"{"execute" "foo"}"#, &["!missing : in object pair"]),
        (br#"{"execute":"foo",}"#, &["!expecting value"]),
        (br#"{"execute":"foo" "id"}"#, &[separator]),
        (b"{1:2}", &["!key is not a string in object"]),
        (br#"{"a":}"#, &["!expecting value"]),
        (br#"{"a":1,"a":2}"#, &["!duplicate key"]),
        (b"[1 2]", &["!expected separator in list"]),
        (b"[1,]", &["!expecting value"]),
        (b"}", &["!expecting value"]),
        (b"{]", &["!expecting value"]),
        (b"[}", &["!expecting value"]),
        (br#"]{"a":"b"}"#, &["!expecting value", r#"{"a": "b"}"#]),
        (b"{\"a\":\"\xff\xfe\"}\n", &["!stray '\"\u{fffd}'", "!stray '\u{fffd}'", "!expecting value"]),
        (b"{\"a\":\"a\tb\"}", &["!stray '\"a\t'", "!expecting value"]),
        (b"{\"id\":01}", &["!stray '01'", "!expecting value"]),
        (b"{\"id\":1.}\n", &["!stray '1.}'"]),
        (b"{\"id\":-}\n", &["!stray '-}'"]),
        (b"{\"id\":.5}", &["!stray '.'", "!expecting value"]),
        (b"%d\n", &["!stray '%'"]),
        (b"'abc\n", &["!stray ''abc\n'"]),
        (b"{\"id\":TRUE}", &["!stray 'T'", "!expecting value"]),
        (b"{\"id\":tru}", &["!invalid keyword 'tru'"]),
        (b"{\"id\":true1}", &[separator]),
        (b"\x80\x81\n", &["!stray '\u{fffd}'"]),
        (b"{ \"a\" : \x00 \"b\"}", &["!stray ''", "!expecting value"]),
    ];
    for (input, told) in cases {
        assert_eq!(&qemu(input), told, "{}", String::from_utf8_lossy(input));
    }
}

#[test]
fn strings_are_read_as_qemu_reads_them() {
    let unicode = |text: &str| format!("!{text} is not a valid Unicode character");
    let cases: &[(&[u8], String)] = &[
        (br"'it\'s'", r#""it's""#.to_owned()),
        (br#""\"\/\\\b\f\n\r\t""#, r#""\"/\\\b\f\n\r\t""#.to_owned()),
        (br#""\u0041\ud834\udd1e\u0000""#, r#""A\uD834\uDD1E\u0000""#.to_owned()),
        ("\"é𝄞\u{7f}\"".as_bytes(), r#""\u00E9\uD834\uDD1E\u007F""#.to_owned()),
        (b"\"a\xc0\x80b\"", r#""a\u0000b""#.to_owned()),
        (br#""\q""#, "!invalid escape sequence in string".to_owned()),
        (br#""\u12g4""#, unicode("\\u12g4")),
        (br#""\u1""#, unicode("\\u1\"")),
        (br#""\ud834""#, unicode("\\ud834")),
        (br#""\ud834\u0041""#, unicode("\\ud834")),
        (br#""\udc00""#, unicode("\\udc00")),
        (br#""\ufffe""#, unicode("\\ufffe")),
        (b"\"a\xc3b\"", "!invalid UTF-8 sequence in string".to_owned()),
        (b"\"a\xed\xa0\x80b\"", "!invalid UTF-8 sequence in string".to_owned()),
        (b"\"a\xef\xbf\xbeb\"", "!invalid UTF-8 sequence in string".to_owned()),
    ];
    for (input, told) in cases {
        assert_eq!(qemu(input), *std::slice::from_ref(told), "{}", String::from_utf8_lossy(input));
    }
}

#[test]
fn numbers_keep_64_bits() {
    for (input, told) in [
        ("12345678901234567890 ", "12345678901234567890"),
        ("-9223372036854775808 ", "-9223372036854775808"),
        ("123456789012345678901 ", "1.2345678901234568e+20"),
        ("1.50 ", "1.5"),
        ("-0 ", "0"),
        ("1e400 ", "1.7976931348623157e+308"),
    ] {
        assert_eq!(qemu(input.as_bytes()), [told]);
    }
}

#[test]
fn several_on_a_line_and_one_on_several() {
    assert_eq!(qemu(b"{}{}\n[1,\n2\n]42 "), ["{}", "{}", "[1, 2]", "42"]);
    assert_eq!(qemu(b"42%"), ["42", "!stray '%'"]);
}

#[test]
fn what_one_value_may_hold_is_bounded() {
    let deep = "[".repeat(1025);
    assert_eq!(qemu(deep.as_bytes()), ["!JSON nesting depth limit exceeded"]);
    let fits = format!("{}{}", "[".repeat(1024), "]".repeat(1024));
    assert_eq!(qemu(fits.as_bytes()), [fits]);
    let small = Limits { bytes: 100, tokens: 10, nesting: 8 };
    let long = format!("['{}']{{}}", "x".repeat(200));
    assert_eq!(all(long.as_bytes(), 7, small)[0], "!JSON token size limit exceeded");
    assert_eq!(all(long.as_bytes(), 7, small).last().unwrap(), "{}");
    assert_eq!(all(b"[1,1,1,1,1,1]", 7, small)[0], "!JSON token count limit exceeded");
}

fn any_value() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<u64>().prop_map(Value::from),
        "[ -~é\n𝄞\u{0}]{0,8}".prop_map(Value::from),
    ];
    leaf.prop_recursive(4, 24, 4, |inner| {
        prop_oneof![
            proptest::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            proptest::collection::vec(("[a-z]{1,3}", inner), 0..4)
                .prop_map(|pairs| Value::Object(pairs.into_iter().collect())),
        ]
    })
}

proptest! {
    #[test]
    fn what_is_written_is_read_back(value in any_value(), piece in 1usize..9) {
        let text = format!("{} ", to_ascii(&value));
        prop_assert!(text.bytes().all(|byte| (b' '..=b'~').contains(&byte)));
        prop_assert_eq!(serde_json::from_str::<Value>(&text).unwrap(), value.clone());
        prop_assert_eq!(all(text.as_bytes(), piece, Limits::QEMU), [to_ascii(&value)]);
    }

    #[test]
    fn after_any_garbage_a_control_character_helps(garbage: Vec<u8>, piece in 1usize..9) {
        // Two of them: the first may end a string, which makes it garbage too. Open brackets are closed by an error.
        let mut input = garbage;
        input.extend(b"\xff\xff\n{'a': 1}");
        let last = all(&input, piece, Limits::QEMU).pop();
        prop_assert_eq!(last, Some(to_ascii(&json!({"a": 1}))));
    }

    #[test]
    fn pieces_make_no_difference(input in "[\\[\\]{}:,'\"a1.e\\\\ut%\n-]{0,40}", piece in 1usize..9) {
        let whole = all(input.as_bytes(), usize::MAX, Limits::QEMU);
        prop_assert_eq!(all(input.as_bytes(), piece, Limits::QEMU), whole);
    }
}
