//! What is known of an image, as qemu-img shows it: lines, or an object.

use engine::{Fact, ImageFacts, StoredBacking, facts_json};
use serde_json::{Value, json};

use super::about::About;
use crate::json::Part;
use crate::numbers::shown;
use crate::{snapshot_table, words};

impl About {
    /// Facts of the format, by QMP's names.
    fn specific(&self) -> Option<Value> {
        let facts = self.facts.specific.as_deref()?;
        Some(json!({ "type": self.format, "data": facts_json(facts) }))
    }

    pub(super) fn json(&self) -> Part<'_> {
        let ImageFacts { allocated, storage, backing, snapshots, .. } = &self.facts;
        let backing = backing.as_ref();
        // There may be 65536 of them.
        let each = Part::Each(Box::new(snapshots.iter().map(snapshot_table::json)));
        let snapshots = (!snapshots.is_empty()).then_some(("snapshots", each));
        let children = ("children", Part::List(self.children.iter().map(child_json).collect()));
        let format = backing.and_then(|backing| backing.format.as_ref());
        let further = [
            ("virtual-size", Some(json!(self.virtual_size))),
            ("filename", Some(json!(self.filename))),
            ("cluster-size", storage.and_then(|storage| storage.cluster_size).map(|size| json!(size))),
            ("format", Some(json!(self.format))),
            ("actual-size", allocated.map(|size| json!(size))),
            ("format-specific", self.specific()),
            ("full-backing-filename", backing.map(|backing| json!(backing.full))),
            ("backing-filename", backing.map(|backing| json!(backing.name))),
            ("dirty-flag", storage.map(|storage| json!(storage.is_dirty))),
        ];
        let part = |(name, value): (&'static str, Option<Value>)| Some((name, Part::Whole(value?)));
        let format = part(("backing-filename-format", format.map(|format| json!(format))));
        let further = further.into_iter().filter_map(part);
        Part::Object([children].into_iter().chain(format).chain(snapshots).chain(further).collect())
    }

    /// The lines of the image.
    pub(super) fn text(&self) -> String {
        let mut lines = Vec::new();
        self.put_lines(false, 0, &mut lines);
        self.put_children("", 0, &mut lines);
        lines.join("\n") + "\n"
    }

    fn put_children(&self, path: &str, depth: usize, lines: &mut Vec<String>) {
        for (role, child) in &self.children {
            let path = format!("{path}/{role}");
            lines.push(format!("{}Child node '{path}':", "    ".repeat(depth)));
            child.put_lines(child.is_protocol, depth + 1, lines);
            child.put_children(&path, depth + 1, lines);
        }
    }

    fn put_lines(&self, is_protocol: bool, depth: usize, lines: &mut Vec<String>) {
        let [name, format, size] = match is_protocol {
            true => ["filename", "protocol type", "file length"],
            false => ["image", "file format", "virtual size"],
        };
        let ImageFacts { allocated, storage, backing, snapshots, .. } = &self.facts;
        let disk = allocated.map_or_else(|| "unavailable".to_owned(), shown);
        let mut own = vec![
            format!("{name}: {}", self.filename),
            format!("{format}: {}", self.format),
            format!("{size}: {} ({} bytes)", shown(self.virtual_size), self.virtual_size),
            format!("disk size: {disk}"),
        ];
        if let Some(storage) = storage {
            own.extend(storage.cluster_size.map(|size| format!("cluster_size: {size}")));
            own.extend(storage.is_dirty.then(|| "cleanly shut down: no".to_owned()));
        }
        backing.iter().for_each(|backing| put_backing(backing, &mut own));
        own.extend(snapshot_table::text(snapshots).lines().map(str::to_owned));
        let facts = self.facts.specific.as_deref().filter(|facts| !facts.is_empty());
        facts.iter().for_each(|facts| put_facts(facts, &mut own));
        lines.extend(own.into_iter().map(|line| "    ".repeat(depth) + &line));
    }
}

fn child_json<'a>((role, child): &'a (&'static str, About)) -> Part<'a> {
    Part::Object(vec![("name", Part::Whole(json!(role))), ("info", child.json())])
}

fn put_backing(backing: &StoredBacking, lines: &mut Vec<String>) {
    let StoredBacking { name, full, format } = backing;
    let actual = (full != name).then(|| format!(" (actual path: {full})"));
    lines.push(format!("backing file: {name}{}", actual.unwrap_or_default()));
    lines.extend(format.iter().map(|format| format!("backing file format: {format}")));
}

fn put_facts(facts: &[(&'static str, Fact)], lines: &mut Vec<String>) {
    lines.push("Format specific information:".to_owned());
    for (name, fact) in facts_json(facts) {
        put_fact(&name.replace('-', " "), &fact, 1, lines);
    }
}

/// A fact as people read it: what belongs to it is further in.
fn put_fact(name: &str, fact: &Value, depth: usize, lines: &mut Vec<String>) {
    let indent = "    ".repeat(depth);
    match fact {
        Value::Array(items) => {
            lines.push(format!("{indent}{name}:"));
            for (number, item) in items.iter().enumerate() {
                put_fact(&format!("[{number}]"), item, depth + 1, lines);
            }
        }
        Value::Object(members) => {
            lines.push(format!("{indent}{name}:"));
            for (name, member) in members {
                put_fact(&name.replace('-', " "), member, depth + 1, lines);
            }
        }
        Value::String(text) => lines.push(format!("{indent}{name}: {}", words::escaped(text))),
        other => lines.push(format!("{indent}{name}: {other}")),
    }
}
