//! A driver's options: from JSON, or from a command line where every value is text, to its struct.
//!
//! Text stands for a size ([`crate::numbers`]), a number without a unit ([`Count`]) or a switch (`on`, `off`, also
//! yes/no, true/false, y/n) only where one is expected.
//!
//! Invariant: whatever is refused is named, in the words that QEMU uses.

use std::fmt;

use block::{BlockError, ErrorKind, Result};
use serde::Deserialize;
use serde::de::value::StringDeserializer;
use serde::de::{self, DeserializeOwned, DeserializeSeed, Deserializer, Unexpected, Visitor};
use serde_json::{Map, Value};

use crate::numbers::{self, NoNumber};

/// `options` as the struct `T`.
pub fn parse<T: DeserializeOwned>(options: Map<String, Value>) -> Result<T> {
    parse_with(options, T::deserialize)
}

/// The same for what is not one struct: `read` picks the type.
pub fn parse_with<T>(
    options: Map<String, Value>,
    read: impl FnOnce(Given) -> std::result::Result<T, Refusal>,
) -> Result<T> {
    read(Given(Value::Object(options)))
        .map_err(|refusal| BlockError::new(ErrorKind::Invalid, refusal.to_string()))
}

/// The same as [`parse`] for whoever words refusals otherwise ([`crate::Wording`]).
pub fn read<T: DeserializeOwned>(options: Map<String, Value>) -> std::result::Result<T, Refusal> {
    T::deserialize(Given(Value::Object(options)))
}

/// A number of things, which has no unit (seconds, requests): text for it has no suffix.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
pub struct Count<T>(pub T);

/// The name that serde knows [`Count`] by.
const COUNT: &str = "Count";

/// A value whose text may stand for a number or a switch.
pub struct Given(Value);

impl Given {
    /// With a number where text stands for one.
    fn number(self) -> std::result::Result<Self, Refusal> {
        let Value::String(text) = &self.0 else { return Ok(self) };
        let negative = || text.parse::<i64>().ok().filter(|number| *number < 0).map(Value::from);
        let real = || text.parse::<f64>().ok().map(Value::from);
        match numbers::size(text) {
            Ok(size) => Ok(Self(size.into())),
            Err(NoNumber::OutOfRange) => {
                negative().map(Self).ok_or_else(|| Refusal::of(Why::Range(text.clone())))
            }
            Err(NoNumber::Malformed) => {
                negative().or_else(real).map(Self).ok_or_else(|| Refusal::of(Why::NoNumber))
            }
        }
    }

    /// With a number without a unit where text stands for one.
    fn count(self) -> std::result::Result<Self, Refusal> {
        let Value::String(text) = &self.0 else { return Ok(self) };
        match numbers::integer(text) {
            Ok((false, count)) => Ok(Self(count.into())),
            Ok((true, 0)) => Ok(Self(0.into())),
            Ok((true, _)) => Err(Refusal::of(Why::Range(text.clone()))),
            Err(why) => Err(Refusal::of(Why::NoCount(why, text.clone()))),
        }
    }

    /// With a switch where text stands for one.
    fn switch(self) -> std::result::Result<Self, Refusal> {
        let Value::String(text) = &self.0 else { return Ok(self) };
        match switch(text) {
            Some(on) => Ok(Self(Value::Bool(on))),
            None => Err(Refusal::of(Why::NoSwitch)),
        }
    }
}

/// What a word sets a switch to, if it is one for that.
pub fn switch(text: &str) -> Option<bool> {
    match text {
        "on" | "yes" | "true" | "y" => Some(true),
        "off" | "no" | "false" | "n" => Some(false),
        _ => None,
    }
}

macro_rules! numbers {
    ($($method:ident)*) => {$(
        fn $method<V: Visitor<'de>>(self, visitor: V) -> std::result::Result<V::Value, Refusal> {
            self.number()?.deserialize_any(visitor)
        }
    )*};
}

impl<'de> Deserializer<'de> for Given {
    type Error = Refusal;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> std::result::Result<V::Value, Refusal> {
        match self.0 {
            Value::Null => visitor.visit_unit(),
            Value::Bool(switch) => visitor.visit_bool(switch),
            Value::String(text) => visitor.visit_string(text),
            Value::Array(list) => visitor.visit_seq(Items { list: list.into_iter(), at: 0 }),
            Value::Object(map) => visitor.visit_map(Members { map: map.into_iter(), value: None }),
            Value::Number(number) => match (number.as_u64(), number.as_i64()) {
                (Some(number), _) => visitor.visit_u64(number),
                (None, Some(number)) => visitor.visit_i64(number),
                (None, None) => visitor.visit_f64(number.as_f64().unwrap_or(f64::NAN)),
            },
        }
    }

