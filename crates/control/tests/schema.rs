//! Our `query-qmp-schema` against that of the installed `qemu-storage-daemon`: every command, event and type that we
//! have is QEMU's, but for what is listed here.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod lab;

use std::collections::{BTreeMap, BTreeSet};

use control::types::schema_info::SchemaInfo;
use lab::Server;
use qmp::schema::{Form, Given, Type};
use serde_json::{Value, json};

/// What QEMU has and we do not, by path; a `*` ends a path that has more below it.
const NOT_YET: &str = include_str!("schema/not_yet.txt");
/// What we have and QEMU does not.
const OURS: &str = include_str!("schema/ours.txt");

#[test]
fn what_we_have_is_qemus() {
    let Some(qsd) = Server::qsd("schema: what_we_have_is_qemus") else { return };
    let theirs = Schema::of(&qsd);
    let ours = Schema::of(&Server::ours());
    let mut differences = BTreeSet::new();
    for (name, mine) in &ours.entries {
        let kind = mine["meta-type"].as_str().unwrap();
        if !["command", "event"].contains(&kind) {
            continue;
        }
        match theirs.entries.get(name) {
            Some(other) => Comparison { ours: &ours, theirs: &theirs, seen: BTreeSet::new() }.top(
                name,
                mine,
                other,
                &mut differences,
            ),
            None => drop(differences.insert(format!("+ {name}"))),
        }
    }
    let known: BTreeSet<String> = NOT_YET
        .lines()
        .map(|line| format!("- {line}"))
        .chain(OURS.lines().map(|line| format!("+ {line}")))
        .collect();
    let news: Vec<_> = differences.difference(&known).cloned().collect();
    let gone: Vec<_> = known.difference(&differences).cloned().collect();
    assert!(news.is_empty(), "new differences:\n{}", news.join("\n"));
    assert!(gone.is_empty(), "no differences any more, take them off the lists:\n{}", gone.join("\n"));
}

#[test]
fn every_entry_is_of_the_type_that_describes_it() {
    let ours = Schema::of(&Server::ours());
    for entry in ours.entries.values() {
        let parsed = SchemaInfo::parse(Given::root(entry.clone(), Form::Json)).unwrap();
        assert_eq!(&parsed.show(), entry);
    }
    // Every type that is named is there.
    for entry in ours.entries.values() {
        for key in ["arg-type", "ret-type", "element-type"] {
            entry.get(key).map(|name| ours.entry(name.as_str().unwrap()));
        }
    }
}

#[test]
fn every_driver_is_described() {
    let ours = Schema::of(&Server::ours());
    let add = ours.entry(ours.entry("blockdev-add")["arg-type"].as_str().unwrap());
    let described: BTreeSet<_> =
        add["variants"].as_array().unwrap().iter().map(|v| v["case"].as_str().unwrap()).collect();
    let there: BTreeSet<_> = driver::DRIVERS.iter().map(|driver| driver.name).collect();
    assert_eq!(described, there, "the list is in crates/control/src/types/node_options.rs");
}

struct Schema {
    entries: BTreeMap<String, Value>,
}

impl Schema {
    fn of(server: &Server) -> Self {
        let answer = server.client().ask(json!({"execute": "query-qmp-schema"}));
        let name = |entry: &Value| entry["name"].as_str().unwrap().to_owned();
        let entries = answer["return"].as_array().unwrap();
        Self { entries: entries.iter().map(|entry| (name(entry), entry.clone())).collect() }
    }

    fn entry(&self, name: &str) -> &Value {
        self.entries.get(name).unwrap_or_else(|| panic!("no type {name}"))
    }
}

struct Comparison<'s> {
    ours: &'s Schema,
    theirs: &'s Schema,
    seen: BTreeSet<(String, String)>,
}

type Differences = BTreeSet<String>;

