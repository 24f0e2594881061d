//! What a client gave: a value, its path, and how it is written.

use std::fmt;

use serde_json::{Map, Value};

/// How values are written.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Form {
    /// As JSON, each with its type.
    Json,
    /// As text, as command lines have it: `on` and `off`, numbers with suffixes.
    Text,
}

/// Why arguments are refused, in QEMU's words.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Refusal(String);

impl Refusal {
    /// A refusal in words of its own.
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Refusal {}

impl From<Refusal> for crate::Error {
    fn from(refusal: Refusal) -> Self {
        Self::generic(refusal.0)
    }
}

/// A value that a client gave, and where.
#[derive(Clone, Debug)]
pub struct Given {
    pub(super) value: Value,
    at: String,
    /// Its own name; an item of a list has none.
    name: Option<String>,
    pub(super) form: Form,
}

impl Given {
    /// All that was given.
    pub fn root(value: Value, form: Form) -> Self {
        Self { value, at: String::new(), name: None, form }
    }

    /// The value itself.
    pub fn value(&self) -> &Value {
        &self.value
    }

    /// It is of another type than `expected`.
    pub fn mistyped(&self, expected: &str) -> Refusal {
        let at = if self.at.is_empty() { "null" } else { &self.at };
        Refusal(format!("Invalid parameter type for '{at}', expected: {expected}"))
    }

    /// It is of the right type, but not `expected`.
    pub fn expects(&self, expected: &str) -> Refusal {
        Refusal(format!("Parameter '{}' expects {expected}", self.at))
    }

    /// It is none of the values that its type has.
    pub fn unaccepted(&self, value: &str) -> Refusal {
        let name = self.name.as_deref().unwrap_or("null");
        Refusal(format!("Parameter '{name}' does not accept value '{value}'"))
    }

    /// The members of an object.
    pub fn members(self) -> Result<Members, Refusal> {
        match self.value {
            Value::Object(map) => Ok(Members { map, at: self.at, form: self.form }),
            _ => Err(self.mistyped("object")),
        }
    }

    /// The items of a list.
    pub fn items(self) -> Result<Vec<Self>, Refusal> {
        let Value::Array(list) = self.value else { return Err(self.mistyped("array")) };
        let item =
            |(index, value)| Self { value, at: format!("{}[{index}]", self.at), name: None, form: self.form };
        Ok(list.into_iter().enumerate().map(item).collect())
    }
}

/// The members of an object, of which each is taken once.
#[derive(Debug)]
pub struct Members {
    map: Map<String, Value>,
    at: String,
    form: Form,
}

impl Members {
    /// The member `name`, if it was given.
    pub fn optional(&mut self, name: &str) -> Option<Given> {
        let value = self.map.shift_remove(name)?;
        Some(Given { value, at: self.path(name), name: Some(name.to_owned()), form: self.form })
    }

    /// The member `name`.
    pub fn required(&mut self, name: &str) -> Result<Given, Refusal> {
        let path = self.path(name);
        self.optional(name).ok_or_else(|| Refusal(format!("Parameter '{path}' is missing")))
    }

    /// Fails when a member is left that nobody took.
    pub fn finish(self) -> Result<(), Refusal> {
        match self.map.keys().next() {
            None => Ok(()),
            Some(name) => Err(Refusal(format!("Parameter '{}' is unexpected", self.path(name)))),
        }
    }

    /// Passes over all that is left: somebody else takes it.
    pub fn leave(&mut self) {
        self.map.clear();
    }

    fn path(&self, name: &str) -> String {
        if self.at.is_empty() { name.to_owned() } else { format!("{}.{name}", self.at) }
    }
}
