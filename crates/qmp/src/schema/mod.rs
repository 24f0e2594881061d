//! Types that parse arguments, write answers and describe themselves for `query-qmp-schema`.
//!
//! [`structure!`](crate::structure), [`enumeration!`](crate::enumeration), [`union!`](crate::union) and
//! [`alternate!`](crate::alternate) declare a type once: the fields that are listed are those that are parsed, written
//! and described.
//!
//! Invariants: what is refused is named by its whole path (`addr.data.path`), in QEMU's words; every member that is
//! given and not declared is refused.

mod given;
mod introspect;
mod macros;
mod primitives;
#[cfg(test)]
mod tests;

pub use given::{Form, Given, Members, Refusal};
pub use introspect::{Builder, Member};
pub use primitives::Nothing;

use serde_json::{Map, Value};

/// A type of arguments or answers.
pub trait Type: Sized + 'static {
    /// Its name in the schema; describes it there first, where it is not a builtin one.
    fn describe(schema: &mut Builder) -> String;

    /// Reads it.
    fn parse(given: Given) -> Result<Self, Refusal>;

    /// Writes it.
    fn show(&self) -> Value;
}

/// An object type: its members may be read from, and written into, an object that has others too.
pub trait Object: Type {
    /// Its members.
    fn members(schema: &mut Builder) -> Vec<Member>;

    /// Its variants, if it is a union: the tag's name, and the name of the object type of each value of it.
    fn variants(_schema: &mut Builder) -> Option<(&'static str, Vec<(&'static str, String)>)> {
        None
    }

    /// Takes its members out.
    fn take(from: &mut Members) -> Result<Self, Refusal>;

    /// Puts its members in.
    fn put(&self, into: &mut Map<String, Value>);
}

/// [`Type::parse`] of an object with its own members and no others.
pub fn parse_object<T: Object>(given: Given) -> Result<T, Refusal> {
    let mut members = given.members()?;
    let parsed = T::take(&mut members)?;
    members.finish().map(|()| parsed)
}

/// [`Type::show`] of an object.
pub fn show_object(object: &impl Object) -> Value {
    let mut map = Map::new();
    object.put(&mut map);
    Value::Object(map)
}

/// What a member of an object may be: a type, or `Option` of one where it may be left out.
pub trait Field: Sized {
    /// As [`Type::describe`].
    fn describe(schema: &mut Builder) -> String;
    /// Whether it may be left out.
    const OPTIONAL: bool;
    /// Takes it out.
    fn take(from: &mut Members, name: &str) -> Result<Self, Refusal>;
    /// Puts it in, where there is something to put.
    fn put(&self, name: &str, into: &mut Map<String, Value>);
}

impl<T: Type> Field for T {
    fn describe(schema: &mut Builder) -> String {
        T::describe(schema)
    }
    const OPTIONAL: bool = false;
    fn take(from: &mut Members, name: &str) -> Result<Self, Refusal> {
        T::parse(from.required(name)?)
    }
    fn put(&self, name: &str, into: &mut Map<String, Value>) {
        into.insert(name.to_owned(), self.show());
    }
}

impl<T: Type> Field for Option<T> {
    fn describe(schema: &mut Builder) -> String {
        T::describe(schema)
    }
    const OPTIONAL: bool = true;
    fn take(from: &mut Members, name: &str) -> Result<Self, Refusal> {
        from.optional(name).map(T::parse).transpose()
    }
    fn put(&self, name: &str, into: &mut Map<String, Value>) {
        into.extend(self.as_ref().map(|value| (name.to_owned(), value.show())));
    }
}

/// Reads `T` from `arguments`: JSON where values have their types, or what a command line gave, where all are text.
pub fn parse<T: Object>(arguments: Map<String, Value>, form: Form) -> Result<T, Refusal> {
    T::parse(Given::root(Value::Object(arguments), form))
}
