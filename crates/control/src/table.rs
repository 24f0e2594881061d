//! The table of commands and events.
//!
//! Invariant: a command is parsed, answered and described by the same two types, an event by one.

use std::cell::OnceCell;
use std::collections::BTreeMap;
use std::rc::Rc;

use engine::Event;
use io::LocalFut;
use qmp::schema::{Builder, Form, Given, Object, Type};
use qmp::{Error, ErrorClass};
use serde_json::{Map, Value};

use crate::failure::Failure;

/// Carries a command out.
type Run = Box<dyn Fn(Given) -> LocalFut<'static, Result<Value, Failure>>>;
/// What an event of the engine says, if it is the one.
type Tell = Box<dyn Fn(&Event) -> Option<Value>>;

/// Commands and events by name.
#[derive(Default)]
pub struct Table {
    commands: BTreeMap<&'static str, Run>,
    events: Vec<(&'static str, Tell)>,
    schema: Builder,
    listing: Rc<OnceCell<Listing>>,
}

/// What is asked about the table itself, once it is complete.
pub(crate) struct Listing {
    pub(crate) names: Vec<&'static str>,
    pub(crate) schema: Value,
}

impl Table {
    /// An empty one.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a command: the type of its arguments, that of its answer, and what it does. A name that is taken is a
    /// mistake of whoever wires the program: the first one stays.
    pub fn command<A, R, F>(&mut self, name: &'static str, run: impl Fn(A) -> F + 'static)
    where
        A: Object,
        R: Type,
        F: Future<Output = Result<R, Failure>> + 'static,
    {
        self.command_with(name, &[], run);
    }

    /// The same with features that the schema shows (`deprecated`, `unstable`).
    pub fn command_with<A, R, F>(
        &mut self,
        name: &'static str,
        features: &[&str],
        run: impl Fn(A) -> F + 'static,
    ) where
        A: Object,
        R: Type,
        F: Future<Output = Result<R, Failure>> + 'static,
    {
        debug_assert!(!self.commands.contains_key(name), "command '{name}' is there already");
        if self.commands.contains_key(name) {
            return;
        }
        self.schema.command::<A, R>(name, features);
        let run: Run = Box::new(move |given| match A::parse(given) {
            Ok(arguments) => {
                let running = run(arguments);
                Box::pin(async move { running.await.map(|answer| answer.show()) })
            }
            Err(refusal) => Box::pin(async move { Err(refusal.into()) }),
        });
        self.commands.insert(name, run);
    }

    /// Adds an event: the type of its data, and which events of the engine it stands for.
    pub fn event<D: Object>(&mut self, name: &'static str, of: impl Fn(&Event) -> Option<D> + 'static) {
        self.schema.event::<D>(name);
        self.events.push((name, Box::new(move |event| of(event).map(|data| data.show()))));
    }

    /// What will be known about the table when it is complete.
    pub(crate) fn listing(&self) -> Rc<OnceCell<Listing>> {
        self.listing.clone()
    }

    /// The table is complete.
    pub(crate) fn seal(&mut self) {
        let names = self.commands.keys().copied().collect();
        let schema = std::mem::take(&mut self.schema).finish();
        // Sealed once: it is moved into its owner then.
        let _ = self.listing.set(Listing { names, schema });
    }

    /// Begins a command.
    pub(crate) fn run(
        &self,
        name: &str,
        arguments: Map<String, Value>,
        form: Form,
    ) -> Result<LocalFut<'static, Result<Value, Failure>>, Error> {
        let given = Given::root(Value::Object(arguments), form);
        self.commands.get(name).map(|run| run(given)).ok_or_else(|| unknown(name))
    }

    /// Whether there is a command called `name`.
    pub(crate) fn knows(&self, name: &str) -> bool {
        self.commands.contains_key(name)
    }

    /// What clients are told of an event, under which name.
    pub(crate) fn tell<'t>(&'t self, event: &'t Event) -> impl Iterator<Item = (&'static str, Value)> + 't {
        self.events.iter().filter_map(move |(name, tell)| tell(event).map(|data| (*name, data)))
    }
}

pub(crate) fn unknown(name: &str) -> Error {
    Error::new(ErrorClass::CommandNotFound, format!("The command {name} has not been found"))
}
