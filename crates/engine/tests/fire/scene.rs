//! The chains that are put under fire: what lies on the disk, which nodes there are, and what may be done to them.

use serde_json::{Value, json};

use super::model::UNIT;

/// Bytes of the exported disk: not a multiple of any cluster.
pub const SIZE: u64 = 1536 * 1024 + 3 * UNIT;
/// Bytes of the image: the disk begins as it, followed by zeros.
pub const BASE: u64 = 1024 * 1024;

/// All operations, for chains that forget a fault.
const ALL: &[&str] = &["read", "write", "write-zeroes", "discard", "flush", "cache"];
/// After a flush that failed, qcow2 changes its tables no more until it is closed: clients would lose what they wrote.
const CHANGES: &[&str] = &["read", "write", "write-zeroes", "discard", "cache"];

/// The path of a file of the scene.
pub type Paths<'a> = dyn Fn(&str) -> String + 'a;

/// What QEMU's tools make, and look at in the end.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Image {
    /// `base.qcow2` and its overlay `top.qcow2`, which show the disk.
    Chain,
    /// `cache.qcow2`, which is empty and lies over the file `base`.
    Cache,
}

impl Image {
    /// Its files.
    pub const fn files(self) -> &'static [&'static str] {
        match self {
            Self::Chain => &["base.qcow2", "top.qcow2"],
            Self::Cache => &["cache.qcow2"],
        }
    }
}

/// A chain. Names of files are relative to the scene's folder.
pub struct Scene {
    pub name: &'static str,
    /// Clients write.
    pub writable: bool,
    /// Files of the scene and their lengths: the image, cut or filled up with zeros.
    pub files: &'static [(&'static str, u64)],
    /// Images that QEMU's tools make besides.
    pub images: &'static [Image],
    /// Nodes, lowest first, given the path of a file by its name. The last one is exported.
    pub nodes: fn(&Paths<'_>) -> Vec<Value>,
    /// Operations that may fail below an export, as long as it pleases chance.
    pub faults: &'static [&'static str],
    /// Nodes above which filters are put.
    pub spots: &'static [&'static str],
    /// Nodes with a source below them, which can be filled.
    pub caches: &'static [&'static str],
    /// Node-names that may stand for each other: same bytes, nobody writes.
    pub twins: &'static [(&'static str, &'static str)],
    /// Caches and the children that may be below them.
    pub backings: &'static [(&'static str, &'static [&'static str])],
    /// Nodes that clients write through the export.
    pub written: &'static [&'static str],
    /// Options with which nodes are reopened, given the path of a file by its name. What they say of `read-only` is
    /// left out.
    pub reopens: fn(&Paths<'_>) -> Vec<Value>,
}

/// What scenes have alike whose topmost node `top` writes to `disk`, and fetches from the plain image `base`.
const OVER_BASE: Scene = Scene {
    name: "",
    writable: true,
    files: &[("disk", 0), ("base", BASE)],
    images: &[],
    nodes: |_| Vec::new(),
    faults: ALL,
    spots: &["top", "top", "disk", "base", "base-file"],
    caches: &["top"],
    twins: &[("base", "base-twin")],
    backings: &[("top", &["base", "base-twin"])],
    written: &["top", "disk"],
    reopens: |_| Vec::new(),
};

