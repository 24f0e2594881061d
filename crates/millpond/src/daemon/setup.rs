//! From options to QMP commands.

use std::collections::BTreeMap;
use std::sync::Arc;

use block::{BlockError, ErrorKind, Result};
use control::{Bound, Control};
use engine::{Engine, keyval};
use io::Address;
use qmp::schema::Form;
use serde_json::{Map, Value, json};

use super::args::Step;
use super::remedy;
use crate::remedies;

/// A daemon that is being set up.
pub(super) struct Setup<'d> {
    engine: &'d Arc<Engine>,
    control: &'d Control,
    /// Where monitors may be put, by id.
    chardevs: BTreeMap<String, Address>,
    /// Monitors: their clients find all that the options say, whatever comes first.
    monitors: Vec<Bound>,
}

impl<'d> Setup<'d> {
    pub(super) fn new(engine: &'d Arc<Engine>, control: &'d Control) -> Self {
        Self { engine, control, chardevs: BTreeMap::new(), monitors: Vec::new() }
    }

    /// Carries all options out; an error names the one that failed.
    pub(super) async fn run(mut self, steps: &[Step]) -> Result<()> {
        for step in steps {
            let (option, text, outcome) = match step {
                Step::Node(text) => ("--blockdev", text, self.node(text).await.map_err(remedy::of_node)),
                Step::Export(text) => ("--export", text, self.export(text).await.map_err(remedy::of_export)),
                Step::NbdServer(text) => ("--nbd-server", text, self.nbd_server(text).await),
                Step::Chardev(text) => ("--chardev", text, self.chardev(text).map_err(remedy::of_monitor)),
                Step::Monitor(text) => ("--monitor", text, self.monitor(text)),
                Step::Object(text) => {
                    self.object(text).await.map_err(|error| remedies::of_object(error, text))?;
                    continue;
                }
            };
            outcome.map_err(|error| named(option, text, error))?;
        }
        self.monitors.into_iter().for_each(Bound::serve);
        Ok(())
    }

    async fn node(&self, text: &str) -> Result<()> {
        let (map, form) = read(text, "driver")?;
        match form {
            Form::Json => self.execute("blockdev-add", map, form).await,
            // Text stands for numbers and switches as the driver sees fit.
            Form::Text if map.contains_key("node-name") => self.engine.add_node(map).await.map(drop),
            Form::Text => Err(invalid("'node-name' must be specified for the root node")),
        }
    }

    async fn export(&self, text: &str) -> Result<()> {
        let (map, form) = read(text, "type")?;
        self.execute("block-export-add", map, form).await
    }

    async fn nbd_server(&self, text: &str) -> Result<()> {
        let (mut map, form) = read(text, "addr.type")?;
        let host =
            (map.get("addr").and_then(|addr| addr["type"].as_str()) == Some("inet")).then_some("addr.host");
        // Flat here, with a `data` member in QMP.
        if let Some(Value::Object(mut flat)) = map.remove("addr") {
            let kind = flat.remove("type").unwrap_or(Value::Null);
            map.insert("addr".to_owned(), json!({"type": kind, "data": flat}));
        }
        let started = self.execute("nbd-server-start", map, form).await;
        started.map_err(|error| remedies::of_listening(error, host))
    }

    async fn object(&self, text: &str) -> Result<()> {
        let (map, form) = read(text, "qom-type")?;
        match form {
            Form::Json => self.execute("object-add", map, form).await,
            Form::Text => self.engine.add_object(map).await,
        }
    }

    fn chardev(&mut self, text: &str) -> Result<()> {
        let (mut map, _) = read(text, "backend")?;
        let mut take = |key: &str| match map.remove(key) {
            Some(Value::String(text)) => Some(text),
            _ => None,
        };
        if take("backend").as_deref() != Some("socket") {
            return Err(invalid("only a 'socket' is there: --chardev socket,id=ID,path=PATH,server=on"));
        }
        let id = take("id").ok_or_else(|| invalid("Parameter 'id' is missing"))?;
        if take("server").as_deref() != Some("on") {
            return Err(invalid("only a socket that listens is there: say server=on"));
        }
        // Nobody is waited for, whatever is said: clients come when they like.
        drop(take("wait"));
        let address = match (take("path"), take("host"), take("port")) {
            (Some(path), None, None) => Address::Unix { path: path.into() },
            (None, host, Some(port)) => {
                let port = port.parse().map_err(|_| invalid(format!("port '{port}' is no number")))?;
                Address::Tcp { host: host.unwrap_or_default(), port }
            }
            _ => return Err(invalid("name either 'path', or 'host' and 'port'")),
        };
        if let Some(key) = map.keys().next() {
            return Err(invalid(format!("Parameter '{key}' is unexpected")));
        }
        match self.chardevs.insert(id.clone(), address) {
            None => Ok(()),
            Some(_) => Err(invalid(format!("Chardev with id '{id}' already exists"))),
        }
    }

    fn monitor(&mut self, text: &str) -> Result<()> {
        let address = self.place(text).map_err(remedy::of_monitor)?;
        let bound = self.control.bind(address);
        let bound = bound.map_err(|error| remedies::of_listening_at(error, address, "host"))?;
        self.monitors.push(bound);
        Ok(())
    }

    /// Where a monitor is put.
    fn place(&self, text: &str) -> Result<&Address> {
        let (mut map, _) = read(text, "chardev")?;
        let known = ["chardev", "id", "mode", "pretty"];
        if let Some(key) = map.keys().find(|key| !known.contains(&key.as_str())) {
            return Err(invalid(format!("Parameter '{key}' is unexpected")));
        }
        if map.get("mode").is_some_and(|mode| mode != "control") {
            return Err(invalid("only mode=control (QMP) is there"));
        }
        let Some(Value::String(id)) = map.remove("chardev") else {
            return Err(invalid("Parameter 'chardev' is missing"));
        };
        self.chardevs.get(&id).ok_or_else(|| invalid(format!("chardev \"{id}\" not found")))
    }

    async fn execute(&self, command: &str, arguments: Map<String, Value>, form: Form) -> Result<()> {
        let outcome = self.control.execute(command, arguments, form).await;
        outcome.map(drop).map_err(|failure| invalid(failure.to_string()))
    }
}

/// JSON, or keys and values.
fn read(text: &str, implied: &str) -> Result<(Map<String, Value>, Form)> {
    if !text.starts_with('{') {
        return Ok((keyval::parse(text, Some(implied))?, Form::Text));
    }
    match serde_json::from_str(text) {
        Ok(Value::Object(map)) => Ok((map, Form::Json)),
        Ok(_) => Err(invalid("the JSON is no object")),
        Err(error) => Err(invalid(format!("the JSON cannot be read: {error}"))),
    }
}

/// The option that failed, as far as it takes to tell it from others.
fn named(option: &str, text: &str, error: BlockError) -> BlockError {
    let start: String = text.chars().take(60).collect();
    error.within(format!("{option} {start}"))
}

fn invalid(context: impl Into<String>) -> BlockError {
    BlockError::new(ErrorKind::Invalid, context)
}
