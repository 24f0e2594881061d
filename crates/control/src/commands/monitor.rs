//! About the monitor itself: capabilities, version, commands, schema, quit.

use std::cell::OnceCell;
use std::rc::Rc;
use std::sync::Arc;

use engine::Engine;
use qmp::schema::{Builder, Given, Nothing, Refusal, Type};
use qmp::{Error, ErrorClass};
use serde_json::Value;

use crate::control::{Ending, version};
use crate::failure::Failure;
use crate::table::{Listing, Table};
use crate::types::schema_info::SchemaInfo;

/// The first command of a client.
pub(crate) const CAPABILITIES: &str = "qmp_capabilities";
/// The last one.
pub(crate) const QUIT: &str = "quit";

qmp::enumeration! {
    /// What client and server may agree upon.
    pub enum Capability {
        /// Commands out of band. There are none, so nothing is done with it.
        Oob = "oob",
    }
}

qmp::structure! {
    /// Arguments of `qmp_capabilities`.
    pub struct Capabilities {
        /// What the client wants of what the greeting offers.
        "enable" => enable: Option<Vec<Capability>>,
    }
}

qmp::structure! {
    /// Three numbers.
    pub struct Triple {
        /// The first one.
        "major" => major: i64,
        /// The second one.
        "minor" => minor: i64,
        /// The third one.
        "micro" => micro: i64,
    }
}

qmp::structure! {
    /// What `query-version` answers.
    pub struct VersionInfo {
        /// The QEMU whose QMP this is.
        "qemu" => qemu: Triple,
        /// This program.
        "package" => package: String,
    }
}

qmp::structure! {
    /// A command, as `query-commands` lists it.
    pub struct CommandInfo {
        /// Its name.
        "name" => name: String,
    }
}

pub(super) fn add(table: &mut Table, engine: &Arc<Engine>, ending: &Ending) {
    table.command(CAPABILITIES, |_: Capabilities| async {
        let desc = "Capabilities negotiation is already complete, command ignored";
        Err::<Nothing, _>(Failure(Error::new(ErrorClass::CommandNotFound, desc)))
    });
    table.command("query-version", |_: Nothing| async { Ok(version_info()) });
    let listing = table.listing();
    table.command("query-commands", move |_: Nothing| {
        let names = listed(&listing, |listing| listing.names.clone());
        let info = |name: &str| CommandInfo { name: name.to_owned() };
        async move { Ok(names.into_iter().map(info).collect::<Vec<_>>()) }
    });
    let listing = table.listing();
    table.command("query-qmp-schema", move |_: Nothing| {
        let schema = listed(&listing, |listing| listing.schema.clone());
        async move { Ok(Schema(schema)) }
    });
    let (engine, ending) = (engine.clone(), ending.clone());
    table.command(QUIT, move |_: Nothing| {
        let (engine, ending) = (engine.clone(), ending.clone());
        async move {
            // Each is told of; whatever fails, the program ends.
            let closed = engine.called_off(engine.close_exports()).await;
            engine.called_off(engine.jobs().end()).await;
            ending.ask();
            closed?;
            Ok(Nothing)
        }
    });
}

fn version_info() -> VersionInfo {
    let version = version();
    let [major, minor, micro] = version.qemu.map(i64::from);
    VersionInfo { qemu: Triple { major, minor, micro }, package: version.package }
}

/// What is known of a table that is complete, as it is when clients come.
fn listed<T: Default>(listing: &Rc<OnceCell<Listing>>, what: impl FnOnce(&Listing) -> T) -> T {
    listing.get().map(what).unwrap_or_default()
}

/// What `query-qmp-schema` answers: made when the table was complete, described by the type of its entries.
struct Schema(Value);

impl Type for Schema {
    fn describe(schema: &mut Builder) -> String {
        Vec::<SchemaInfo>::describe(schema)
    }
    fn parse(given: Given) -> Result<Self, Refusal> {
        Ok(Self(given.value().clone()))
    }
    fn show(&self) -> Value {
        self.0.clone()
    }
}