/// All scenes whose image is plain bytes.
pub const SCENES: &[Scene] = &[
    Scene {
        name: "raw",
        writable: true,
        files: &[("disk", SIZE)],
        images: &[],
        nodes: |path| {
            vec![file("disk", path("disk")), json!({"driver": "raw", "node-name": "top", "file": "disk"})]
        },
        faults: ALL,
        spots: &["top", "disk"],
        caches: &[],
        twins: &[],
        backings: &[],
        written: &["top", "disk"],
        reopens: |path| [raws("top", "disk"), again(file("disk", path("disk")))].concat(),
    },
    Scene {
        name: "memory-format",
        nodes: |path| {
            let mut nodes = base(path);
            nodes.push(file("disk", path("disk")));
            nodes.push(memory_format("top", "disk", "base", 4096));
            nodes
        },
        reopens: |path| {
            let files = [file("base-file", path("base")), file("disk", path("disk"))];
            [raws("base", "base-file"), again(memory_format("top", "disk", "base", 4096)), files.to_vec()]
                .concat()
        },
        ..OVER_BASE
    },
    Scene {
        name: "two caches",
        files: &[("disk", 0), ("middle-disk", 0), ("base", BASE)],
        nodes: |path| {
            let mut nodes = base(path);
            nodes.push(file("disk", path("disk")));
            nodes.push(file("middle-disk", path("middle-disk")));
            nodes.push(memory_format("middle", "middle-disk", "base", 16384));
            nodes.push(memory_format("top", "disk", "middle", 65536));
            nodes
        },
        spots: &["top", "top", "middle", "middle", "disk", "middle-disk", "base"],
        caches: &["top", "middle"],
        backings: &[("middle", &["base", "base-twin"])],
        reopens: |path| {
            let files = [file("base-file", path("base")), file("middle-disk", path("middle-disk"))];
            let middle = again(memory_format("middle", "middle-disk", "base", 16384));
            let top = again(memory_format("top", "disk", "middle", 65536));
            [raws("base", "base-file"), middle, top, files.to_vec()].concat()
        },
        ..OVER_BASE
    },
    Scene {
        name: "memory",
        files: &[("base", BASE)],
        nodes: |path| {
            let mut nodes = base(path);
            nodes.push(memory(0));
            nodes.push(memory_format("top", "disk", "base", 512));
            nodes
        },
        reopens: |path| {
            let files = [file("base-file", path("base")), memory(0)];
            [again(memory_format("top", "disk", "base", 512)), files.to_vec()].concat()
        },
        ..OVER_BASE
    },
    Scene {
        name: "qcow2",
        writable: false,
        files: &[],
        images: &[Image::Chain],
        nodes: |path| {
            let mut nodes = qcow2_files(path);
            nodes.push(qcow2("below", "base-file", Value::Null));
            nodes.push(qcow2("below-twin", "base-file", Value::Null));
            nodes.push(qcow2("top", "top-file", json!("below")));
            nodes
        },
        faults: ALL,
        spots: &["top", "below", "top-file", "base-file"],
        caches: &[],
        twins: &[("below", "below-twin")],
        backings: &[("top", &["below", "below-twin"])],
        written: &[],
        reopens: |path| {
            let bases = ["below", "below-twin"].map(|name| qcow2(name, "base-file", Value::Null));
            let more = [qcow2("top", "top-file", json!("below")), file("base-file", path("base.qcow2"))];
            [bases, more].concat()
        },
    },
    Scene {
        name: "cache in qcow2",
        files: &[("base", BASE)],
        images: &[Image::Cache],
        nodes: |path| {
            let mut nodes = base(path);
            nodes.push(file("disk", path("cache.qcow2")));
            nodes.push(qcow2_cache());
            nodes
        },
        faults: CHANGES,
        reopens: |path| {
            let files = [file("base-file", path("base")), file("disk", path("cache.qcow2"))];
            [raws("base", "base-file"), again(qcow2_cache()), files.to_vec()].concat()
        },
        ..OVER_BASE
    },
    Scene {
        name: "cache of qcow2",
        writable: true,
        files: &[("disk", 0)],
        images: &[Image::Chain],
        nodes: |path| {
            let mut nodes = qcow2_files(path);
            nodes.push(file("disk", path("disk")));
            nodes.push(qcow2("below", "base-file", Value::Null));
            nodes.push(qcow2("image", "top-file", json!("below")));
            nodes.push(memory_format("top", "disk", "image", 65536));
            nodes
        },
        faults: ALL,
        spots: &["top", "top", "disk", "image", "below", "top-file"],
        caches: &["top"],
        twins: &[],
        backings: &[],
        written: &["top", "disk"],
        reopens: |path| {
            let mut reopens = again(memory_format("top", "disk", "image", 65536));
            reopens.push(qcow2("image", "top-file", json!("below")));
            reopens.push(qcow2("below", "base-file", Value::Null));
            reopens.push(file("top-file", path("top.qcow2")));
            reopens
        },
    },
];

/// A read-only image and two nodes that show it.
fn base(path: &Paths<'_>) -> Vec<Value> {
    let twin = |name: &str| read_only(json!({"driver": "raw", "node-name": name, "file": "base-file"}));
    vec![read_only(file("base-file", path("base"))), twin("base"), twin("base-twin")]
}

fn file(name: &str, path: String) -> Value {
    json!({"driver": "file", "node-name": name, "filename": path})
}

fn memory_format(name: &str, file: &str, backing: &str, cluster: u64) -> Value {
    json!({
        "driver": "memory-format", "node-name": name, "file": file, "backing": backing,
        "size": SIZE, "cluster-size": cluster, "table-misses": {"probability": 0.05, "seed": cluster},
    })
}

fn qcow2_files(path: &Paths<'_>) -> Vec<Value> {
    let image = |name: &str, image: &str| read_only(file(name, path(image)));
    vec![image("base-file", "base.qcow2"), image("top-file", "top.qcow2")]
}

fn qcow2(name: &str, file: &str, backing: Value) -> Value {
    read_only(json!({"driver": "qcow2", "node-name": name, "file": file, "backing": backing}))
}

fn qcow2_cache() -> Value {
    json!({"driver": "qcow2", "node-name": "top", "file": "disk", "backing": "base"})
}

fn memory(size: u64) -> Value {
    json!({"driver": "memory", "node-name": "disk", "size": size})
}

/// The same node on the same children.
fn again(options: Value) -> Vec<Value> {
    let mut zeroing = options.clone();
    zeroing["detect-zeroes"] = json!("on");
    vec![options, zeroing]
}

/// The same bytes in other words.
fn raws(name: &str, file: &str) -> Vec<Value> {
    let with = |key: &str, value: Value| {
        let mut options = json!({"driver": "raw", "node-name": name, "file": file});
        options[key] = value;
        options
    };
    vec![
        with("offset", json!(0)),
        with("detect-zeroes", json!("on")),
        with("detect-zeroes", json!("off")),
        with("discard", json!("unmap")),
        json!({"driver": "raw", "node-name": name, "file": file, "discard": "unmap", "detect-zeroes": "unmap"}),
    ]
}

fn read_only(mut options: Value) -> Value {
    options["read-only"] = json!(true);
    options
}