    fn deserialize_bool<V: Visitor<'de>>(self, visitor: V) -> std::result::Result<V::Value, Refusal> {
        self.switch()?.deserialize_any(visitor)
    }

    numbers! { deserialize_u32 deserialize_u64 deserialize_i32 deserialize_i64 deserialize_f64 }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> std::result::Result<V::Value, Refusal> {
        match self.0 {
            Value::Null => visitor.visit_none(),
            _ => visitor.visit_some(self),
        }
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        name: &'static str,
        visitor: V,
    ) -> std::result::Result<V::Value, Refusal> {
        visitor.visit_newtype_struct(if name == COUNT { self.count()? } else { self })
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _name: &'static str,
        _variants: &'static [&'static str],
        visitor: V,
    ) -> std::result::Result<V::Value, Refusal> {
        match self.0 {
            Value::String(name) => visitor.visit_enum(StringDeserializer::new(name)),
            _ => Err(Refusal::of(Why::Type("string".to_owned()))),
        }
    }

    serde::forward_to_deserialize_any! {
        i8 i16 i128 u8 u16 u128 f32 char str string bytes byte_buf unit unit_struct seq tuple tuple_struct map
        struct identifier ignored_any
    }
}

struct Items {
    list: std::vec::IntoIter<Value>,
    at: usize,
}

impl<'de> de::SeqAccess<'de> for Items {
    type Error = Refusal;

    fn next_element_seed<T: DeserializeSeed<'de>>(
        &mut self,
        seed: T,
    ) -> std::result::Result<Option<T::Value>, Refusal> {
        let Some(value) = self.list.next() else { return Ok(None) };
        let at = self.at;
        self.at += 1;
        let item = seed.deserialize(Given(value));
        item.map(Some).map_err(|refusal| refusal.below(&at.to_string()))
    }
}

struct Members {
    map: serde_json::map::IntoIter,
    value: Option<(String, Value)>,
}

impl<'de> de::MapAccess<'de> for Members {
    type Error = Refusal;

    fn next_key_seed<K: DeserializeSeed<'de>>(
        &mut self,
        seed: K,
    ) -> std::result::Result<Option<K::Value>, Refusal> {
        let Some((key, value)) = self.map.next() else { return Ok(None) };
        self.value = Some((key.clone(), value));
        seed.deserialize(StringDeserializer::new(key)).map(Some)
    }

    fn next_value_seed<V: DeserializeSeed<'de>>(
        &mut self,
        seed: V,
    ) -> std::result::Result<V::Value, Refusal> {
        // Whoever asks for a value without a key gets nothing, as from an empty map.
        let (key, value) = self.value.take().unwrap_or_default();
        seed.deserialize(Given(value)).map_err(|refusal| refusal.below(&key))
    }
}

/// Why options are refused, and which one.
#[derive(Debug)]
pub struct Refusal {
    /// Names from the outside in, joined by dots.
    pub(crate) path: String,
    pub(crate) why: Why,
}

#[derive(Debug)]
pub(crate) enum Why {
    /// There is no such option.
    Unexpected,
    /// It has to be there.
    Missing,
    /// It should be of this type.
    Type(String),
    /// It is none of its choices.
    Variant(String),
    /// It is text that stands for no switch.
    NoSwitch,
    /// It is text that stands for no number.
    NoNumber,
    /// It is text that stands for no number of things.
    NoCount(NoNumber, String),
    /// It is a number, but none of those that may be.
    Range(String),
    /// Something else.
    Other(String),
}

impl Refusal {
    fn of(why: Why) -> Self {
        Self { path: String::new(), why }
    }

    fn at(path: &str, why: Why) -> Self {
        Self { path: path.to_owned(), why }
    }

    fn below(mut self, name: &str) -> Self {
        let dot = if self.path.is_empty() { "" } else { "." };
        self.path = format!("{name}{dot}{}", self.path);
        self
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let path = &self.path;
        match &self.why {
            Why::Unexpected => write!(f, "Parameter '{path}' is unexpected"),
            Why::Missing => write!(f, "Parameter '{path}' is missing"),
            Why::Type(expected) => write!(f, "Invalid parameter type for '{path}', expected: {expected}"),
            Why::NoSwitch => write!(f, "Invalid parameter type for '{path}', expected: 'on' or 'off'"),
            Why::NoNumber | Why::NoCount(..) => {
                write!(f, "Invalid parameter type for '{path}', expected: integer")
            }
            Why::Variant(value) | Why::Range(value) => {
                write!(f, "Parameter '{path}' does not accept value '{value}'")
            }
            Why::Other(text) if path.is_empty() => f.write_str(text),
            Why::Other(text) => write!(f, "Parameter '{path}': {text}"),
        }
    }
}

