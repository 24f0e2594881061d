//! What is known of an image, as qemu-img shows it: lines, or an object.

use qcow2::{BitmapEntry, Header, Version, cache};
use serde_json::{Map, Value, json};

use super::about::{About, Details};
use crate::json::Part;
use crate::numbers::shown;
use crate::{snapshot_table, words};

impl About {
    /// Facts of the format, by QMP's names.
    fn specific(&self) -> Option<Value> {
        match &self.image {
            Some(image) => Some(json!({ "type": "qcow2", "data": facts(image) })),
            None => (self.format == "file").then(|| json!({ "type": "file", "data": {} })),
        }
    }

    pub(super) fn json(&self) -> Part<'_> {
        let image = self.image.as_ref();
        let backing = image.and_then(Details::backing);
        // There may be 65536 of them.
        let each = Part::Each(Box::new(self.snapshots.iter().map(snapshot_table::json)));
        let snapshots = (!self.snapshots.is_empty()).then_some(("snapshots", each));
        let children = ("children", Part::List(self.children.iter().map(child_json).collect()));
        let format = backing.and_then(|(backing, _)| backing.format.as_ref());
        let further = [
            ("virtual-size", Some(json!(self.virtual_size))),
            ("filename", Some(json!(self.filename))),
            ("cluster-size", self.storage.and_then(|storage| storage.cluster_size).map(|size| json!(size))),
            ("format", Some(json!(self.format))),
            ("actual-size", self.disk_size.map(|size| json!(size))),
            ("format-specific", self.specific()),
            ("full-backing-filename", backing.map(|(_, full)| json!(full))),
            ("backing-filename", backing.map(|(backing, _)| json!(backing.name))),
            ("dirty-flag", self.storage.map(|storage| json!(storage.is_dirty))),
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
        let disk = self.disk_size.map_or_else(|| "unavailable".to_owned(), shown);
        let mut own = vec![
            format!("{name}: {}", self.filename),
            format!("{format}: {}", self.format),
            format!("{size}: {} ({} bytes)", shown(self.virtual_size), self.virtual_size),
            format!("disk size: {disk}"),
        ];
        if let Some(storage) = self.storage {
            own.extend(storage.cluster_size.map(|size| format!("cluster_size: {size}")));
            own.extend(storage.is_dirty.then(|| "cleanly shut down: no".to_owned()));
        }
        self.image.iter().for_each(|image| image.put_backing(&mut own));
        own.extend(snapshot_table::text(&self.snapshots).lines().map(str::to_owned));
        self.image.iter().for_each(|image| image.put_facts(&mut own));
        lines.extend(own.into_iter().map(|line| "    ".repeat(depth) + &line));
    }
}

fn child_json<'a>((role, child): &'a (&'static str, About)) -> Part<'a> {
    Part::Object(vec![("name", Part::Whole(json!(role))), ("info", child.json())])
}

impl Details {
    fn put_backing(&self, lines: &mut Vec<String>) {
        if let Some((backing, full)) = self.backing() {
            let actual = (full != backing.name).then(|| format!(" (actual path: {full})"));
            lines.push(format!("backing file: {}{}", backing.name, actual.unwrap_or_default()));
            lines.extend(backing.format.iter().map(|format| format!("backing file format: {format}")));
        }
    }

    fn put_facts(&self, lines: &mut Vec<String>) {
        lines.push("Format specific information:".to_owned());
        for (name, fact) in facts(self) {
            put_fact(&name.replace('-', " "), &fact, 1, lines);
        }
    }
}

/// Facts of the format, by QMP's names.
fn facts(image: &Details) -> Map<String, Value> {
    let Details { header, bitmaps, .. } = image;
    let version3 = header.version == Version::V3;
    let facts = [
        ("compat", Some(json!(if version3 { "1.1" } else { "0.10" }))),
        ("compression-type", Some(json!(header.compression.name()))),
        ("lazy-refcounts", version3.then(|| json!(header.features.lazy_refcounts()))),
        ("bitmaps", (!bitmaps.is_empty()).then(|| bitmaps.iter().map(bitmap).collect())),
        ("refcount-bits", Some(json!(header.refcount_table.bits))),
        ("data-file", header.data_file.as_ref().and_then(|file| file.name.as_ref()).map(|name| json!(name))),
        ("data-file-raw", header.data_file.as_ref().map(|file| json!(file.raw))),
        ("corrupt", version3.then(|| json!(header.features.corrupt()))),
        ("extended-l2", version3.then(|| json!(header.features.extended_l2()))),
        ("cache-img-quota", quota(header).map(|quota| json!(quota))),
    ];
    facts.into_iter().filter_map(|(name, fact)| Some((name.to_owned(), fact?))).collect()
}

fn quota(header: &Header) -> Option<u64> {
    let text = cache::read(header).ok().flatten()?;
    cache::terms(text).ok()?.quota
}

/// A bitmap by QMP's names.
fn bitmap(entry: &BitmapEntry) -> Value {
    let flags = [("in-use", entry.is_in_use()), ("auto", entry.is_auto())];
    let flags: Vec<_> = flags.iter().filter(|(_, set)| *set).map(|(name, _)| *name).collect();
    let name = String::from_utf8_lossy(&entry.name);
    json!({ "flags": flags, "name": name, "granularity": entry.granularity() })
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