impl Comparison<'_> {
    fn top(&mut self, name: &str, mine: &Value, other: &Value, differences: &mut Differences) {
        if mine.get("features") != other.get("features") {
            differences.insert(format!("! {name}: features"));
        }
        for key in ["arg-type", "ret-type"] {
            if let (Some(mine), Some(other)) = (mine.get(key), other.get(key)) {
                let path = if key == "ret-type" { format!("{name} ->") } else { name.to_owned() };
                self.types(&path, mine, other, differences);
            }
        }
    }

    fn types(&mut self, path: &str, mine: &Value, other: &Value, differences: &mut Differences) {
        let (mine, other) = (mine.as_str().unwrap(), other.as_str().unwrap());
        if !self.seen.insert((mine.to_owned(), other.to_owned())) {
            return;
        }
        let (mine, other) = (self.ours.entry(mine), self.theirs.entry(other));
        match (mine["meta-type"].as_str().unwrap(), other["meta-type"].as_str().unwrap()) {
            ("builtin", "builtin") if mine["name"] == other["name"] => {}
            ("array", "array") => {
                self.types(path, &mine["element-type"], &other["element-type"], differences);
            }
            ("enum", "enum") => {
                let words = |entry: &Value| -> BTreeSet<String> {
                    let values = entry["values"].as_array().unwrap();
                    values.iter().map(|v| format!("{path}={}", v.as_str().unwrap())).collect()
                };
                sets(&words(mine), &words(other), differences);
            }
            ("object", "object") => self.objects(path, mine, other, differences),
            ("alternate", "alternate") => self.alternates(path, mine, other, differences),
            kinds => drop(differences.insert(format!("! {path}: {kinds:?}"))),
        }
    }

    fn objects(&mut self, path: &str, mine: &Value, other: &Value, differences: &mut Differences) {
        let (my_members, their_members) = (by(mine, "members", "name"), by(other, "members", "name"));
        let paths =
            |members: &BTreeMap<String, Value>| members.keys().map(|n| format!("{path}.{n}")).collect();
        sets(&paths(&my_members), &paths(&their_members), differences);
        for (name, mine) in &my_members {
            let Some(other) = their_members.get(name) else { continue };
            let path = format!("{path}.{name}");
            if mine.get("default") != other.get("default") || mine.get("features") != other.get("features") {
                differences.insert(format!("! {path}: optional or features"));
            }
            self.types(&path, &mine["type"], &other["type"], differences);
        }
        if mine.get("tag") != other.get("tag") {
            differences.insert(format!("! {path}: tag"));
        }
        let (mine, other) = (by(mine, "variants", "case"), by(other, "variants", "case"));
        for (case, mine) in &mine {
            if let Some(other) = other.get(case) {
                self.types(&format!("{path}[{case}]"), &mine["type"], &other["type"], differences);
            }
        }
    }

    fn alternates(&mut self, path: &str, mine: &Value, other: &Value, differences: &mut Differences) {
        // Told apart by what JSON they are, so in some order of sorts.
        let sorted = |schema: &Schema, entry: &Value| -> Vec<(String, Value)> {
            let members = entry["members"].as_array().unwrap().iter();
            let sort = |member: &Value| {
                let entry = schema.entry(member["type"].as_str().unwrap());
                (
                    format!("{}{}", entry["meta-type"], entry.get("json-type").unwrap_or(&Value::Null)),
                    member["type"].clone(),
                )
            };
            let mut list: Vec<_> = members.map(sort).collect();
            list.sort_by(|a, b| a.0.cmp(&b.0));
            list
        };
        let (mine, other) = (sorted(self.ours, mine), sorted(self.theirs, other));
        let sorts = |list: &[(String, Value)]| list.iter().map(|(sort, _)| sort.clone()).collect::<Vec<_>>();
        if sorts(&mine) != sorts(&other) {
            differences.insert(format!("! {path}: {mine:?} {other:?}"));
            return;
        }
        for ((_, mine), (_, other)) in mine.iter().zip(&other) {
            self.types(path, mine, other, differences);
        }
    }
}

fn by(entry: &Value, list: &str, key: &str) -> BTreeMap<String, Value> {
    let items = entry.get(list).and_then(Value::as_array).into_iter().flatten();
    items.map(|item| (item[key].as_str().unwrap().to_owned(), item.clone())).collect()
}

fn sets(mine: &BTreeSet<String>, other: &BTreeSet<String>, differences: &mut Differences) {
    differences.extend(mine.difference(other).map(|path| format!("+ {path}")));
    differences.extend(other.difference(mine).map(|path| format!("- {path}")));
}
