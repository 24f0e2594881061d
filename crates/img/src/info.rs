//! `info`: what an image is. It reads the image's own tables and opens nothing that the image names, but for
//! `--backing-chain`.

use std::collections::HashSet;
use std::path::Path;

use block::ByteRange;
use engine::{SnapshotInfo, Wording};
use graph::{Demand, User};
use io::OpenOptions;
use qcow2::{BitmapEntry, Header, Version, cache};
use serde_json::{Map, Value, json};

use crate::failure::{Failure, Result};
use crate::flags;
use crate::given::Flag;
use crate::image::SECTOR;
use crate::json::Part;
use crate::naming;
use crate::numbers::shown;
use crate::session::{How, Looked, Session, Source, layer};
use crate::snapshot_table;
use crate::verbs::{Call, Verb};
use crate::{chain, json as printed, words};

/// The verb.
pub(crate) const VERB: Verb = Verb {
    name: "info",
    about: "show what an image is",
    operands: "FILENAME",
    flags: FLAGS,
    signed: false,
    run: |call| Box::pin(run(call)),
};

const FLAGS: &[Flag] = &[
    flags::FORMAT,
    Flag::switch('b', "backing-chain", "and all images below it"),
    flags::FORCE_SHARE,
    flags::OUTPUT,
    flags::OBJECT,
    flags::IMAGE_OPTS,
];

/// What is known of an image.
#[derive(Clone, Debug)]
struct About {
    filename: String,
    format: &'static str,
    virtual_size: u64,
    /// Bytes that its file takes; of files only.
    disk_size: Option<u64>,
    header: Option<Header>,
    /// Its persistent bitmaps.
    bitmaps: Vec<BitmapEntry>,
    snapshots: Vec<SnapshotInfo>,
    /// Where the backing image is, seen from here.
    full_backing: Option<String>,
    file: Below,
}

/// What is known of the node that an image lies on.
#[derive(Clone, Debug)]
struct Below {
    driver: String,
    len: u64,
    disk_size: Option<u64>,
}

async fn run(call: Call) -> Result<u8> {
    let Call { session, given } = call;
    let json = given.json()?;
    let name = given.one_operand()?;
    let source = Source { name, format: given.format()?, image_opts: given.has("image-opts") };
    session.add_objects(given.values("object")).await?;
    let how = How { force_share: given.has("force-share"), alone: true, ..How::READ };
    let whole = given.has("backing-chain");
    let found = match whole {
        true => all_below(&session, source, how).await?,
        false => vec![one(&session, source, how).await?.0],
    };
    let text = match (json, whole) {
        (true, true) => printed::pretty_parts(Part::List(found.iter().map(About::json).collect())),
        (true, false) => printed::pretty_parts(found[0].json()),
        (false, _) => found.iter().map(About::text).collect::<Vec<_>>().join("\n"),
    };
    session.listener.say(&text);
    Ok(0)
}

/// The image and all that lie below it.
async fn all_below(session: &Session, source: Source<'_>, how: How<'_>) -> Result<Vec<About>> {
    let mut found: Vec<About> = Vec::new();
    let mut asked = HashSet::new();
    let mut next = Some((source.name.to_owned(), source.format.map(str::to_owned), source.image_opts));
    while let Some((name, format, image_opts)) = next.take() {
        // By what was asked for, not by what it led to: other names may lead to the same file.
        if !asked.insert(name.clone()) {
            return Err(Failure::new(format!("Backing file '{name}' creates an infinite loop.")));
        }
        let source = Source { name: &name, format: format.as_deref(), image_opts };
        let (about, recognised) = one(session, source, how).await?;
        if let Some(header) = about.header.as_ref().filter(|_| recognised) {
            chain::stands_alone(header, &Map::new()).map_err(|failure| failure.opening(&name))?;
        }
        let backing = about.header.as_ref().and_then(|header| header.backing.as_ref());
        if let (Some(backing), Some(full)) = (backing, &about.full_backing) {
            let format = backing.format.clone().ok_or_else(|| chain::no_format(&name, full))?;
            next = Some((full.clone(), Some(format), false));
        }
        found.push(about);
    }
    Ok(found)
}

