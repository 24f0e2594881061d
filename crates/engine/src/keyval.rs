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
        if key.is_empty() || key.split('.').any(str::is_empty) {
            return Err(invalid(format!("Invalid parameter '{key}'")));
        }
        put_below(&mut map, 0, &key, Value::String(value))?;
    }
    lists(&mut map);
    Ok(map)
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
