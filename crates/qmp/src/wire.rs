//! What a server says: one line of ASCII each, ended by CR LF.

use serde_json::{Map, Value, json};

use crate::error::Error;
use json::to_ascii;

/// A version as clients of QEMU expect it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Version {
    /// Major, minor and micro of the QEMU whose QMP this is.
    pub qemu: [u32; 3],
    /// The program that speaks.
    pub package: String,
}

impl Version {
    /// As `query-version` answers it.
    pub fn to_value(&self) -> Value {
        let [major, minor, micro] = self.qemu;
        json!({"qemu": {"micro": micro, "minor": minor, "major": major}, "package": self.package})
    }
}

/// The first line to a client.
pub fn greeting(version: &Version) -> String {
    line(&json!({"QMP": {"version": version.to_value(), "capabilities": ["oob"]}}))
}

/// The answer to a command.
pub fn reply(id: Option<Value>, outcome: Result<Value, Error>) -> String {
    let mut map = Map::new();
    match outcome {
        Ok(value) => {
            map.insert("return".to_owned(), value);
            map.extend(id.map(|id| ("id".to_owned(), id)));
        }
        Err(error) => {
            map.extend(id.map(|id| ("id".to_owned(), id)));
            map.insert("error".to_owned(), json!({"class": error.class.name(), "desc": error.desc}));
        }
    }
    line(&Value::Object(map))
}

/// An event that happened `microseconds` after 1970 began; no data where it has none.
pub fn event(name: &str, data: Option<Value>, microseconds: u64) -> String {
    let mut map = Map::new();
    let stamp = json!({"seconds": microseconds / 1_000_000, "microseconds": microseconds % 1_000_000});
    map.insert("timestamp".to_owned(), stamp);
    map.insert("event".to_owned(), Value::from(name));
    map.extend(data.map(|data| ("data".to_owned(), data)));
    line(&Value::Object(map))
}

fn line(value: &Value) -> String {
    let mut text = to_ascii(value);
    text.push_str("\r\n");
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_qemus_letter_by_letter() {
        let version = Version { qemu: [10, 0, 2], package: "Debian é".to_owned() };
        let expected = "{\"QMP\": {\"version\": {\"qemu\": {\"micro\": 2, \"minor\": 0, \"major\": 10}, \"package\": \"Debian \\u00E9\"}, \"capabilities\": [\"oob\"]}}\r\n";
        assert_eq!(greeting(&version), expected);
        assert_eq!(reply(Some(json!(5)), Ok(json!({}))), "{\"return\": {}, \"id\": 5}\r\n");
        let missing = Error::generic("Export 'x' is not found");
        let told = "{\"id\": [\"a\"], \"error\": {\"class\": \"GenericError\", \"desc\": \"Export 'x' is not found\"}}\r\n";
        assert_eq!(reply(Some(json!(["a"])), Err(missing)), told);
        let deleted = event("BLOCK_EXPORT_DELETED", Some(json!({"id": "e0"})), 1_795_223_883_569_311);
        let told = "{\"timestamp\": {\"seconds\": 1795223883, \"microseconds\": 569311}, \"event\": \"BLOCK_EXPORT_DELETED\", \"data\": {\"id\": \"e0\"}}\r\n";
        assert_eq!(deleted, told);
    }
}
