//! Breaking one rule of the contract on purpose, so that the tests for it can be shown to fail.
//!
//! Compiled in only with the feature `sabotage`, which nothing but tests turns on; without it
//! [`broken`] is a constant `false` and costs nothing.

macro_rules! rules {
    ($($(#[$doc:meta])* $rule:ident = $name:literal,)*) => {
        /// A rule of the data path.
        #[derive(Clone, Copy, PartialEq, Eq, Debug)]
        pub enum Rule {
            $($(#[$doc])* $rule,)*
        }

        impl Rule {
            /// Every rule there is.
            pub const ALL: &'static [Self] = &[$(Self::$rule,)*];

            /// What it is called in variables of the environment (`MILLPOND_CRASH_BREAK`) and in messages.
            pub const fn name(self) -> &'static str {
                match self {
                    $(Self::$rule => $name,)*
                }
            }
        }
    };
}

rules! {
    /// A freed cluster is reused only when older guards are gone.
    Guards = "guards",
    /// A remembered mapping is used only while the generations on its path are unchanged.
    Generations = "generations",
    /// Stores, zeroing and read-modify-write hold their range.
    RangeLocks = "range-locks",
    /// Bytes are lent only where they can neither change nor be reused.
    Lending = "lending",
    /// Data and refcounts are durable before a table on disk points to them.
    DataBarrier = "data-barrier",
    /// A refcount block is durable before a table on disk relies on it.
    RefcountBarrier = "refcount-barrier",
    /// A refcount table that has moved is named durably before a table on disk relies on it.
    TableMoveBarrier = "table-move-barrier",
    /// A flush is answered when all that it covers is durable.
    LastBarrier = "last-barrier",
    /// The same where there is no table to be written: data in its place alone.
    PlainBarrier = "plain-barrier",
    /// A backing image is named durably before anybody is told so.
    NameBarrier = "name-barrier",
    /// A freed cluster is reused only when the table that dropped it is durable.
    DurableDrop = "durable-drop",
    /// What a header says of an image's content is durably cleared before the content changes.
    HeaderBarrier = "header-barrier",
    /// Data in a file of its own is durable before a table points to it.
    DataFileBarrier = "data-file-barrier",
    /// A bitmap is durably marked as in use before anything changes that it records.
    BitmapMark = "bitmap-mark",
    /// A header that points to another directory of bitmaps is durable before the clusters of the old one are reused.
    BitmapSwitch = "bitmap-switch",
    /// New tables are durable before the header points to them.
    SwitchBarrier = "switch-barrier",
    /// What an overlay holds is durable below it before the overlay drops it.
    CommitBarrier = "commit-barrier",
    /// Tables that are made anew or changed as a whole are durable before the header says so.
    TablesBarrier = "tables-barrier",
    /// What a repair has mended is durable before it writes what relies on it.
    RepairBarrier = "repair-barrier",
    /// Nothing durable refers to what is cut off the end of a file.
    CutBarrier = "cut-barrier",
    /// Where the structures of an image are is known anew when its tables have moved.
    MovedTables = "moved-tables",
}

#[cfg(feature = "sabotage")]
mod switch {
    use std::sync::atomic::{AtomicU64, Ordering};

    use super::Rule;

    /// A bit for each rule.
    static BROKEN: AtomicU64 = AtomicU64::new(0);

    /// Breaks `rule` in this process from now on.
    pub fn break_rule(rule: Rule) {
        BROKEN.fetch_or(1 << rule as u64, Ordering::SeqCst);
    }

    /// Breaks the rule of this name, and says so; panics when there is none.
    pub fn break_named(name: &str) {
        let rule = Rule::ALL.iter().find(|rule| rule.name() == name);
        break_rule(*rule.unwrap_or_else(|| panic!("no rule is called '{name}'")));
    }

    /// Whether `rule` is broken on purpose.
    pub fn broken(rule: Rule) -> bool {
        BROKEN.load(Ordering::Relaxed) >> rule as u64 & 1 != 0
    }
}

#[cfg(not(feature = "sabotage"))]
mod switch {
    /// Whether `rule` is broken on purpose: never, in this build.
    #[inline(always)]
    pub const fn broken(_rule: super::Rule) -> bool {
        false
    }
}

pub use switch::*;
