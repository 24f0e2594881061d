//! Long work as plain async fns: what a job may do when, how fast, and what an error does to it.
//!
//! A [`Job`] is what people and programs see of one: its state, its progress, and the verbs that the tables in
//! [`lifecycle`] allow. What it does is its [`Work`], one file per kind; [`run`] takes it through its life. Jobs change
//! the graph through [`House`], which the engine is.
//!
//! | kind | file |
//! |---|---|
//! | `stream` | [`stream`] |
//!
//! Invariants: a job goes only from state to state as the table says, and tells each step before the next one; whatever
//! becomes of it, it gives back what it holds before it is concluded; no verb waits for a disk or a peer.

mod course;
pub mod cut;
mod errors;
mod house;
mod job;
mod jobs;
pub mod lifecycle;
mod pace;
pub mod stream;
mod task;

pub use course::{Work, run};
pub use errors::OnError;
pub use house::House;
pub use job::{IoStatus, Job, JobInfo, JobOptions};
pub use jobs::Jobs;
pub use task::Task;
