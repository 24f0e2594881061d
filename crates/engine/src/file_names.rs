//! Names that are options (`json:{...}`), and children that are named by a file name, as QEMU takes them there and in
//! `--image-opts` (`driver=qcow2,file.filename=x`).
//!
//! Invariant: what is named so is a file, whatever its name looks like; what a format is, is said or not known.

use block::{BlockError, ErrorKind, Result};
use serde_json::{Map, Value, json};

use crate::keyval;

/// The options that a `json:` name stands for, in QEMU's words where it stands for none; `None`: it is another name.
pub fn from_json(name: &str) -> Option<Result<Map<String, Value>>> {
    let text = name.strip_prefix("json:")?;
    let invalid = |text: String| Err(BlockError::new(ErrorKind::Invalid, text));
    Some(match json::parse(text) {
        Ok(Value::Object(map)) => keyval::nest(map),
        Ok(_) => invalid("Invalid JSON object given".to_owned()),
        Err(error) => invalid(format!("Could not parse the JSON options: {error}")),
    })
}

/// Gives the child `key` its driver where it has a file name instead, and those below it.
///
/// `Invalid` where the file of a format has neither.
pub fn resolve(key: &str, child: &mut Value) -> Result<()> {
    let Value::Object(options) = child else { return Ok(()) };
    match key {
        "file" | "data-file" => with_driver(options)?,
        "backing" => return resolve_backing(options),
        _ => return Ok(()),
    }
    options.iter_mut().try_for_each(|(key, child)| resolve(key, child))
}

/// The same for a backing image: what is not said of its file, the image above says.
fn resolve_backing(backing: &mut Map<String, Value>) -> Result<()> {
    for (key, child) in backing {
        match child {
            Value::Object(file) if key == "file" && !file.contains_key("filename") => {
                file.iter_mut().try_for_each(|(key, child)| resolve(key, child))?;
            }
            child => resolve(key, child)?,
        }
    }
    Ok(())
}

fn with_driver(file: &mut Map<String, Value>) -> Result<()> {
    let has_name = file.get("filename").is_some_and(Value::is_string);
    match file.contains_key("driver") {
        true => Ok(()),
        false if has_name => {
            file.insert("driver".to_owned(), json!("file"));
            Ok(())
        }
        false => Err(BlockError::new(ErrorKind::Invalid, "Must specify either driver or file")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn resolved(mut child: Value) -> Result<Value> {
        resolve("file", &mut child).map(|()| child)
    }

    #[test]
    fn a_file_name_stands_for_the_driver_of_files_at_any_depth() {
        let file = json!({"driver": "file", "filename": "nbd:x"});
        assert_eq!(resolved(json!({"filename": "nbd:x"})).ok(), Some(file.clone()));
        let nested = |file: Value| json!({"driver": "qcow2", "file": file, "backing": {"cache": {}}});
        assert_eq!(resolved(nested(json!({"filename": "nbd:x"}))).ok(), Some(nested(file)));
        let other = json!({"driver": "nbd", "filename": "nbd:x"});
        assert_eq!(resolved(other.clone()).ok(), Some(other));
        assert_eq!(resolved(json!("node")).ok(), Some(json!("node")));
        for unnamed in [json!({}), json!({"filename": 7}), json!({"driver": "raw", "file": {}})] {
            assert!(resolved(unnamed.clone()).is_err(), "{unnamed}");
        }
    }

    #[test]
    fn options_in_a_name_may_have_dots() {
        let file = Map::from_iter([("file".to_owned(), json!({"filename": "x"}))]);
        assert_eq!(from_json("json:{'file.filename': 'x'}").unwrap().ok(), Some(file));
        assert!(from_json("json:[]").unwrap().is_err() && from_json("json:{").unwrap().is_err());
        assert!(from_json("file:json:{}").is_none());
    }

    #[test]
    fn what_a_backing_image_does_not_say_the_image_above_says() {
        let mut backing = json!({"file": {"locking": "off"}});
        assert!(resolve("backing", &mut backing).is_ok());
        assert_eq!(backing, json!({"file": {"locking": "off"}}));
    }
}
