//! Options of a node inside a `json:` name, flattened to dotted keys as QEMU does.
//!
//! `{"file": {"driver": "file"}}` and `{"file.driver": "file"}` are the same.

use block::{BlockError, ErrorKind};
use serde_json::{Map, Value};

/// Deepest nesting, as of JSON itself: bounds what recursion over options takes of the stack.
const MAX_DEPTH: usize = 128;

/// Flattened options: keys such as `file.server.0.host`, values that are no objects or arrays (but for
/// empty ones).
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Options(Map<String, Value>);

impl Options {
    /// The options in a JSON object, the text behind `json:`. As in QEMU strings may stand in single quotes.
    ///
    /// `Invalid` where it is no JSON object, says the same key twice (once nested, once dotted), or nests
    /// deeper than 128.
    pub fn parse(text: &str) -> Result<Self, BlockError> {
        match json::parse(text) {
            Ok(Value::Object(object)) => {
                let mut options = Self::default();
                options.flatten("", object)?;
                Ok(options)
            }
            Ok(_) => Err(invalid("a json: name must hold an object")),
            Err(error) => Err(BlockError::caused(ErrorKind::Invalid, "a json: name is no JSON", error)),
        }
    }

    /// The value of a dotted key.
    pub fn get(&self, key: &str) -> Option<&Value> {
        self.0.get(key)
    }

    /// The value of a dotted key when it is a string.
    pub fn text(&self, key: &str) -> Option<&str> {
        self.get(key)?.as_str()
    }

    /// Keys and values in the order in which they were written.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Value)> {
        self.0.iter().map(|(key, value)| (key.as_str(), value))
    }

    /// The options of the child `name`: those under `name.`, without that prefix.
    pub fn child(&self, name: &str) -> Self {
        let inner = |key: &str| Some(key.strip_prefix(name)?.strip_prefix('.')?.to_owned());
        Self(self.0.iter().filter_map(|(key, value)| Some((inner(key)?, value.clone()))).collect())
    }

    /// The same as nested objects, and arrays where keys are `0`, `1`, .. without a gap.
    ///
    /// `Invalid` where a key is a value and a prefix of another key as well.
    pub fn nested(&self) -> Result<Value, BlockError> {
        let mut root = Map::new();
        for (key, value) in &self.0 {
            insert(&mut root, key, value)?;
        }
        Ok(with_arrays(root))
    }

    fn flatten(&mut self, prefix: &str, object: Map<String, Value>) -> Result<(), BlockError> {
        object.into_iter().try_for_each(|(key, value)| self.add(format!("{prefix}{key}"), value))
    }

    fn add(&mut self, key: String, value: Value) -> Result<(), BlockError> {
        match value {
            Value::Object(object) if !object.is_empty() => self.flatten(&format!("{key}."), object),
            Value::Array(array) if !array.is_empty() => {
                array.into_iter().enumerate().try_for_each(|(i, value)| self.add(format!("{key}.{i}"), value))
            }
            _ if key.split('.').count() > MAX_DEPTH => Err(invalid("options nest too deeply")),
            _ if self.0.contains_key(&key) => Err(invalid(format!("option '{key}' is given twice"))),
            _ => {
                self.0.insert(key, value);
                Ok(())
            }
        }
    }
}

fn insert(object: &mut Map<String, Value>, key: &str, value: &Value) -> Result<(), BlockError> {
    let both = || invalid(format!("option '{key}' is a value and a group of options"));
    let Some((first, rest)) = key.split_once('.') else {
        return match object.insert(key.to_owned(), value.clone()) {
            None => Ok(()),
            Some(_) => Err(both()),
        };
    };
    match object.entry(first).or_insert_with(|| Value::Object(Map::new())) {
        Value::Object(inner) => insert(inner, rest, value),
        _ => Err(both()),
    }
}

fn with_arrays(object: Map<String, Value>) -> Value {
    let is_array = !object.is_empty() && (0..object.len()).all(|i| object.contains_key(&i.to_string()));
    let inner = |value| match value {
        Value::Object(object) if !object.is_empty() => with_arrays(object),
        other => other,
    };
    if is_array {
        let mut items: Vec<_> = object.into_iter().collect();
        items.sort_by_key(|(key, _)| key.parse::<usize>().unwrap_or(usize::MAX));
        return Value::Array(items.into_iter().map(|(_, value)| inner(value)).collect());
    }
    Value::Object(object.into_iter().map(|(key, value)| (key, inner(value))).collect())
}

fn invalid(context: impl Into<String>) -> BlockError {
    BlockError::new(ErrorKind::Invalid, context)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn nested_dotted_and_single_quoted_are_the_same() {
        let nested = Options::parse(r#"{"driver":"qcow2","file":{"driver":"nbd","server":{"path":"/s"}}}"#);
        let dotted = Options::parse(r#"{"driver":"qcow2","file.driver":"nbd","file.server.path":"/s"}"#);
        let single = Options::parse("{'driver':'qcow2','file':{'driver':'nbd','server.path':'/s'}}");
        let nested = nested.unwrap();
        assert_eq!(nested, dotted.unwrap());
        assert_eq!(nested, single.unwrap());
        assert_eq!(nested.text("file.server.path"), Some("/s"));
        assert_eq!(nested.child("file").text("server.path"), Some("/s"));
        assert_eq!(nested.child("fil"), Options::default());
        assert_eq!(
            nested.nested().unwrap(),
            json!({"driver":"qcow2","file":{"driver":"nbd","server":{"path":"/s"}}})
        );
    }

    #[test]
    fn lists_keep_their_order() {
        let options = Options::parse(r#"{"a":[1,{"b":true},[]],"c":{},"d.1":2}"#).unwrap();
        let keys: Vec<_> = options.iter().map(|(key, _)| key).collect();
        assert_eq!(keys, ["a.0", "a.1.b", "a.2", "c", "d.1"]);
        assert_eq!(options.nested().unwrap(), json!({"a":[1,{"b":true},[]],"c":{},"d":{"1":2}}));
    }

    #[test]
    fn contradictions_are_refused() {
        let deep = format!(r#"{{"{}":1}}"#, "a.".repeat(MAX_DEPTH));
        for text in [&deep, r#"{"a":{"b":1},"a.b":2}"#, "[]", "", "{", "nonsense", "{'a':1"] {
            assert_eq!(Options::parse(text).unwrap_err().kind(), ErrorKind::Invalid, "{text}");
        }
        for text in [r#"{"a":1,"a.b":2}"#, r#"{"a.b":1,"a":2}"#] {
            assert_eq!(Options::parse(text).unwrap().nested().unwrap_err().kind(), ErrorKind::Invalid);
        }
    }
}
