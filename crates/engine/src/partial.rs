//! Options of a backing image that leave the rest to what the image above it says (`backing.cache.direct=on`), as QEMU
//! takes them in `--image-opts` and in `json:` names.
//!
//! Invariant: what is given counts more than what the image says; a file that is given is not the image's in any part.

use block::{BlockError, ErrorKind, Result};
use driver::Kind;
use serde_json::{Map, Value};

/// Whether options of a backing image name its format and its file, so that nothing the image above says counts.
pub fn is_whole(given: &Map<String, Value>) -> bool {
    given.contains_key("driver") && names_file(given)
}

/// Whether options of a backing image name its file: as QEMU has it, by `file.filename` or as a node.
pub(crate) fn names_file(given: &Map<String, Value>) -> bool {
    match given.get("file") {
        Some(Value::Object(file)) => file.contains_key("filename"),
        Some(Value::String(_)) => true,
        _ => false,
    }
}

/// What is given, and what `said` adds: the format and the file that the image above names. `None`: it names none.
pub(crate) fn filled(
    given: &Map<String, Value>,
    said: Option<Map<String, Value>>,
) -> Result<Map<String, Value>> {
    let mut whole = given.clone();
    if let Some(mut said) = said {
        if names_file(given) {
            said.remove("file");
        } else {
            has_no_place(given)?;
        }
        fill(&mut whole, said);
    }
    if whole.get("driver").is_none() {
        let text = match whole.contains_key("file") {
            true => "the format of the backing image is not guessed: say it (backing.driver=qcow2)",
            false => "Must specify either driver or file",
        };
        return Err(invalid(text.to_owned()));
    }
    Ok(whole)
}

/// Fails where options say by other means than a file name where the bytes are: the image above says it, too, and what
/// is meant for one must not go to the other.
fn has_no_place(given: &Map<String, Value>) -> Result<()> {
    let driver = given.get("driver").and_then(Value::as_str).unwrap_or_default();
    let is_nested =
        given.get("file").and_then(Value::as_object).is_some_and(|file| file.contains_key("file"));
    let why = match driver::find(driver).filter(|driver| driver.kind == Kind::Protocol) {
        Some(driver) if driver.name == "file" && !given.contains_key("filename") => return Ok(()),
        Some(driver) if driver.name != "file" => driver.is_no_file(),
        None if !is_nested => return Ok(()),
        _ => "Can't specify 'file' and 'filename' options at the same time".to_owned(),
    };
    Err(invalid(why))
}

fn invalid(context: String) -> BlockError {
    BlockError::new(ErrorKind::Invalid, context)
}

/// Adds what options do not say themselves.
pub fn fill(options: &mut Map<String, Value>, defaults: Map<String, Value>) {
    for (key, default) in defaults {
        match (options.get_mut(&key), default) {
            (Some(Value::Object(inner)), Value::Object(defaults)) => fill(inner, defaults),
            (Some(_), _) => {}
            (None, default) => {
                options.insert(key, default);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn object(value: Value) -> Map<String, Value> {
        value.as_object().cloned().unwrap_or_default()
    }

    #[test]
    fn what_is_given_counts_more_than_what_the_image_says() {
        let said = json!({"driver": "qcow2", "file": {"driver": "file", "filename": "base"}});
        let filled =
            |given: Value| filled(&object(given), Some(object(said.clone()))).map(Value::Object).unwrap();
        assert_eq!(filled(json!({})), said);
        assert_eq!(
            filled(json!({"driver": "raw", "size": 512})),
            json!({"driver": "raw", "size": 512, "file": {"driver": "file", "filename": "base"}})
        );
        assert_eq!(
            filled(json!({"file": {"locking": "off"}})),
            json!({"driver": "qcow2", "file": {"driver": "file", "filename": "base", "locking": "off"}})
        );
        let other = json!({"file": {"driver": "nbd", "path": "s", "filename": "x"}});
        assert_eq!(filled(other.clone())["file"], other["file"]);
    }

    #[test]
    fn what_says_the_place_otherwise_than_by_a_file_name_is_refused_beside_the_image() {
        let said =
            || Some(object(json!({"driver": "qcow2", "file": {"driver": "file", "filename": "base"}})));
        for given in [
            json!({"driver": "null-co", "size": 512}),
            json!({"driver": "nbd", "path": "s"}),
            json!({"driver": "file", "filename": "x"}),
            json!({"driver": "throttle", "file": {"driver": "raw", "file": {"driver": "file", "filename": "x"}}}),
        ] {
            assert!(filled(&object(given.clone()), said()).is_err(), "{given}");
            assert!(filled(&object(given.clone()), None).is_ok(), "{given}");
        }
    }

    #[test]
    fn without_an_image_below_all_has_to_be_given() {
        let told = |given: Value| filled(&object(given), None).map_err(|error| error.to_string());
        assert!(told(json!({"driver": "raw", "file": {"driver": "file", "filename": "x"}})).is_ok());
        assert!(told(json!({"file": {"filename": "x"}})).unwrap_err().contains("is not guessed"));
        assert_eq!(told(json!({"size": 512})).unwrap_err(), "Must specify either driver or file");
    }

    #[test]
    fn whole_options_name_a_format_and_a_file() {
        let is_whole = |given: Value| is_whole(&object(given));
        assert!(is_whole(json!({"driver": "raw", "file": {"filename": "x"}})));
        for given in [
            json!({}),
            json!({"driver": "raw"}),
            json!({"file": {"filename": "x"}}),
            json!({"driver": "file"}),
            json!({"driver": "null-co"}),
        ] {
            assert!(!is_whole(given.clone()), "{given}");
        }
    }
}
