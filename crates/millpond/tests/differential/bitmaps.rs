//! Persistent dirty bitmaps: added, removed, cleared, merged, switched on and off by either; what is written between is
//! recorded in those that are on.

use std::collections::BTreeMap;

use block::{ByteRange, DirtyBitmap, RangeSet};
use serde_json::{Value, json};

use crate::lab::Server;
use crate::stage::{Stage, Who};

const NAMES: [&str; 3] = ["a", "b", "with space"];

/// What a bitmap is to hold.
#[derive(Clone)]
pub(crate) struct Bitmap {
    pub(crate) bits: DirtyBitmap,
    pub(crate) recording: bool,
    /// More may be dirty: which bytes a rebase copies is its own affair.
    pub(crate) more: bool,
}

/// By name.
pub(crate) type Bitmaps = BTreeMap<&'static str, Bitmap>;

/// These bytes are changed.
pub(crate) fn record(bitmaps: &mut Bitmaps, range: ByteRange) {
    bitmaps.values_mut().filter(|bitmap| bitmap.recording).for_each(|bitmap| bitmap.bits.set(range));
}

/// Some actions on one of them in one call.
pub(crate) fn step(stage: &mut Stage<'_>, who: Who) {
    let name = NAMES[stage.rng.index(NAMES.len())];
    let image = stage.image.clone();
    if stage.case.old {
        return stage.refused(&["bitmap", "-f", "qcow2", "--add", &image, name]);
    }
    let mut args = vec!["bitmap".to_owned(), "-f".to_owned(), "qcow2".to_owned()];
    if stage.bitmaps.contains_key(name) && stage.rng.chance(0.2) {
        stage.bitmaps.remove(name);
        args.push("--remove".to_owned());
    } else {
        let mut bitmap = match stage.bitmaps.get(name) {
            Some(bitmap) => bitmap.clone(),
            None => add(stage, &mut args),
        };
        for _ in 0..stage.rng.below(3) {
            act(stage, name, &mut bitmap, &mut args);
        }
        // An action at the least.
        args.push(if bitmap.recording { "--enable" } else { "--disable" }.to_owned());
        stage.bitmaps.insert(name, bitmap);
    }
    args.extend([image, name.to_owned()]);
    stage.img(who, &args.iter().map(String::as_str).collect::<Vec<_>>());
}

fn add(stage: &mut Stage<'_>, args: &mut Vec<String>) -> Bitmap {
    let granularity = 512 << stage.rng.below(9);
    args.extend(["--add".to_owned(), "-g".to_owned(), granularity.to_string()]);
    let bits = DirtyBitmap::new(stage.bytes.len() as u64, granularity).unwrap();
    Bitmap { bits, recording: true, more: false }
}

fn act(stage: &mut Stage<'_>, name: &str, bitmap: &mut Bitmap, args: &mut Vec<String>) {
    let other = NAMES[stage.rng.index(NAMES.len())];
    match (stage.rng.below(4), stage.bitmaps.get(other)) {
        (0, _) => {
            bitmap.bits.clear();
            args.push("--clear".to_owned());
        }
        (1, _) => {
            bitmap.recording = !bitmap.recording;
            args.push(if bitmap.recording { "--enable" } else { "--disable" }.to_owned());
        }
        (_, Some(from)) => {
            if other != name {
                bitmap.bits.merge(&from.bits);
            }
            args.extend(["--merge".to_owned(), other.to_owned()]);
        }
        (_, None) => {}
    }
}

/// What `qemu-img info` says of them is what they are to be.
pub(crate) fn compare_stated(stage: &Stage<'_>, info: &Value) {
    let stated = info["format-specific"]["data"]["bitmaps"].as_array().cloned().unwrap_or_default();
    let of = |(name, bitmap): (&&str, &Bitmap)| {
        let flags = if bitmap.recording { json!(["auto"]) } else { json!([]) };
        json!({ "name": name, "granularity": bitmap.bits.granularity(), "flags": flags })
    };
    let mut wanted: Vec<_> = stage.bitmaps.iter().map(of).collect();
    let by_name = |bitmap: &Value| bitmap["name"].as_str().unwrap_or_default().to_owned();
    // The order is that in which they were made, or not.
    let mut stated = stated;
    stated.sort_by_key(by_name);
    wanted.sort_by_key(by_name);
    assert_eq!(stated, wanted, "bitmaps");
}

/// Both read them the same, as they are to be; QEMU is asked about one now and then.
pub(crate) fn compare(stage: &mut Stage<'_>, ours: Vec<DirtyBitmap>) {
    let asked = stage.rng.index(3 * NAMES.len());
    for (at, (name, ours)) in stage.bitmaps.clone().into_keys().zip(ours).enumerate() {
        let wanted = &stage.bitmaps[name];
        let (found, least): (Vec<_>, Vec<_>) = (ours.dirty().collect(), wanted.bits.dirty().collect());
        if wanted.more {
            let mut both = ours.clone();
            both.merge(&wanted.bits);
            assert!(both == ours, "bitmap '{name}' has {found:?}, at least {least:?} is dirty");
        } else {
            assert_eq!(found, least, "bitmap '{name}' as we read it");
        }
        if at == asked || wanted.more {
            assert_eq!(read_by_qemu(stage, name), found, "bitmap '{name}' as QEMU reads it");
        }
        let known = Bitmap { bits: ours, more: false, ..wanted.clone() };
        stage.bitmaps.insert(name, known);
    }
}

/// The dirty runs of a bitmap, as `qemu-nbd` exports it and `qemu-img map` shows it.
fn read_by_qemu(stage: &Stage<'_>, name: &str) -> Vec<ByteRange> {
    let server = Server::qemu(stage.lab, &["-r", "-f", "qcow2", "-B", name, &stage.lab.name(&stage.image)]);
    let image = format!(
        "driver=nbd,server.type=unix,server.path={},x-dirty-bitmap=qemu:dirty-bitmap:{name}",
        server.socket()
    );
    let said = stage.lab.ok("qemu-img", &["map", "--output=json", "--image-opts", &image]);
    let runs: Vec<Value> = serde_json::from_str(&said).unwrap();
    let mut dirty = RangeSet::new();
    // Dirty is told as a hole.
    for run in runs.iter().filter(|run| run["data"] == false) {
        let range = ByteRange::new(run["start"].as_u64().unwrap(), run["length"].as_u64().unwrap());
        dirty.insert(range);
    }
    dirty.iter().collect()
}
