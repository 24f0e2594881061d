//! `key=value,key=value` as QEMU's command lines have it, with dotted keys for nesting.
//!
//! `driver=raw,file.driver=file,file.filename=a,,b` names the file `a,b`: a comma is doubled in a value. A key whose
//! parts are all numbers (`server.0.host`) makes a list.

use block::{BlockError, ErrorKind, Result};
use serde_json::{Map, Value};

/// Deepest nesting that dots may stand for: bounds what recursion takes of the stack.
const DEPTH_MAX: usize = 256;

/// Reads `text`; `implied` is the key of a first item that has none (`--object secret,id=x`: `qom-type`).
pub fn parse(text: &str, implied: Option<&str>) -> Result<Map<String, Value>> {
    let mut map = Map::new();
    for (at, item) in items(text).into_iter().enumerate() {
        let (key, value) = match (item.split_once('='), implied) {
            (Some((key, value)), _) => (key.to_owned(), value.to_owned()),
            (None, Some(implied)) if at == 0 => (implied.to_owned(), item),
            _ => return Err(invalid(format!("Expected '=' after parameter '{item}'"))),
        };
        check_key(&key)?;
        put_below(&mut map, 0, &key, Value::String(value))?;
    }
    lists(&mut map);
    Ok(map)
}

/// A key that stands alone.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Switch {
    /// As it stands there.
    pub given: String,
    /// What better to write.
    pub instead: String,
}

/// Reads `text` as `--image-opts` has it: as [`parse`], but of a key that stands there twice the last value counts, and
/// a key alone is a switch: on, or off with `no` before it. Answers those switches, too.
pub fn parse_image_opts(text: &str, implied: &str) -> Result<(Map<String, Value>, Vec<Switch>)> {
    let (mut options, mut switches): (Vec<(String, String)>, _) = (Vec::new(), Vec::new());
    for (at, item) in items(text).into_iter().enumerate() {
        let (key, value) = match item.split_once('=') {
            Some((key, value)) => (key.to_owned(), value.to_owned()),
            None if at == 0 => (implied.to_owned(), item),
            None => {
                let (key, value) = item.strip_prefix("no").map_or((&*item, "on"), |key| (key, "off"));
                let (option, instead) = ((key.to_owned(), value.to_owned()), format!("{key}={value}"));
                switches.push(Switch { given: item, instead });
                option
            }
        };
        check_key(&key)?;
        options.retain(|(known, _)| *known != key);
        options.push((key, value));
    }
    let mut map = Map::new();
    options.into_iter().try_for_each(|(key, value)| put_below(&mut map, 0, &key, Value::String(value)))?;
    lists(&mut map);
    Ok((map, switches))
}

fn check_key(key: &str) -> Result<()> {
    match key.is_empty() || key.split('.').any(str::is_empty) {
        true => Err(invalid(format!("Invalid parameter '{key}'"))),
        false => Ok(()),
    }
}

/// Flat dotted keys (of JSON or of a command line) as nested objects.
pub fn nest(flat: Map<String, Value>) -> Result<Map<String, Value>> {
    nest_at(flat, 0)
}

/// The same of an object that lies that deep: keys of objects in objects add up.
fn nest_at(flat: Map<String, Value>, depth: usize) -> Result<Map<String, Value>> {
    let mut map = Map::new();
    for (key, value) in flat {
        let value = match value {
            Value::Object(inner) => Value::Object(nest_at(inner, depth + key.split('.').count())?),
            other => other,
        };
        put_below(&mut map, depth, &key, value)?;
    }
    lists(&mut map);
    Ok(map)
}

fn put_below(map: &mut Map<String, Value>, depth: usize, key: &str, value: Value) -> Result<()> {
    if depth + key.split('.').count() > DEPTH_MAX {
        let start: String = key.chars().take(40).collect();
        return Err(invalid(format!("Parameter '{start}...' is nested deeper than {DEPTH_MAX}")));
    }
    put(map, key, value)
}

/// The parts of `text` between single commas, none of them empty; a doubled comma stands for itself.
pub fn items(text: &str) -> Vec<String> {
    let mut items = vec![String::new()];
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        let last = items.len() - 1;
        match c {
            ',' if chars.next_if_eq(&',').is_some() => items[last].push(','),
            ',' => items.push(String::new()),
            _ => items[last].push(c),
        }
    }
    items.retain(|item| !item.is_empty());
    items
}

