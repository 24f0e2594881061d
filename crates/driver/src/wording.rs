//! How it reads that options are refused: QEMU has two ways of saying it.
//!
//! Invariant: whatever is refused is named, or the value that is wrong is.

use block::{BlockError, ErrorKind};
use serde_json::{Map, Value};

use crate::numbers::NoNumber;
use crate::options::{Refusal, Why};
use crate::registry::{Driver, Kind};

/// Whose words are used.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Wording {
    /// Those of QMP, which its schema leads to (also for `--blockdev`).
    #[default]
    Qapi,
    /// Those of `--image-opts` and of `json:` names.
    Opts,
}

impl Wording {
    /// Says why `options` of a node of that driver, its own or those that all drivers have, are refused.
    pub fn refused(self, driver: &Driver, options: &Map<String, Value>, refusal: &Refusal) -> BlockError {
        let text = match self {
            Self::Qapi => refusal.to_string(),
            Self::Opts => as_opts(driver, options, refusal),
        };
        BlockError::new(ErrorKind::Invalid, text)
    }
}

fn as_opts(driver: &Driver, options: &Map<String, Value>, refusal: &Refusal) -> String {
    let (name, path) = (driver.name, &refusal.path);
    match &refusal.why {
        Why::Unexpected => unsupported(driver, &leaf(path, options)),
        // It has parts, and is none itself.
        Why::Type(kind) if kind == "object" => unsupported(driver, path),
        Why::Missing | Why::Type(_) if path == "filename" => {
            format!("The '{name}' block driver requires a file name")
        }
        Why::Missing if path == "throttle-group" => "Please specify a throttle group".to_owned(),
        Why::Variant(_) | Why::Type(_) if path == "discard" => "Invalid discard option".to_owned(),
        Why::Variant(value) => format!("invalid parameter value: {value}"),
        Why::NoSwitch => no_switch(path),
        Why::Type(kind) if kind == "boolean" => no_switch(path),
        Why::Type(kind) if kind == "integer" => no_number(path),
        Why::Range(value) => format!("Value '{value}' is out of range for parameter '{path}'"),
        Why::NoNumber => no_number(path),
        Why::NoCount(why, text) => why.as_number(path, text),
        Why::Missing | Why::Type(_) | Why::Other(_) => refusal.to_string(),
    }
}

fn unsupported(driver: &Driver, option: &str) -> String {
    let name = driver.name;
    match driver.kind {
        Kind::Protocol => format!("Block protocol '{name}' doesn't support the option '{option}'"),
        _ => format!("Block format '{name}' does not support the option '{option}'"),
    }
}

fn no_switch(path: &str) -> String {
    format!("Parameter '{path}' expects 'on' or 'off'")
}

fn no_number(path: &str) -> String {
    NoNumber::Malformed.as_size(path, "")
}

/// The first option at `path`, which may stand for several (`foo` for `foo.bar=1,foo.qux=2`).
fn leaf(path: &str, options: &Map<String, Value>) -> String {
    let mut keys = path.split('.');
    let first = keys.next().and_then(|key| options.get(key));
    let mut value = keys.try_fold(first, |value, key| Some(value?.get(key))).flatten();
    let mut leaf = path.to_owned();
    while let Some((key, below)) = value.and_then(Value::as_object).and_then(|map| map.iter().next()) {
        leaf = format!("{leaf}.{key}");
        value = Some(below);
    }
    leaf
}
