//! From a JSON value to a command.

use serde_json::{Map, Value};

use crate::error::Error;

/// A command as a client sent it.
#[derive(Clone, PartialEq, Debug)]
pub struct Request {
    /// Which command.
    pub command: String,
    /// Sent with `exec-oob`: to be carried out before those that wait.
    pub out_of_band: bool,
    /// Echoed in the reply.
    pub id: Option<Value>,
    /// Its arguments.
    pub arguments: Map<String, Value>,
}

/// A value that is no command: what to answer.
#[derive(Clone, PartialEq, Debug)]
pub struct Refused {
    /// Echoed in the reply.
    pub id: Option<Value>,
    /// Why.
    pub error: Error,
}

impl Request {
    /// Makes a command of `value`; `out_of_band` says whether that capability was agreed.
    pub fn read(value: Value, out_of_band: bool) -> Result<Self, Refused> {
        let Value::Object(mut map) = value else {
            return Err(Refused { id: None, error: Error::generic("QMP input must be a JSON object") });
        };
        let id = map.shift_remove("id");
        match Self::members(map, out_of_band) {
            Ok(request) => Ok(Self { id, ..request }),
            Err(desc) => Err(Refused { id, error: Error::generic(desc) }),
        }
    }

    fn members(map: Map<String, Value>, oob_agreed: bool) -> Result<Self, String> {
        let (mut command, mut arguments) = (None, Map::new());
        for (key, value) in map {
            match (key.as_str(), value) {
                ("execute", value) => name(&mut command, &key, value, false)?,
                ("exec-oob", value) if oob_agreed => name(&mut command, &key, value, true)?,
                ("arguments", Value::Object(given)) => arguments = given,
                ("arguments", _) => return Err("QMP input member 'arguments' must be an object".to_owned()),
                _ => return Err(format!("QMP input member '{key}' is unexpected")),
            }
        }
        let (command, out_of_band) = command.ok_or_else(|| "QMP input lacks member 'execute'".to_owned())?;
        Ok(Self { command, out_of_band, id: None, arguments })
    }
}

fn name(command: &mut Option<(String, bool)>, key: &str, value: Value, oob: bool) -> Result<(), String> {
    let Value::String(name) = value else {
        return Err(format!("QMP input member '{key}' must be a string"));
    };
    match command.replace((name, oob)) {
        None => Ok(()),
        Some(_) => Err("QMP input member 'execute' clashes with 'exec-oob'".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn refusal(value: Value) -> String {
        Request::read(value, true).unwrap_err().error.desc
    }

    #[test]
    fn a_command_is_read_with_its_id() {
        let request = json!({"execute": "quit", "id": [1], "arguments": {"a": 1}});
        let Value::Object(arguments) = json!({"a": 1}) else { panic!() };
        let expected =
            Request { command: "quit".into(), out_of_band: false, id: Some(json!([1])), arguments };
        assert_eq!(Request::read(request, false), Ok(expected));
        assert!(Request::read(json!({"exec-oob": "quit"}), true).unwrap().out_of_band);
    }

    #[test]
    fn what_is_no_command_is_told_as_qemu_tells_it() {
        for (value, told) in [
            (json!([]), "QMP input must be a JSON object"),
            (json!({}), "QMP input lacks member 'execute'"),
            (json!({"execute": 1}), "QMP input member 'execute' must be a string"),
            (json!({"execute": "a", "exec-oob": "a"}), "QMP input member 'execute' clashes with 'exec-oob'"),
            (json!({"execute": "a", "arguments": null}), "QMP input member 'arguments' must be an object"),
            (json!({"execute": "a", "foo": 1}), "QMP input member 'foo' is unexpected"),
        ] {
            assert_eq!(refusal(value), told);
        }
        let refused = Request::read(json!({"exec-oob": "a", "id": 1}), false).unwrap_err();
        assert_eq!(refused.id, Some(json!(1)));
        assert_eq!(refused.error.desc, "QMP input member 'exec-oob' is unexpected");
    }
}