fn put(map: &mut Map<String, Value>, key: &str, value: Value) -> Result<()> {
    let Some((head, tail)) = key.split_once('.') else {
        return match (map.get_mut(key), value) {
            (None, value) => {
                map.insert(key.to_owned(), value);
                Ok(())
            }
            (Some(Value::Object(old)), Value::Object(new)) => {
                new.into_iter().try_for_each(|(k, v)| put(old, &k, v))
            }
            _ => Err(invalid(format!("Parameter '{key}' is given twice"))),
        };
    };
    match map.entry(head).or_insert_with(|| Value::Object(Map::new())) {
        Value::Object(inner) => put(inner, tail, value),
        _ => Err(invalid(format!("Parameters '{head}.*' used inconsistently"))),
    }
}

/// Objects whose keys are 0, 1, 2... become lists.
fn lists(map: &mut Map<String, Value>) {
    for value in map.values_mut() {
        let Value::Object(inner) = value else { continue };
        lists(inner);
        let list: Option<Vec<Value>> = (0..inner.len()).map(|i| inner.get(&i.to_string()).cloned()).collect();
        if let Some(list) = list.filter(|list| !list.is_empty()) {
            *value = Value::Array(list);
        }
    }
}

fn invalid(context: String) -> BlockError {
    BlockError::new(ErrorKind::Invalid, context)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn dots_nest_commas_double_and_numbers_list() {
        let map = parse("driver=raw,file.filename=a,,b=c,file.driver=file,s.0.h=x,s.1.h=y", None).unwrap();
        let expected = json!({
            "driver": "raw", "file": {"filename": "a,b=c", "driver": "file"}, "s": [{"h": "x"}, {"h": "y"}]
        });
        assert_eq!(Value::Object(map), expected);
        let object = parse("secret,id=s0", Some("qom-type")).unwrap();
        assert_eq!(Value::Object(object), json!({"qom-type": "secret", "id": "s0"}));
    }

    #[test]
    fn image_opts_have_switches_and_the_last_value_counts() {
        let (map, switches) = parse_image_opts("f,a.b=1,no-c,a.b=2,read-only", "file").unwrap();
        let expected = json!({"file": "f", "a": {"b": "2"}, "-c": "off", "read-only": "on"});
        assert_eq!(Value::Object(map), expected);
        let told = [("no-c", "-c=off"), ("read-only", "read-only=on")];
        assert_eq!(
            switches,
            told.map(|(given, instead)| Switch { given: given.to_owned(), instead: instead.to_owned() })
        );
        assert!(parse_image_opts("a.=1", "file").is_err() && parse_image_opts("f,no", "file").is_err());
    }

    #[test]
    fn what_makes_no_sense_is_named() {
        for (text, name) in
            [("a", "'a'"), ("a=1,a=2", "'a'"), ("a=1,a.b=2", "'a.*'"), ("a..b=1", "'a..b'"), ("=x", "''")]
        {
            let error = parse(text, None).unwrap_err().to_string();
            assert!(error.contains(name), "{text}: {error}");
        }
        let deep = format!("{}=1", vec!["a"; 100_000].join("."));
        assert!(parse(&deep, None).unwrap_err().to_string().contains("deeper than 256"));
        let deep = Map::from_iter([(vec!["0"; 100_000].join("."), Value::Null)]);
        assert!(nest(deep).unwrap_err().to_string().contains("deeper than 256"));
        let key = vec!["a"; 200].join(".");
        let deep = (0..100).fold(json!(1), |inner, _| json!({ key.clone(): inner }));
        let Value::Object(deep) = deep else { panic!() };
        assert!(nest(deep).unwrap_err().to_string().contains("deeper than 256"));
    }

    #[test]
    fn json_may_mix_dots_and_objects() {
        let Value::Object(flat) = json!({"file.driver": "file", "file": {"filename": "x"}}) else { panic!() };
        assert_eq!(Value::Object(nest(flat).unwrap()), json!({"file": {"driver": "file", "filename": "x"}}));
    }
}
