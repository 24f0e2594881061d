//! The builtin types: text, switches, numbers, anything; lists; the object without members.

use serde_json::{Map, Value};

use super::{Builder, Form, Given, Member, Members, Object, Refusal, Type};

impl Type for String {
    fn describe(schema: &mut Builder) -> String {
        schema.builtin("str", "string")
    }
    fn parse(given: Given) -> Result<Self, Refusal> {
        match given.value {
            Value::String(text) => Ok(text),
            _ => Err(given.mistyped("string")),
        }
    }
    fn show(&self) -> Value {
        Value::from(self.as_str())
    }
}

impl Type for bool {
    fn describe(schema: &mut Builder) -> String {
        schema.builtin("bool", "boolean")
    }
    fn parse(given: Given) -> Result<Self, Refusal> {
        match (&given.value, given.form) {
            (Value::Bool(on), _) => Ok(*on),
            (Value::String(text), Form::Text) => match text.as_str() {
                "on" | "yes" | "true" | "y" => Ok(true),
                "off" | "no" | "false" | "n" => Ok(false),
                _ => Err(given.expects("'on' or 'off'")),
            },
            _ => Err(given.mistyped("boolean")),
        }
    }
    fn show(&self) -> Value {
        Value::from(*self)
    }
}

impl Type for i64 {
    fn describe(schema: &mut Builder) -> String {
        schema.builtin("int", "int")
    }
    fn parse(given: Given) -> Result<Self, Refusal> {
        match (&given.value, given.form) {
            (Value::Number(number), _) => number.as_i64().ok_or_else(|| given.expects("int64")),
            (Value::String(text), Form::Text) => text.parse().map_err(|_| given.mistyped("integer")),
            _ => Err(given.mistyped("integer")),
        }
    }
    fn show(&self) -> Value {
        Value::from(*self)
    }
}

impl Type for u64 {
    fn describe(schema: &mut Builder) -> String {
        i64::describe(schema)
    }
    fn parse(given: Given) -> Result<Self, Refusal> {
        match (&given.value, given.form) {
            (Value::Number(number), _) => number.as_u64().ok_or_else(|| given.expects("uint64")),
            (Value::String(text), Form::Text) => size(text).ok_or_else(|| given.mistyped("integer")),
            _ => Err(given.mistyped("integer")),
        }
    }
    fn show(&self) -> Value {
        Value::from(*self)
    }
}

/// A whole number; a suffix of k, M, G, T, P or E multiplies by powers of 1024.
fn size(text: &str) -> Option<u64> {
    if let Some(hex) = text.strip_prefix("0x") {
        return u64::from_str_radix(hex, 16).ok();
    }
    let suffix = text.chars().last().and_then(|c| "bkmgtpe".find(c.to_ascii_lowercase()));
    let digits = suffix.map_or(text, |_| &text[..text.len() - 1]);
    let plain = digits.bytes().all(|byte| byte.is_ascii_digit());
    let power = suffix.and_then(|power| u32::try_from(power).ok()).unwrap_or(0);
    digits.parse::<u64>().ok().filter(|_| plain)?.checked_mul(1024_u64.checked_pow(power)?)
}

/// Smaller numbers without sign: as their widest, then checked.
macro_rules! narrow {
    ($($narrow:ty => $name:literal),*) => {$(
        impl Type for $narrow {
            fn describe(schema: &mut Builder) -> String {
                i64::describe(schema)
            }
            fn parse(given: Given) -> Result<Self, Refusal> {
                let refusal = given.expects($name);
                if given.value.as_i64().is_some_and(|number| number < 0) {
                    return Err(refusal);
                }
                Self::try_from(u64::parse(given)?).map_err(|_| refusal)
            }
            fn show(&self) -> Value {
                Value::from(*self)
            }
        }
    )*};
}

narrow!(u32 => "uint32_t", u16 => "uint16_t", u8 => "uint8_t");

impl Type for f64 {
    fn describe(schema: &mut Builder) -> String {
        schema.builtin("number", "number")
    }
    fn parse(given: Given) -> Result<Self, Refusal> {
        match (&given.value, given.form) {
            (Value::Number(number), _) => number.as_f64().ok_or_else(|| given.mistyped("number")),
            (Value::String(text), Form::Text) => text.parse().map_err(|_| given.mistyped("number")),
            _ => Err(given.mistyped("number")),
        }
    }
    fn show(&self) -> Value {
        Value::from(*self)
    }
}

impl Type for Value {
    fn describe(schema: &mut Builder) -> String {
        schema.builtin("any", "value")
    }
    fn parse(given: Given) -> Result<Self, Refusal> {
        Ok(given.value)
    }
    fn show(&self) -> Value {
        self.clone()
    }
}

/// JSON's `null`, where it says something.
impl Type for () {
    fn describe(schema: &mut Builder) -> String {
        schema.builtin("null", "null")
    }
    fn parse(given: Given) -> Result<Self, Refusal> {
        if given.value.is_null() { Ok(()) } else { Err(given.mistyped("null")) }
    }
    fn show(&self) -> Value {
        Value::Null
    }
}

impl<T: Type> Type for Vec<T> {
    fn describe(schema: &mut Builder) -> String {
        let item = T::describe(schema);
        schema.list(&item)
    }
    fn parse(given: Given) -> Result<Self, Refusal> {
        given.items()?.into_iter().map(T::parse).collect()
    }
    fn show(&self) -> Value {
        self.iter().map(T::show).collect()
    }
}

/// One that may contain itself.
impl<T: Type> Type for Box<T> {
    fn describe(schema: &mut Builder) -> String {
        T::describe(schema)
    }
    fn parse(given: Given) -> Result<Self, Refusal> {
        T::parse(given).map(Self::new)
    }
    fn show(&self) -> Value {
        T::show(self)
    }
}

/// The object type without members: a command that takes or answers nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Nothing;

impl Type for Nothing {
    fn describe(schema: &mut Builder) -> String {
        schema.object::<Self>()
    }
    fn parse(given: Given) -> Result<Self, Refusal> {
        given.members()?.finish().map(|()| Self)
    }
    fn show(&self) -> Value {
        Value::Object(Map::new())
    }
}

impl Object for Nothing {
    fn members(_schema: &mut Builder) -> Vec<Member> {
        Vec::new()
    }
    fn take(_from: &mut Members) -> Result<Self, Refusal> {
        Ok(Self)
    }
    fn put(&self, _into: &mut Map<String, Value>) {}
}