/// One image, and whether its format was recognised.
async fn one(session: &Session, source: Source<'_>, how: How<'_>) -> Result<(About, bool)> {
    source.agrees_with(how)?;
    let looked = session.look(source, how).await.map_err(|failure| failure.opening(source.name))?;
    check_options(session, &looked, how.force_share).map_err(|failure| failure.opening(source.name))?;
    let recognised = looked.recognised;
    let about = about(session, source, looked).await?;
    Ok((about, recognised))
}

/// Fails where the format could not be opened with the options that it is given.
fn check_options(session: &Session, looked: &Looked, unlocked: bool) -> Result<()> {
    let format = layer(looked.format);
    let mut options = looked.named.own.clone();
    options.insert("driver".to_owned(), json!(format));
    options.insert("file".to_owned(), Value::Object(looked.named.file.clone()));
    let backing = options.remove("backing").filter(|backing| !backing.is_null());
    if let (Some(backing), Some(driver)) = (backing, driver::find(format)) {
        // What is below is not opened: to the format, it is no option of its own.
        driver.check(&Map::from_iter([("backing".to_owned(), backing)]), Wording::Opts)?;
    }
    options.remove("data-file");
    let options = session.engine.options(options)?;
    match options.read_only == Some(false) && (unlocked || options.force_share == Some(true)) {
        true => Err(Failure::new("force-share=on can only be used with read-only images")),
        false => Ok(()),
    }
}

async fn about(session: &Session, source: Source<'_>, looked: Looked) -> Result<About> {
    let filename = looked.named.filename(source.name);
    let demand = if looked.header.is_some() { Demand::STILL } else { Demand::NOTHING };
    let taken = session.engine.attach(&looked.node, User::named("info"), demand);
    let (user, _) = taken.map_err(|error| Failure::from(error).opening(source.name))?;
    let len = session.engine.size(&looked.node)?.next_multiple_of(SECTOR);
    let virtual_size = match &looked.header {
        Some(header) => header.virtual_size,
        None => {
            raw_size(session, &looked).await.map_err(|failure| failure.opening(source.name))?.unwrap_or(len)
        }
    };
    let driver = looked.named.driver();
    let disk_size = match driver {
        "file" => allocated(session, &filename).await,
        _ => None,
    };
    let bitmaps = match &looked.header {
        Some(header) => stored_bitmaps(session, &looked.node, header)
            .await
            .map_err(|failure| failure.opening(source.name))?,
        None => Vec::new(),
    };
    let snapshots = snapshots(session, &looked).await.map_err(|failure| failure.opening(source.name))?;
    session.engine.detach(user).await?;
    session.engine.delete_node(&looked.node).await?;
    let backing = looked.header.as_ref().and_then(|header| header.backing.as_ref());
    let full_backing = backing.map(|backing| naming::full_name(&backing.name, &filename));
    Ok(About {
        format: looked.format,
        virtual_size,
        file: Below { driver: driver.to_owned(), len, disk_size },
        header: looked.header,
        bitmaps,
        snapshots,
        filename,
        disk_size,
        full_backing,
    })
}

/// Size of the part of a file that options say to be the image, if they do.
async fn raw_size(session: &Session, looked: &Looked) -> Result<Option<u64>> {
    let own = looked.named.own.iter().filter(|(key, _)| matches!(key.as_str(), "size" | "offset"));
    let mut options: Map<_, _> = own.map(|(key, value)| (key.clone(), value.clone())).collect();
    if options.is_empty() {
        return Ok(None);
    }
    options.extend(naming::object(json!({ "driver": "raw", "file": looked.node, "read-only": true })));
    let node = session.engine.add_node(options).await?;
    let size = session.engine.size(&node)?.next_multiple_of(SECTOR);
    session.engine.delete_node(&node).await?;
    Ok(Some(size))
}

