//! Types of each sort: parsed, refused, written, described.

#![allow(unreachable_pub, reason = "the macros are tried as their users use them")]

use serde_json::{Value, json};

use super::{Builder, Form, Given, Nothing, Type};

crate::enumeration! {
    /// How.
    pub enum Mode {
        /// Carefully.
        Safe = "safe",
        /// At once.
        Hard = "hard",
    }
}

crate::structure! {
    /// A path.
    pub struct Path {
        /// It.
        "path" => path: String,
    }
}

crate::union! {
    /// An address.
    pub struct Address {
        base: Nothing,
        /// Its kinds.
        pub enum AddressKind by "type" {
            /// A unix socket.
            Unix(Data) = "unix",
            /// None.
            Nowhere(Nothing) = "nowhere",
        }
    }
}

crate::structure! {
    /// In `data`, as old unions have it.
    pub struct Data {
        /// It.
        "data" => data: Path,
    }
}

crate::alternate! {
    /// A tree, its name, or nothing.
    pub enum Reference: "TreeRef" {
        /// The tree.
        Tree(Box<Tree>) = object,
        /// Its name.
        Name(String) = string,
        /// Nothing.
        Nothing(()) = null,
    }
}

crate::structure! {
    /// One that contains itself.
    pub struct Tree {
        /// Its name.
        "name" => name: Option<String>,
        /// Below.
        "below" => below: Option<Reference>,
        /// How many.
        "count" ["unstable"] => count: Option<u32>,
        /// How much.
        "size" => size: Option<u64>,
        /// Whether.
        "on" => on: Option<bool>,
        /// How, one after the other.
        "modes" => modes: Option<Vec<Mode>>,
        /// Where.
        "addr" => addr: Option<Address>,
    }
}

fn parse(value: Value, form: Form) -> Result<Tree, String> {
    Tree::parse(Given::root(value, form)).map_err(|refusal| refusal.to_string())
}

#[test]
fn what_is_parsed_is_written_again() {
    let value = json!({
        "name": "a", "below": {"below": null, "count": 4_294_967_295_u32}, "size": u64::MAX, "on": true,
        "modes": ["safe", "hard"], "addr": {"type": "unix", "data": {"path": "/p"}},
    });
    let tree = parse(value.clone(), Form::Json).unwrap();
    assert_eq!(tree.show(), value);
    assert_eq!(tree.modes, Some(vec![Mode::Safe, Mode::Hard]));
    assert!(
        matches!(tree.below, Some(Reference::Tree(below)) if below.below == Some(Reference::Nothing(())))
    );
    assert_eq!(parse(json!({}), Form::Json).unwrap().show(), json!({}));
}

#[test]
fn text_stands_for_switches_and_numbers_only_on_command_lines() {
    let text = json!({"on": "yes", "count": "7", "size": "3k", "name": "on"});
    let tree = parse(text.clone(), Form::Text).unwrap();
    assert_eq!((tree.on, tree.count, tree.size), (Some(true), Some(7), Some(3072)));
    assert_eq!(parse(text, Form::Json), Err("Invalid parameter type for 'count', expected: integer".into()));
    for wrong in ["16E", "", "k", "+1", "-1", "1.5", "0xg", "é"] {
        assert!(parse(json!({"size": wrong}), Form::Text).is_err(), "{wrong}");
    }
}

#[test]
fn refusals_are_qemus() {
    for (value, told) in [
        (json!([]), "Invalid parameter type for 'null', expected: object"),
        (json!({"name": 1}), "Invalid parameter type for 'name', expected: string"),
        (json!({"on": 1}), "Invalid parameter type for 'on', expected: boolean"),
        (json!({"count": "1"}), "Invalid parameter type for 'count', expected: integer"),
        (json!({"count": -1}), "Parameter 'count' expects uint32_t"),
        (json!({"count": 4_294_967_296_u64}), "Parameter 'count' expects uint32_t"),
        (json!({"count": 1.5}), "Parameter 'count' expects uint64"),
        (json!({"modes": {}}), "Invalid parameter type for 'modes', expected: array"),
        (json!({"modes": ["foo"]}), "Parameter 'null' does not accept value 'foo'"),
        (json!({"modes": ["safe", 3]}), "Invalid parameter type for 'modes[1]', expected: string"),
        (json!({"addr": 1}), "Invalid parameter type for 'addr', expected: object"),
        (json!({"addr": {}}), "Parameter 'addr.type' is missing"),
        (json!({"addr": {"type": "foo"}}), "Parameter 'type' does not accept value 'foo'"),
        (json!({"addr": {"type": "unix"}}), "Parameter 'addr.data' is missing"),
        (json!({"addr": {"type": "unix", "data": {}}}), "Parameter 'addr.data.path' is missing"),
        (json!({"addr": {"type": "nowhere", "data": {}}}), "Parameter 'addr.data' is unexpected"),
        (json!({"below": 1}), "Invalid parameter type for 'below', expected: TreeRef"),
        (json!({"below": {"foo": 1}}), "Parameter 'below.foo' is unexpected"),
    ] {
        assert_eq!(parse(value.clone(), Form::Json), Err(told.to_owned()), "{value}");
    }
}

#[test]
fn types_describe_themselves_and_may_contain_themselves() {
    let mut schema = Builder::default();
    schema.command::<Tree, Vec<Tree>>("plant", &["unstable"]);
    schema.event::<Path>("PLANTED");
    let schema = schema.finish();
    let find = |name: &str| {
        let mut entries = schema.as_array().unwrap().iter();
        entries.find(|entry| entry["name"] == name).unwrap_or_else(|| panic!("{name}")).clone()
    };
    let plant = find("plant");
    assert_eq!(plant["meta-type"], "command");
    assert_eq!(plant["features"], json!(["unstable"]));
    let tree = plant["arg-type"].as_str().unwrap();
    assert_eq!(plant["ret-type"], format!("[{tree}]"));
    assert_eq!(find(&format!("[{tree}]"))["element-type"], tree);
    let members = find(tree)["members"].clone();
    assert_eq!(
        members[2],
        json!({"name": "count", "default": null, "type": "int", "features": ["unstable"]})
    );
    let below = find(members[1]["type"].as_str().unwrap());
    assert_eq!(below["meta-type"], "alternate");
    assert_eq!(below["members"], json!([{"type": tree}, {"type": "str"}, {"type": "null"}]));
    let address = find(members[6]["type"].as_str().unwrap());
    assert_eq!((&address["tag"], &address["variants"][1]["case"]), (&json!("type"), &json!("nowhere")));
    let kinds = find(address["members"][0]["type"].as_str().unwrap());
    assert_eq!(kinds["values"], json!(["unix", "nowhere"]));
    assert_eq!(find("PLANTED")["meta-type"], "event");
    let names: Vec<_> = schema.as_array().unwrap().iter().map(|entry| entry["name"].clone()).collect();
    assert!(names.iter().all(|name| names.iter().filter(|other| *other == name).count() == 1));
}
