//! What every face does that stays: going to the background, being told to end, its process id, its log.

use std::future::Future;
use std::path::Path;
use std::process;
use std::sync::OnceLock;

use block::{BlockError, Result};
use engine::Event;
use io::real::RealWorld;
use io::real::process::{Forked, PidFile, Readiness, Signal, Signals, fork};

use crate::{line, output, remedies};

/// Goes to the background if that is `wanted`: from here on this is the child, and the parent has ended with what it
/// told. Before any thread is started.
pub(crate) fn to_background(wanted: bool) -> Result<Option<Readiness>> {
    if !wanted {
        return Ok(None);
    }
    match fork().map_err(no_background)? {
        Forked::Parent { status } => process::exit(status),
        Forked::Child(readiness) => Ok(Some(readiness)),
    }
}

/// Lets whoever waits for the background process go: it is up.
pub(crate) fn up(readiness: Option<Readiness>) -> Result<()> {
    readiness.map_or(Ok(()), |readiness| readiness.up().map_err(no_background))
}

fn no_background(error: std::io::Error) -> BlockError {
    BlockError::system("cannot go to the background", error)
}

/// The signals that end a face in good order. SIGTERM always does; the others stay ignored where whoever has started it
/// saw to that (nohup).
pub(crate) fn signals() -> Result<Signals> {
    let ending = [Signal::Terminate, Signal::Interrupt, Signal::HangUp];
    watch(&ending, |signal| signal == Signal::Terminate || !signal.is_ignored())
}

/// Watches those of `signals` that are to be heard.
pub(crate) fn watch(signals: &[Signal], is_heard: impl Fn(Signal) -> bool) -> Result<Signals> {
    let heard: Vec<Signal> = signals.iter().copied().filter(|signal| is_heard(*signal)).collect();
    Signals::watch(&heard).map_err(|error| BlockError::system("cannot watch signals", error))
}

/// Runs a face to its end.
pub(crate) fn run<T>(world: &RealWorld, face: impl Future<Output = T>) -> Result<T> {
    let cannot = "cannot start, which takes a few open files (ulimit -n)";
    world.enter(face).map_err(|error| BlockError::system(cannot, error))
}

/// The file with the process id, if there is one: it is held until the process ends.
static PID_FILE: OnceLock<PidFile> = OnceLock::new();

/// Writes the process id to `path`, which `option` has named.
pub(crate) fn write_pid(path: &Path, option: &str) -> Result<()> {
    let file = PidFile::write(path).map_err(|error| {
        let context = format!("cannot write the process id to '{}' ({option})", path.display());
        remedies::of_pid_file(BlockError::system(context, error))
    })?;
    // A process writes one.
    let _ = PID_FILE.set(file);
    Ok(())
}

/// Removes the file with the process id, if one was written.
pub(crate) fn remove_pid() {
    if let Some(file) = PID_FILE.get() {
        file.remove();
    }
}

/// Most repairs of an image that are told one by one.
const REPAIRS_TOLD: usize = 8;

/// Tells the operator of an event of clients or nodes.
pub(crate) fn tell(event: &Event) {
    let line = match event {
        Event::ClientConnected => "a client has connected".to_owned(),
        Event::ClientGone { error: Some(error), .. } => format!("a client has left: {error}"),
        Event::ClientGone { negotiated: true, .. } => "a client has left".to_owned(),
        Event::ClientGone { .. } => "a client has left without having opened the export".to_owned(),
        Event::RequestFailed { error } => format!("a request has failed: {error}"),
        Event::NodeOpened { node, how } => format!("node '{node}': {how}"),
        Event::SourceLost { node, error } => format!("node '{node}' has lost its source: {error}"),
        Event::BackingChanged { node, error } => format!("warning: node '{node}': {error}"),
        Event::ImageRepaired { node, lines } => {
            let (few, more) = lines.split_at(lines.len().min(REPAIRS_TOLD));
            let more = if more.is_empty() { String::new() } else { format!("; and {} more", more.len()) };
            format!("node '{node}': its image was not closed, and is repaired: {}{more}", few.join("; "))
        }
        Event::ImageCorrupt { node, message, fatal: true, .. } => {
            format!(
                "node '{node}': {message}; its image is marked as corrupt and not written any more: 'millpond img check -r all' repairs it"
            )
        }
        Event::ImageCorrupt { node, message, .. } => {
            format!("node '{node}': its image is corrupt: {message}")
        }
        Event::NodeGivenUp { node, error } => format!("warning: node '{node}' was given up: {error}"),
        Event::SourceBack { node } => format!("node '{node}' has its source again"),
        _ => return,
    };
    output::tell_line(line::escaped(line));
}
