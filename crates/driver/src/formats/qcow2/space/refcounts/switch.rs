//! Other refcounts take the place of those in memory: the header points to another table.
//!
//! Invariant: what the old tables referred to is handed out only when whoever may still read it has left.

use flow::sabotage::{self, Rule};

use super::super::Run;
use super::super::claims::Claims;
use super::super::structures::Structures;
use super::{Place, Refcounts};

/// Where everything is after a switch.
pub(crate) struct NewTables {
    /// Entries of the refcount table, and its place.
    pub(crate) table: Vec<u64>,
    pub(crate) place: Place,
    /// The active L1 table.
    pub(crate) l1: Run,
    /// No new cluster lies here or behind.
    pub(crate) end: u64,
    /// Where nothing else is written.
    pub(crate) structures: Structures,
}

impl Refcounts {
    /// The header points to other tables, which are all on disk, as was everything here. What is in front of the end
    /// stays as it is until [`Refcounts::look_again`].
    pub(crate) fn switch(&mut self, tables: NewTables) {
        let NewTables { table, place, l1, end, structures } = tables;
        (self.table, self.table_dirty) = (table, 0..0);
        (self.place, self.durable_place, self.l1) = (place, place, l1);
        self.overtaken.clear();
        // What the old tables called their own may be free now: whoever loads the new ones says so again.
        if !sabotage::broken(Rule::MovedTables) {
            (self.structures, self.claims) = (structures, Claims::default());
        }
        self.blocks.clear();
        self.dirty = 0;
        self.free.clear();
        self.packed = None;
        self.untouched = self.untouched.max(end);
        self.frontier = self.untouched;
        self.aside = Some(self.untouched);
    }

    /// Somebody has written to clusters in front of this one without taking them.
    pub(crate) fn soil(&mut self, end: u64) {
        self.untouched = self.untouched.max(end);
    }

    /// All clusters are looked at from now on, whatever was left alone; not where those that were freed rest.
    pub(crate) fn look_again(&mut self) {
        self.aside = None;
        if self.resting.is_none() {
            self.free.clear();
            self.frontier = 0;
        }
    }

    /// No cluster in front of this one may be taken.
    pub(crate) fn search_from(&self) -> u64 {
        self.aside.unwrap_or(0)
    }

    /// How many blocks differ from the file.
    pub(crate) fn dirty_blocks(&self) -> usize {
        self.dirty
    }

    /// Most blocks that are kept.
    pub(crate) fn blocks_max(&self) -> usize {
        self.blocks_max
    }
}
