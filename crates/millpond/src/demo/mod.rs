//! `millpond demo`: the main job on real input, in several kinds of processes, measured and verified.
//!
//! | process | does | file |
//! |---|---|---|
//! | repository | serves the image behind a simulated link | `repository`, `link` |
//! | host | a pond: the cache and the readers' clones; killed once in between | `host` |
//! | the demo | makes the image, starts the others, reads, compares, reports | `story`, `readers`, `report` |
//! | a machine (`--boot`) | is a reader: QEMU, booted from its clone | `machine` |
//!
//! Invariants: nothing is left behind, however it ends; what a reader sees is compared with what the image is known to
//! hold, never with what the cache says; the other processes end when this one does.

mod alarm;
mod args;
mod filling;
mod full_copy;
mod host;
mod image;
mod kept;
mod latency;
mod link;
mod live;
mod machine;
mod process;
mod reader;
mod readers;
mod report;
mod repository;
mod restart;
mod sabotage;
mod scratch;
mod source;
mod story;
mod sweep;
mod worker;
mod workload;

use std::sync::Arc;

use block::{BlockError, ErrorKind, Result};
use io::real::RealWorld;
use io::select::{Either, race};
use serde_json::Value;

use crate::{output, service};

pub(crate) use args::Args;

/// Runs the demo, or one of its processes.
pub(crate) fn run(args: Args) -> Result<()> {
    args.check()?;
    let world = RealWorld::new();
    match &args.role {
        Some(role) => service::run(&world.clone(), play(Arc::new(world), role))?,
        None => service::run(&world, show(&world, &args))?,
    }
}

/// A process of a demo.
async fn play(world: Arc<RealWorld>, role: &str) -> Result<()> {
    let role: Value = serde_json::from_str(role)
        .map_err(|e| BlockError::caused(ErrorKind::Invalid, "option '--role' is no JSON", e))?;
    let parent = process::Parent::listen()?;
    let outcome = match role["role"].as_str() {
        Some("repository") => repository::run(world, repository::Role::from_json(&role), parent).await,
        Some("host") => host::run(world, host::Role::from_json(&role), parent).await,
        _ => Err(BlockError::new(ErrorKind::Invalid, "option '--role': no such role")),
    };
    if let Err(error) = &outcome {
        process::tell(&serde_json::json!({ "failed": error.to_string() }));
    }
    outcome
}

async fn show(world: &RealWorld, args: &Args) -> Result<()> {
    let mut signals = service::signals()?;
    let live = live::Live::new();
    // Dropping the story ends the processes and removes the directory.
    let report = match race(story::tell(world, args, &live), signals.next()).await {
        Either::First(report) => report?,
        Either::Second(_) => return Err(BlockError::new(ErrorKind::Cancelled, "the demo was interrupted")),
    };
    drop(live);
    let text = if args.json { format!("{:#}\n", report.to_json()) } else { format!("{report}") };
    // If nobody reads it: the status says it too.
    output::print(text);
    let problems = report.problems();
    match problems.is_empty() {
        true => Ok(()),
        false => Err(BlockError::new(ErrorKind::Io, format!("the demo has failed: {}", problems.join("; ")))),
    }
}
