//! One file, one driver: protocols, formats, filters, and the registry that lists them.
//!
//! A driver is opened in two steps. Its options name children (`file`, `backing`); whoever opens it (the engine)
//! opens those first and hands them in as views. [`Driver::open`] may read them (a header) and answers the body
//! of the node, and the children that it learnt of only then (a backing file named in the header).
//!
//! Invariants: drivers know neither the graph nor each other; they reach their children only through
//! [`flow::Next`] (or, while opening, through the views in [`OpenContext`]); they check neither bounds nor
//! alignment, the core has done so.

mod context;
pub mod filters;
pub mod formats;
pub mod labels;
pub mod numbers;
pub mod options;
pub mod protocols;
mod registry;
mod release;
mod wording;

pub use context::{Kept, OpenContext, Opened, Reference, Wanted};
pub use registry::{DRIVERS, Driver, Kind, find};
pub use wording::Wording;