impl std::error::Error for Refusal {}

impl de::Error for Refusal {
    fn custom<T: fmt::Display>(text: T) -> Self {
        Self::of(Why::Other(text.to_string()))
    }

    fn invalid_type(_: Unexpected<'_>, expected: &dyn de::Expected) -> Self {
        let expected = match expected.to_string().as_str() {
            "u64" | "u32" | "i64" | "i32" => "integer".to_owned(),
            "f64" => "number".to_owned(),
            "a sequence" => "array".to_owned(),
            other => match other.strip_prefix("struct ") {
                Some(_) => "object".to_owned(),
                None => other.trim_start_matches("a ").to_owned(),
            },
        };
        Self::of(Why::Type(expected))
    }

    fn invalid_value(unexpected: Unexpected<'_>, _: &dyn de::Expected) -> Self {
        Self::of(match unexpected {
            Unexpected::Signed(number) => Why::Range(number.to_string()),
            Unexpected::Unsigned(number) => Why::Range(number.to_string()),
            other => Why::Variant(other.to_string()),
        })
    }

    fn unknown_variant(variant: &str, _: &'static [&'static str]) -> Self {
        Self::of(Why::Variant(variant.to_owned()))
    }

    fn unknown_field(field: &str, _: &'static [&'static str]) -> Self {
        Self::at(field, Why::Unexpected)
    }

    fn missing_field(field: &'static str) -> Self {
        Self::at(field, Why::Missing)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[derive(Debug, PartialEq, Deserialize)]
    #[serde(deny_unknown_fields, rename_all = "kebab-case")]
    struct Sample {
        max_size: u64,
        #[serde(default)]
        fast: bool,
        mode: Option<Mode>,
        #[serde(default)]
        rules: Vec<Rule>,
    }

    #[derive(Debug, PartialEq, Deserialize)]
    #[serde(rename_all = "kebab-case")]
    enum Mode {
        Auto,
        VeryFast,
    }

    #[derive(Debug, PartialEq, Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Rule {
        errno: i32,
    }

    fn sample(options: Value) -> std::result::Result<Sample, String> {
        let Value::Object(map) = options else { panic!("options are an object") };
        parse(map).map_err(|e| e.to_string())
    }

    #[test]
    fn json_and_text_give_the_same() {
        let typed = json!({"max-size": 16 << 20, "fast": true, "mode": "very-fast", "rules": [{"errno": 5}]});
        let text = json!({"max-size": "16M", "fast": "on", "mode": "very-fast", "rules": [{"errno": "5"}]});
        let expected = Sample {
            max_size: 16 << 20,
            fast: true,
            mode: Some(Mode::VeryFast),
            rules: vec![Rule { errno: 5 }],
        };
        assert_eq!(sample(typed).unwrap(), expected);
        assert_eq!(sample(text).unwrap(), expected);
    }

    #[test]
    fn refusals_name_the_option() {
        let cases = [
            (json!({}), "Parameter 'max-size' is missing"),
            (json!({"max-size": 1, "foo": 2}), "Parameter 'foo' is unexpected"),
            (json!({"max-size": "ten"}), "Invalid parameter type for 'max-size', expected: integer"),
            (json!({"max-size": -10}), "Parameter 'max-size' does not accept value '-10'"),
            (json!({"max-size": 1, "fast": 1}), "Invalid parameter type for 'fast', expected: boolean"),
            (json!({"max-size": 1, "mode": "slow"}), "Parameter 'mode' does not accept value 'slow'"),
            (json!({"max-size": 1, "mode": 1}), "Invalid parameter type for 'mode', expected: string"),
            (json!({"max-size": 1, "rules": 1}), "Invalid parameter type for 'rules', expected: array"),
            (json!({"max-size": 1, "rules": [1]}), "Invalid parameter type for 'rules.0', expected: object"),
            (json!({"max-size": 1, "rules": [{}]}), "Parameter 'rules.0.errno' is missing"),
            (json!({"max-size": 1, "rules": [{"errno": 1, "x": 1}]}), "Parameter 'rules.0.x' is unexpected"),
        ];
        for (options, expected) in cases {
            assert_eq!(sample(options).unwrap_err(), expected);
        }
    }

    #[test]
    fn text_that_is_no_number_is_refused() {
        for text in ["", "M", "-1", "1X", "99999999999P", "0xg"] {
            let refused = sample(json!({"max-size": text})).unwrap_err();
            assert!(refused.contains("'max-size'"), "{text}: {refused}");
        }
        let refused = sample(json!({"max-size": "1", "fast": "maybe"})).unwrap_err();
        assert_eq!(refused, "Invalid parameter type for 'fast', expected: 'on' or 'off'");
    }
}
