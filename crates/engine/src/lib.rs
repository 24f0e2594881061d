//! The typed verbs: add a node, edit the graph, export, fill, query. Every face is a client of these.
//!
//! The [`Engine`] ties the graph, the drivers, the exports and the objects together. Verbs that change the graph
//! open what they need first, without holding anything, and then make one edit, which is checked whole.
//!
//! Invariants: nothing here is on the data path; no verb waits for a client or a disk while it holds the graph; an
//! edit is answered when it has taken effect for every request.

mod bitmaps;
mod ending;
mod engine;
pub mod exports;
mod facts;
pub mod file_names;
mod fill;
mod full_name;
mod jobs;
pub mod keyval;
mod kinds;
mod nodes;
mod objects;
mod opening;
mod options;
pub mod partial;
mod policy;
mod reader;
mod reopening;
mod snapshots;
mod stream;

pub use block::{JobAction, JobMilestone, JobState};
pub use driver::Wording;
pub use ending::UnderWay;
pub use engine::{Engine, EngineOptions};
pub use exports::{ExportInfo, ExportRequest, Exported, NbdServer, ServerRequest};
pub use facts::{facts_json, lying_on};
pub use fill::Fill;
pub use flow::events::{Event, Events, Subscription};
pub use flow::{BitmapChange, BitmapInfo, DetectZeroes, Fact, ImageFacts, SnapshotInfo, StoredBacking};
pub use full_name::FullName;
pub use job::{IoStatus, Job, JobInfo, JobOptions, Jobs, OnError};
pub use nodes::NodeInfo;
pub use options::{ChildOptions, NodeOptions};
pub use policy::ImagePolicy;
pub use reader::Reader;
pub use stream::{StreamBase, StreamRequest};
