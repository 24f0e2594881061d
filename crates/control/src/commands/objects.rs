//! Objects: add, delete.

use std::sync::Arc;

use engine::Engine;
use qmp::schema::Nothing;

use crate::table::Table;
use crate::types::object_options::ObjectArguments;

qmp::structure! {
    /// Arguments of `object-del`.
    pub struct Delete {
        /// Which object.
        "id" => id: String,
    }
}

pub(super) fn add(table: &mut Table, engine: &Arc<Engine>) {
    let of = engine.clone();
    table.command("object-add", move |ObjectArguments(options): ObjectArguments| {
        let engine = of.clone();
        async move {
            engine.add_object(options).await?;
            Ok(Nothing)
        }
    });
    let of = engine.clone();
    table.command("object-del", move |arguments: Delete| {
        let engine = of.clone();
        async move {
            engine.delete_object(&arguments.id)?;
            Ok(Nothing)
        }
    });
}
