//! Options from a command line are all strings: reads them as the types that a driver's options have.
//!
//! Values from JSON keep their types; a string stands for a number (with QEMU's size suffixes) or a boolean
//! (on/off, yes/no, true/false) only where one is expected.

use serde::de::value::{MapDeserializer, SeqDeserializer};
use serde::de::{Deserializer, Error as _, IntoDeserializer, Unexpected, Visitor};
use serde::forward_to_deserialize_any;
use serde_json::{Error, Value};

/// A value whose strings may stand for numbers and booleans.
pub(crate) struct Lenient(pub(crate) Value);

/// A number with an optional size suffix: `64k` is 65536.
pub(crate) fn number(text: &str) -> Option<u64> {
    let (digits, shift) = match text.char_indices().next_back()? {
        (at, 'b' | 'B') => (&text[..at], 0),
        (at, 'k' | 'K') => (&text[..at], 10),
        (at, 'm' | 'M') => (&text[..at], 20),
        (at, 'g' | 'G') => (&text[..at], 30),
        (at, 't' | 'T') => (&text[..at], 40),
        _ => (text, 0),
    };
    let value: u64 = match digits.strip_prefix("0x") {
        Some(hex) => u64::from_str_radix(hex, 16).ok()?,
        None => digits.parse().ok()?,
    };
    value.checked_mul(1 << shift)
}

/// A boolean in QEMU's words.
pub(crate) fn boolean(text: &str) -> Option<bool> {
    match text {
        "on" | "yes" | "true" | "y" => Some(true),
        "off" | "no" | "false" | "n" => Some(false),
        _ => None,
    }
}

macro_rules! numbers {
    ($($method:ident)*) => {$(
        fn $method<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
            match &self.0 {
                Value::String(text) => match number(text) {
                    Some(value) => visitor.visit_u64(value),
                    None => Err(Error::invalid_type(Unexpected::Str(text), &visitor)),
                },
                _ => self.0.$method(visitor),
            }
        }
    )*};
}

impl<'de> Deserializer<'de> for Lenient {
    type Error = Error;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        match self.0 {
            Value::Object(map) => {
                let entries = map.into_iter().map(|(key, value)| (key, Self(value)));
                visitor.visit_map(MapDeserializer::new(entries))
            }
            Value::Array(list) => visitor.visit_seq(SeqDeserializer::new(list.into_iter().map(Self))),
            other => other.deserialize_any(visitor),
        }
    }

    fn deserialize_bool<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        match &self.0 {
            Value::String(text) => match boolean(text) {
                Some(value) => visitor.visit_bool(value),
                None => Err(Error::invalid_value(Unexpected::Str(text), &"'on' or 'off'")),
            },
            _ => self.0.deserialize_bool(visitor),
        }
    }

    numbers! { deserialize_u8 deserialize_u16 deserialize_u32 deserialize_u64 deserialize_i64 deserialize_i32 }

    fn deserialize_f64<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        match &self.0 {
            Value::String(text) => match text.parse() {
                Ok(value) => visitor.visit_f64(value),
                Err(_) => Err(Error::invalid_type(Unexpected::Str(text), &visitor)),
            },
            _ => self.0.deserialize_f64(visitor),
        }
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        match self.0 {
            Value::Null => visitor.visit_none(),
            _ => visitor.visit_some(self),
        }
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        visitor: V,
    ) -> Result<V::Value, Error> {
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        name: &'static str,
        variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Error> {
        self.0.deserialize_enum(name, variants, visitor)
    }

    forward_to_deserialize_any! {
        i8 i16 i128 u128 f32 char str string bytes byte_buf unit unit_struct seq tuple tuple_struct map struct
        identifier ignored_any
    }
}

impl<'de> IntoDeserializer<'de, Error> for Lenient {
    type Deserializer = Self;
    fn into_deserializer(self) -> Self {
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde::Deserialize;
    use serde_json::json;

    #[derive(Deserialize, Debug, PartialEq)]
    #[serde(deny_unknown_fields)]
    struct Options {
        name: String,
        size: u64,
        flag: Option<bool>,
        inner: Option<Box<Options>>,
    }

    fn read(value: Value) -> Result<Options, Error> {
        Options::deserialize(Lenient(value))
    }

    #[test]
    fn strings_stand_for_what_is_expected() {
        let options =
            read(json!({"name": "12", "size": "64k", "inner": {"name": "x", "size": 7, "flag": "on"}}));
        let inner = Options { name: "x".to_owned(), size: 7, flag: Some(true), inner: None };
        let outer = Options { name: "12".to_owned(), size: 65536, flag: None, inner: Some(Box::new(inner)) };
        assert_eq!(options.unwrap(), outer);
        assert!(read(json!({"name": "x", "size": "many"})).unwrap_err().to_string().contains("many"));
        assert!(read(json!({"name": "x", "size": 1, "flag": "maybe"})).is_err());
        assert!(read(json!({"name": "x", "size": 1, "other": 1})).unwrap_err().to_string().contains("other"));
        assert!(read(json!({"name": 5, "size": 1})).is_err());
    }

    #[test]
    fn sizes_have_suffixes_and_do_not_overflow() {
        assert_eq!((number("10"), number("1G"), number("0x10")), (Some(10), Some(1 << 30), Some(16)));
        assert_eq!((number(""), number("k"), number("99999999999T")), (None, None, None));
    }
}
