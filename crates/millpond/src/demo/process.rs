//! The processes of a demo and how they talk: JSON objects, one a line, commands in and events out.
//!
//! Invariants: a child ends when its standard input does, so none outlives the parent, however that ends; the parent
//! kills its children when it lets go of them.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::process::CommandExt;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::time::Duration;

use block::{BlockError, ErrorKind, Result};
use io::sync::mpsc;
use serde_json::{Value, json};

use crate::output;

/// The event that tells of progress; it may come at any time.
pub(super) const PROGRESS: &str = "filling";

/// A process seen from its parent.
pub(super) struct Process {
    name: &'static str,
    child: Child,
    commands: ChildStdin,
    events: mpsc::UnboundedReceiver<Value>,
}

impl Process {
    /// Starts this program again in the role that `role` describes; `role.role` is its name.
    pub(super) fn start(name: &'static str, role: &Value) -> Result<Self> {
        let failed = |e| BlockError::system(format!("cannot start the {name} process"), e);
        let program = std::env::current_exe().map_err(failed)?;
        let mut command = Command::new(program);
        // In a group of its own: the terminal's Ctrl-C is for the parent, which then ends us.
        command.args(["demo", "--role", &role.to_string()]).process_group(0);
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().map_err(failed)?;
        let (Some(commands), Some(output)) = (child.stdin.take(), child.stdout.take()) else {
            return Err(BlockError::new(ErrorKind::Io, format!("the {name} process has no pipes")));
        };
        let (told, events) = mpsc::unbounded_channel();
        read_lines(name, output, told).map_err(failed)?;
        Ok(Self { name, child, commands, events })
    }

    /// Gives a command.
    pub(super) fn tell(&mut self, command: &str) -> Result<()> {
        let line = format!("{}\n", json!({ "do": command }));
        let told = self.commands.write_all(line.as_bytes());
        told.map_err(|e| BlockError::system(format!("the {} process takes no commands", self.name), e))
    }

    /// The next event, which must come within `limit` and must be no failure.
    pub(super) async fn event(&mut self, limit: Duration) -> Result<Value> {
        let name = self.name;
        let Some(event) = io::timeout_at(io::now().after(limit), self.events.recv()).await else {
            let context = format!("the {name} process said nothing for {} s", limit.as_secs());
            return Err(BlockError::new(ErrorKind::TimedOut, context));
        };
        let ended = || BlockError::new(ErrorKind::Disconnected, format!("the {name} process has ended"));
        let event = event.ok_or_else(ended)?;
        match event["failed"].as_str() {
            Some(error) => Err(BlockError::new(ErrorKind::Io, format!("{name}: {error}"))),
            None => Ok(event),
        }
    }

    /// The next event that does not just tell of progress, which must be `kind`.
    pub(super) async fn expect(&mut self, kind: &str, limit: Duration) -> Result<Value> {
        let mut event = self.event(limit).await?;
        while event["event"] == PROGRESS {
            event = self.event(limit).await?;
        }
        if event["event"] == kind {
            return Ok(event);
        }
        let context = format!("the {} process said {event} instead of '{kind}'", self.name);
        Err(BlockError::new(ErrorKind::Protocol, context))
    }

    /// Kills it (SIGKILL). Ready when it is gone.
    pub(super) fn kill(self) {
        drop(self);
    }

    /// Waits until it has ended by itself, which must be well.
    pub(super) async fn ended(mut self, limit: Duration) -> Result<()> {
        let (name, deadline) = (self.name, io::now().after(limit));
        loop {
            match io::timeout_at(deadline, self.events.recv()).await {
                Some(Some(event)) => match event["failed"].as_str() {
                    Some(error) => return Err(BlockError::new(ErrorKind::Io, format!("{name}: {error}"))),
                    None => continue,
                },
                Some(None) => break,
                None => {
                    let context = format!("the {name} process did not end within {} s", limit.as_secs());
                    return Err(BlockError::new(ErrorKind::TimedOut, context));
                }
            }
        }
        // Its output ended because it did.
        match self.child.wait() {
            Ok(status) if status.success() => Ok(()),
            Ok(status) => Err(BlockError::new(ErrorKind::Io, format!("the {name} process: {status}"))),
            Err(error) => Err(BlockError::system(format!("cannot wait for the {name} process"), error)),
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Ended already is just as well.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The parent seen from a child.
pub(super) struct Parent(mpsc::UnboundedReceiver<Value>);

impl Parent {
    /// Begins to listen at standard input.
    pub(super) fn listen() -> Result<Self> {
        let (told, commands) = mpsc::unbounded_channel();
        let failed = |e| BlockError::system("cannot listen at standard input", e);
        read_lines("commands", std::io::stdin(), told).map_err(failed)?;
        Ok(Self(commands))
    }

    /// The next command, under `do`; `None` when the parent is gone.
    pub(super) async fn command(&mut self) -> Option<Value> {
        self.0.recv().await
    }
}

/// Tells the parent of an event.
pub(super) fn tell(event: &Value) {
    // A parent that is gone is noticed at standard input.
    output::line(event);
}

fn read_lines(
    name: &str,
    from: impl std::io::Read + Send + 'static,
    told: mpsc::UnboundedSender<Value>,
) -> std::io::Result<()> {
    let reader = std::thread::Builder::new().name(name.to_owned());
    reader.spawn(move || {
        for line in BufReader::new(from).lines().map_while(|line| line.ok()) {
            let event = serde_json::from_str(&line).unwrap_or_else(|_| json!({ "failed": line }));
            if told.send(event).is_err() {
                return;
            }
        }
    })?;
    Ok(())
}