/// The bitmaps that an image in the node `file` names.
async fn stored_bitmaps(session: &Session, file: &str, header: &Header) -> Result<Vec<BitmapEntry>> {
    let Some(place) = header.bitmaps else { return Ok(Vec::new()) };
    let reader = session.engine.look("info", file)?;
    let range = ByteRange::checked(place.directory.0, place.directory_len);
    let bytes = match range.filter(|range| range.end() <= reader.size()) {
        Some(range) => reader.read(range).await.map(|bytes| bytes.to_vec()),
        // What is not there is no directory.
        None => Ok(Vec::new()),
    };
    reader.close().await?;
    Ok(BitmapEntry::parse_directory(&bytes?, place.count, header.cluster_bits, header.virtual_size)?)
}

/// Bytes that a file takes on its disk, as far as that can be found out.
async fn allocated(session: &Session, filename: &str) -> Option<u64> {
    let path = naming::path(filename)?;
    let file = session.engine.world().open(Path::new(path), OpenOptions::default()).await.ok()?;
    file.allocated().ok()
}

/// The internal snapshots that an image's own table names.
async fn snapshots(session: &Session, looked: &Looked) -> Result<Vec<SnapshotInfo>> {
    let Some(header) = looked.header.as_ref().filter(|header| header.snapshots.count > 0) else {
        return Ok(Vec::new());
    };
    let reader = session.engine.look("info", &looked.node)?;
    let found =
        driver::formats::qcow2::snapshots(header, reader.size(), async |range| reader.read(range).await)
            .await;
    reader.close().await?;
    Ok(found?)
}

/// A bitmap by QMP's names.
fn bitmap(entry: &BitmapEntry) -> Value {
    let flags = [("in-use", entry.is_in_use()), ("auto", entry.is_auto())];
    let flags: Vec<_> = flags.iter().filter(|(_, set)| *set).map(|(name, _)| *name).collect();
    let name = String::from_utf8_lossy(&entry.name);
    json!({ "flags": flags, "name": name, "granularity": entry.granularity() })
}

/// Facts of the format, by QMP's names.
fn specific(header: &Header, bitmaps: &[BitmapEntry]) -> Map<String, Value> {
    let terms = cache::read(header).ok().flatten().and_then(|text| cache::terms(text).ok());
    let quota = terms.and_then(|terms| terms.quota);
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
        ("cache-img-quota", quota.map(|quota| json!(quota))),
    ];
    facts.into_iter().filter_map(|(name, fact)| Some((name.to_owned(), fact?))).collect()
}

impl About {
    /// Whether its format is what it lies on (`-f file`).
    fn is_protocol(&self) -> bool {
        self.format == self.file.driver
    }

    fn specific(&self) -> Option<Value> {
        match &self.header {
            Some(header) => Some(json!({ "type": "qcow2", "data": specific(header, &self.bitmaps) })),
            None => self.file.specific().filter(|_| self.is_protocol()),
        }
    }

    fn json(&self) -> Part<'_> {
        let header = self.header.as_ref();
        let backing = header.and_then(|header| header.backing.as_ref());
        // There may be 65536 of them.
        let snapshots = Part::Each(Box::new(self.snapshots.iter().map(snapshot_table::json)));
        let snapshots = (!self.snapshots.is_empty()).then_some(("snapshots", snapshots));
        let file = json!({ "name": "file", "info": self.file.json(&self.filename) });
        let children = if self.is_protocol() { json!([]) } else { json!([file]) };
        let members = [
            ("children", Some(children)),
            ("backing-filename-format", backing.and_then(|b| b.format.as_ref()).map(|f| json!(f))),
        ];
        let further = [
            ("virtual-size", Some(json!(self.virtual_size))),
            ("filename", Some(json!(self.filename))),
            ("cluster-size", header.map(|header| json!(1u64 << header.cluster_bits))),
            ("format", Some(json!(self.format))),
            ("actual-size", self.disk_size.map(|size| json!(size))),
            ("format-specific", self.specific()),
            ("full-backing-filename", self.full_backing.as_ref().map(|name| json!(name))),
            ("backing-filename", backing.map(|backing| json!(backing.name))),
            ("dirty-flag", header.map(|header| json!(header.features.dirty())).or(self.file.dirty_flag())),
        ];
        let part = |(name, value): (&'static str, Option<Value>)| Some((name, Part::Whole(value?)));
        let first = members.into_iter().filter_map(part);
        Part::Object(first.chain(snapshots).chain(further.into_iter().filter_map(part)).collect())
    }

