//! From the name of an image, or its options, to the options of nodes: which protocol, and what on it.
//!
//! Invariant: nothing is opened here, and no format is guessed.

use engine::file_names;
use engine::keyval::{self, Switch};
use graph::NodeName;
use serde_json::{Map, Value, json};

use crate::failure::{Failure, Result};
use crate::foreign;

/// An image as it was named.
#[derive(Clone, Debug)]
pub(crate) struct Named {
    /// The format, where it was said.
    pub(crate) format: Option<String>,
    /// Options of the node that the format lies on.
    pub(crate) file: Map<String, Value>,
    /// Options of the format node itself.
    pub(crate) own: Map<String, Value>,
    /// What of the way in which it is named goes out of use, behind the word "warning".
    pub(crate) deprecated: Vec<String>,
}

/// What is said of an empty name for "no backing image".
const EMPTY_NAME: &str = "Use of \"backing\": \"\" is deprecated; use \"backing\": null instead";

impl Named {
    /// The driver of the node that the format lies on.
    pub(crate) fn driver(&self) -> &str {
        self.file.get("driver").and_then(Value::as_str).unwrap_or_default()
    }

    /// The file name as QEMU shows it; `given` where there is none.
    pub(crate) fn filename(&self, given: &str) -> String {
        let mut own = self.file.clone();
        own.remove("driver");
        let name = driver::find(self.driver()).and_then(|driver| (driver.filename)(&own));
        name.unwrap_or_else(|| given.to_owned())
    }
}

/// Protocols whose names are told by their prefix.
const PREFIXES: [&str; 2] = ["nbd", "nbd+unix"];

/// An image by its name, or with `image_opts` by its options.
pub(crate) fn named(name: &str, format: Option<&str>, image_opts: bool) -> Result<Named> {
    if image_opts {
        let (map, switches) = keyval::parse_image_opts(name, "file")?;
        let named = from_options(map)?;
        let switches = switches.iter().map(|Switch { given, instead }| {
            format!("short-form boolean option '{given}' deprecated\nPlease use {instead} instead")
        });
        return Ok(Named { deprecated: switches.chain(named.deprecated).collect(), ..named });
    }
    if let Some(map) = file_names::from_json(name) {
        let mut map = map?;
        if let Some(format) = format {
            // What stands beside the name counts more than what it says.
            map.insert("driver".to_owned(), format.into());
        }
        return from_options(map);
    }
    Ok(Named {
        format: format.map(str::to_owned),
        file: protocol(name)?,
        own: Map::new(),
        deprecated: Vec::new(),
    })
}

/// Options of the protocol node of a name.
pub(crate) fn protocol(name: &str) -> Result<Map<String, Value>> {
    if name.is_empty() {
        return Err(Failure::new("The 'file' block driver requires a file name"));
    }
    let filename = match qcow2::scheme(name) {
        None => name,
        Some("file") => &name["file:".len()..],
        Some(prefix) if PREFIXES.contains(&prefix) => {
            return Ok(object(json!({ "driver": "nbd", "filename": name })));
        }
        Some(prefix) => return Err(Failure::new(format!("Unknown protocol '{prefix}'"))),
    };
    Ok(object(json!({ "driver": "file", "filename": filename })))
}

/// Fails where nothing can be made under that name, because its protocol is unknown.
pub(crate) fn protocol_of_new(name: &str) -> Result<()> {
    // That nothing has no name shows when it is made.
    if name.is_empty() { Ok(()) } else { protocol(name).map(|_| ()) }
}

/// Whether the name is that of a file, and of which one.
pub(crate) fn path(name: &str) -> Option<&str> {
    match qcow2::scheme(name) {
        None => Some(name),
        Some("file") => Some(&name["file:".len()..]),
        Some(_) => None,
    }
}

/// Options as a user gives them: the protocol may be left out where a file name is there.
fn from_options(mut map: Map<String, Value>) -> Result<Named> {
    let driver = match map.remove("driver") {
        Some(Value::String(driver)) => Some(driver),
        None => None,
        Some(_) => return Err(Failure::new("Invalid parameter type for 'driver', expected: string")),
    };
    let kind = driver.as_deref().and_then(driver::find).map(|driver| driver.kind);
    if kind == Some(driver::Kind::Protocol) {
        check_node_name(&map)?;
        map.insert("driver".to_owned(), json!(driver));
        return Ok(Named { format: driver, file: map, own: Map::new(), deprecated: Vec::new() });
    }
    if driver.is_none() && !map.contains_key("file") {
        return Err(Failure::new("Must specify either driver or file"));
    }
    if let Some(name) = driver.as_deref().filter(|name| kind.is_none() && !foreign::is_foreign(name)) {
        return Err(Failure::new(format!("Unknown driver '{name}'")));
    }
    let file = match map.remove("file") {
        Some(mut file @ Value::Object(_)) if file != json!({}) => {
            file_names::resolve("file", &mut file)?;
            object(file)
        }
        // In QEMU's words: a name is that of a node, and a program that begins has none.
        Some(Value::String(name)) => {
            return Err(Failure::new(format!("Cannot find device='{name}' nor node-name='{name}'")));
        }
        _ => return Err(Failure::new("A block device must be specified for \"file\"")),
    };
    for (key, child) in &mut map {
        file_names::resolve(key, child)?;
    }
    check_node_name(&file)?;
    check_node_name(&map)?;
    let deprecated = if clear_backing(&mut map) { vec![EMPTY_NAME.to_owned()] } else { Vec::new() };
    Ok(Named { format: driver, file, own: map, deprecated })
}

/// Makes an empty name of a backing image what it means: none. Answers whether there was one.
fn clear_backing(options: &mut Map<String, Value>) -> bool {
    match options.get_mut("backing") {
        Some(Value::Object(backing)) => clear_backing(backing),
        Some(backing) if backing == "" => {
            *backing = Value::Null;
            true
        }
        _ => false,
    }
}

/// Fails where a node cannot be called so: others stand in for such names, so that nobody else looks at them.
fn check_node_name(options: &Map<String, Value>) -> Result<()> {
    match options.get("node-name") {
        Some(Value::String(name)) => Ok(NodeName::new(name).map(|_| ())?),
        Some(Value::Number(number)) => Ok(NodeName::new(&number.to_string()).map(|_| ())?),
        _ => Ok(()),
    }
}

/// The members of a JSON object.
pub(crate) fn object(value: Value) -> Map<String, Value> {
    match value {
        Value::Object(map) => map,
        _ => Map::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prefixes_choose_the_protocol() {
        let file = |name: &str| Value::Object(protocol(name).unwrap());
        assert_eq!(file("a/b:c"), json!({ "driver": "file", "filename": "a/b:c" }));
        assert_eq!(file("file:x"), json!({ "driver": "file", "filename": "x" }));
        assert_eq!(file("nbd://h/e"), json!({ "driver": "nbd", "filename": "nbd://h/e" }));
        assert_eq!(protocol("foo:bar").unwrap_err().text.unwrap(), "Unknown protocol 'foo'");
        assert!(protocol("").is_err());
    }

    #[test]
    fn options_may_leave_the_protocol_out() {
        let named = named("driver=qcow2,file.filename=x,l2-cache-size=1M", None, true).unwrap();
        assert_eq!(named.format.as_deref(), Some("qcow2"));
        assert_eq!(Value::Object(named.file), json!({ "driver": "file", "filename": "x" }));
        assert_eq!(Value::Object(named.own), json!({ "l2-cache-size": "1M" }));
    }
}
