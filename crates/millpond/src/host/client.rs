//! A QMP client for one command after another. Blocks: a command line has nothing else to do.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;

use block::{BlockError, ErrorKind, Result};
use serde_json::{Value, json};

/// A connection to the daemon.
pub(super) struct Client {
    stream: BufReader<UnixStream>,
}

impl Client {
    /// Connects; `None` when no daemon listens there.
    pub(super) fn connect(control: &Path) -> Result<Option<Self>> {
        use std::io::ErrorKind as K;
        let stream = match UnixStream::connect(control) {
            Ok(stream) => stream,
            Err(error) if matches!(error.kind(), K::NotFound | K::ConnectionRefused) => return Ok(None),
            Err(error) => {
                let context = format!("cannot reach the daemon at '{}'", control.display());
                return Err(BlockError::system(context, error));
            }
        };
        let mut client = Self { stream: BufReader::new(stream) };
        client.receive()?;
        client.execute("qmp_capabilities", json!({}))?;
        Ok(Some(client))
    }

    /// Carries a command out, and answers what it returned.
    pub(super) fn execute(&mut self, command: &str, arguments: Value) -> Result<Value> {
        let mut line = json!({ "execute": command, "arguments": arguments }).to_string();
        line.push('\n');
        self.stream.get_mut().write_all(line.as_bytes()).map_err(lost)?;
        loop {
            let mut answer = self.receive()?;
            if let Some(value) = answer.get_mut("return") {
                return Ok(value.take());
            }
            if let Some(error) = answer.get("error") {
                let text = error["desc"].as_str().unwrap_or("the daemon refused without a word");
                return Err(BlockError::new(ErrorKind::Invalid, text));
            }
        }
    }

    fn receive(&mut self) -> Result<Value> {
        let mut line = String::new();
        match self.stream.read_line(&mut line) {
            Ok(0) => Err(lost(std::io::ErrorKind::UnexpectedEof.into())),
            Ok(_) => serde_json::from_str(&line).map_err(|e| lost(e.into())),
            Err(error) => Err(lost(error)),
        }
    }
}

fn lost(error: std::io::Error) -> BlockError {
    BlockError::system("the daemon has gone while it was asked: look at 'millpond list'", error)
}
