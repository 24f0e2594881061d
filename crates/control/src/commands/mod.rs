//! The commands, one file per group. A group has a function that adds its commands and events to a table.

mod exports;
mod jobs;
pub mod monitor;
mod nodes;
mod objects;
mod snapshots;

use std::sync::Arc;

use engine::Engine;

use crate::control::Ending;
use crate::table::Table;

/// The commands of `qemu-storage-daemon` as far as they are there, and what `quit` asks.
pub fn standard(engine: &Arc<Engine>) -> (Table, Ending) {
    let (mut table, ending) = (Table::new(), Ending::default());
    monitor::add(&mut table, engine, &ending);
    nodes::add(&mut table, engine);
    exports::add(&mut table, engine);
    jobs::add(&mut table, engine);
    objects::add(&mut table, engine);
    snapshots::add(&mut table, engine);
    (table, ending)
}
