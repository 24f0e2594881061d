//! As much of a QMP client as measuring needs: one command after another.

use serde_json::{Value, json};
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;

/// A connection to a monitor.
pub(super) struct Qmp {
    stream: BufReader<UnixStream>,
    /// Events that came before answers.
    events: Vec<Value>,
}

impl Qmp {
    /// Connects to the monitor on `socket`.
    pub(super) fn connect(socket: &Path) -> Result<Self, String> {
        let stream = UnixStream::connect(socket).map_err(|error| format!("{}: {error}", socket.display()))?;
        let mut qmp = Self { stream: BufReader::new(stream), events: Vec::new() };
        qmp.receive()?;
        qmp.execute("qmp_capabilities", json!({}))?;
        Ok(qmp)
    }

    /// Carries a command out; answers what it returned.
    pub(super) fn execute(&mut self, command: &str, arguments: Value) -> Result<Value, String> {
        let line = format!("{}\n", json!({ "execute": command, "arguments": arguments }));
        self.stream.get_mut().write_all(line.as_bytes()).map_err(|error| format!("{command}: {error}"))?;
        loop {
            let mut said = self.receive()?;
            if let Some(answer) = said.get_mut("return") {
                return Ok(answer.take());
            }
            if let Some(error) = said.get("error") {
                return Err(format!(
                    "{command}: {}",
                    error["desc"].as_str().unwrap_or("refused without a word")
                ));
            }
            self.events.push(said);
        }
    }

    /// Waits for the event `name`, unless it has come already; answers its data.
    pub(super) fn event(&mut self, name: &str) -> Result<Value, String> {
        loop {
            let said = match self.events.pop() {
                Some(said) => said,
                None => self.receive()?,
            };
            if said["event"] == name {
                return Ok(said["data"].clone());
            }
        }
    }

    fn receive(&mut self) -> Result<Value, String> {
        let mut line = String::new();
        match self.stream.read_line(&mut line) {
            Ok(0) => Err("the monitor has gone".to_owned()),
            Ok(_) => serde_json::from_str(&line).map_err(|error| format!("{error} in: {line}")),
            Err(error) => Err(error.to_string()),
        }
    }
}