    fn text(&self) -> String {
        let size = |bytes| format!("{} ({bytes} bytes)", shown(bytes));
        let disk = |bytes: Option<u64>| bytes.map_or_else(|| "unavailable".to_owned(), shown);
        let mut lines = vec![
            format!("image: {}", self.filename),
            format!("file format: {}", self.format),
            format!("virtual size: {}", size(self.virtual_size)),
            format!("disk size: {}", disk(self.disk_size)),
        ];
        if let Some(header) = &self.header {
            self.text_of_format(header, &mut lines);
        }
        if self.is_protocol() {
            return lines.join("\n") + "\n";
        }
        lines.extend([
            "Child node '/file':".to_owned(),
            format!("    filename: {}", self.filename),
            format!("    protocol type: {}", self.file.driver),
            format!("    file length: {}", size(self.file.len)),
            format!("    disk size: {}", disk(self.file.disk_size)),
        ]);
        lines.join("\n") + "\n"
    }

    fn text_of_format(&self, header: &Header, lines: &mut Vec<String>) {
        lines.push(format!("cluster_size: {}", 1u64 << header.cluster_bits));
        if header.features.dirty() {
            lines.push("cleanly shut down: no".to_owned());
        }
        if let Some(backing) = &header.backing {
            let full = self.full_backing.as_ref().filter(|full| **full != backing.name);
            let actual = full.map(|full| format!(" (actual path: {full})")).unwrap_or_default();
            lines.push(format!("backing file: {}{actual}", backing.name));
            lines.extend(backing.format.iter().map(|format| format!("backing file format: {format}")));
        }
        lines.extend(snapshot_table::text(&self.snapshots).lines().map(str::to_owned));
        lines.push("Format specific information:".to_owned());
        for (name, fact) in specific(header, &self.bitmaps) {
            shown_under(&name.replace('-', " "), &fact, 1, lines);
        }
    }
}

/// A fact as people read it: what belongs to it is further in.
fn shown_under(name: &str, fact: &Value, depth: usize, lines: &mut Vec<String>) {
    let indent = "    ".repeat(depth);
    match fact {
        Value::Array(items) => {
            lines.push(format!("{indent}{name}:"));
            for (number, item) in items.iter().enumerate() {
                shown_under(&format!("[{number}]"), item, depth + 1, lines);
            }
        }
        Value::Object(members) => {
            lines.push(format!("{indent}{name}:"));
            for (name, member) in members {
                shown_under(&name.replace('-', " "), member, depth + 1, lines);
            }
        }
        Value::String(text) => lines.push(format!("{indent}{name}: {}", words::escaped(text))),
        other => lines.push(format!("{indent}{name}: {other}")),
    }
}

impl Below {
    fn specific(&self) -> Option<Value> {
        (self.driver == "file").then(|| json!({ "type": "file", "data": {} }))
    }

    /// Only files tell whether they are, which they never are.
    fn dirty_flag(&self) -> Option<Value> {
        (self.driver == "file").then(|| json!(false))
    }

    fn json(&self, filename: &str) -> Value {
        let members = [
            ("children", Some(json!([]))),
            ("virtual-size", Some(json!(self.len))),
            ("filename", Some(json!(filename))),
            ("format", Some(json!(self.driver))),
            ("actual-size", self.disk_size.map(|size| json!(size))),
            ("format-specific", self.specific()),
            ("dirty-flag", self.dirty_flag()),
        ];
        let members = members.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?)));
        Value::Object(members.collect())
    }
}
