//! The answer of `query-qmp-schema`: entries for commands, events and types.
//!
//! Invariant: types have numbers for names, as QEMU's have, since their real names promise nothing; builtin ones
//! keep theirs, and a list of `T` is `[T]`.

use std::any::TypeId;
use std::collections::BTreeMap;
use std::collections::BTreeSet;

use serde_json::{Map, Value, json};

use super::{Object, Type};

/// A member of an object type.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    /// Its name.
    pub name: &'static str,
    /// Name of its type.
    pub type_name: String,
    /// Whether it may be left out.
    pub optional: bool,
    /// What is special about it: `unstable`, `deprecated`.
    pub features: &'static [&'static str],
}

/// Collects the entries.
#[derive(Debug, Default)]
pub struct Builder {
    entries: Vec<Value>,
    names: BTreeMap<TypeId, String>,
    plain: BTreeSet<String>,
}

impl Builder {
    /// Describes a command.
    pub fn command<Arguments: Object, Answer: Type>(&mut self, name: &str, features: &[&str]) {
        let place = self.reserve();
        let (arguments, answer) = (Arguments::describe(self), Answer::describe(self));
        let mut entry = Map::from_iter([
            ("name".to_owned(), json!(name)),
            ("ret-type".to_owned(), json!(answer)),
            ("meta-type".to_owned(), json!("command")),
            ("arg-type".to_owned(), json!(arguments)),
        ]);
        if !features.is_empty() {
            entry.insert("features".to_owned(), json!(features));
        }
        self.entries[place] = Value::Object(entry);
    }

    /// Describes an event.
    pub fn event<Data: Object>(&mut self, name: &str) {
        let place = self.reserve();
        let data = Data::describe(self);
        self.entries[place] = json!({"name": name, "meta-type": "event", "arg-type": data});
    }

    /// All entries.
    pub fn finish(self) -> Value {
        Value::Array(self.entries)
    }

    /// A builtin type.
    pub fn builtin(&mut self, name: &str, json_type: &str) -> String {
        if self.plain.insert(name.to_owned()) {
            self.entries.push(json!({"name": name, "json-type": json_type, "meta-type": "builtin"}));
        }
        name.to_owned()
    }

    /// A list of items of the type called `item`.
    pub fn list(&mut self, item: &str) -> String {
        let name = format!("[{item}]");
        if self.plain.insert(name.clone()) {
            self.entries.push(json!({"name": name, "element-type": item, "meta-type": "array"}));
        }
        name
    }

    /// An enumeration that stands for `T`.
    pub fn enumeration<T: 'static>(&mut self, values: &[&str]) -> String {
        self.named::<T>(|_| {
            let members: Vec<_> = values.iter().map(|value| json!({"name": value})).collect();
            json!({"members": members, "meta-type": "enum", "values": values})
        })
    }

    /// An object type.
    pub fn object<T: Object>(&mut self) -> String {
        self.named::<T>(|schema| {
            let members: Vec<_> = T::members(schema).iter().map(Member::entry).collect();
            let mut entry = json!({"members": members, "meta-type": "object"});
            if let Some((tag, variants)) = T::variants(schema) {
                let case = |(case, name)| json!({"case": case, "type": name});
                entry["tag"] = json!(tag);
                entry["variants"] = variants.into_iter().map(case).collect();
            }
            entry
        })
    }

    /// An alternate: one of several types, told apart by what JSON they are.
    pub fn alternate<T: 'static>(&mut self, of: impl FnOnce(&mut Self) -> Vec<String>) -> String {
        self.named::<T>(|schema| {
            let members: Vec<_> = of(schema).into_iter().map(|name| json!({"type": name})).collect();
            json!({"members": members, "meta-type": "alternate"})
        })
    }

    /// The type that stands for `T`, described by `entry` where it is not yet: it may refer to itself.
    fn named<T: 'static>(&mut self, entry: impl FnOnce(&mut Self) -> Value) -> String {
        if let Some(name) = self.names.get(&TypeId::of::<T>()) {
            return name.clone();
        }
        let name = self.names.len().to_string();
        self.names.insert(TypeId::of::<T>(), name.clone());
        let place = self.reserve();
        let mut entry = entry(self);
        entry["name"] = json!(name);
        self.entries[place] = entry;
        name
    }

    fn reserve(&mut self) -> usize {
        self.entries.push(Value::Null);
        self.entries.len() - 1
    }
}

impl Member {
    fn entry(&self) -> Value {
        let mut entry = Map::from_iter([("name".to_owned(), json!(self.name))]);
        if self.optional {
            entry.insert("default".to_owned(), Value::Null);
        }
        entry.insert("type".to_owned(), json!(self.type_name));
        if !self.features.is_empty() {
            entry.insert("features".to_owned(), json!(self.features));
        }
        Value::Object(entry)
    }
}
