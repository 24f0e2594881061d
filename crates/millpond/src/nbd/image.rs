//! From FILE and the options around it to the options of a node.

use std::path::Path;

use block::{BlockError, ErrorKind, Result};
use engine::keyval::{self, Switch};
use engine::{Engine, file_names};
use serde_json::{Map, Value, json};

use super::args::{Aio, Args, CacheMode, DetectZeroesMode, Discard};
use crate::{line, output};

/// First bytes of a qcow2 image.
const QCOW2_MAGIC: &[u8] = b"QFI\xfb";

/// The options of the node that is to be exported.
pub(super) async fn options(engine: &Engine, args: &Args) -> Result<Map<String, Value>> {
    let Some(file) = &args.file else {
        return Err(invalid("no image given: name a FILE (see --help)".to_owned()));
    };
    let mut image = if args.image_opts {
        let (options, switches) = keyval::parse_image_opts(file, "driver")?;
        for Switch { given, instead } in switches {
            let text =
                format!("warning: short-form boolean option '{given}' deprecated: use {instead} instead");
            output::tell_line(line::escaped(text));
        }
        options
    } else {
        named(engine, args, file).await?
    };
    for (key, child) in &mut image {
        file_names::resolve(key, child)?;
    }
    if let Some(snapshot) = &args.load_snapshot {
        image = with(image, "snapshot", json!(snapshot));
    }
    if args.offset > 0 {
        image = behind(args.offset, image);
    }
    for (key, value) in common(args) {
        image.entry(key).or_insert(value);
    }
    Ok(image)
}

/// An image given by name: its format over the file or the server.
async fn named(engine: &Engine, args: &Args, name: &str) -> Result<Map<String, Value>> {
    if let Some(map) = file_names::from_json(name) {
        return map;
    }
    let protocol = protocol(args, name);
    let format = match args.format.as_deref() {
        Some(format) => format,
        None => {
            refuse_to_guess(engine, name).await?;
            "raw"
        }
    };
    Ok(object(json!({ "driver": format, "file": protocol })))
}

/// The image without its first `offset` bytes.
fn behind(offset: u64, image: Map<String, Value>) -> Map<String, Value> {
    match image.get("driver").and_then(Value::as_str) {
        Some("raw") if !image.contains_key("offset") && !image.contains_key("size") => {
            with(image, "offset", json!(offset))
        }
        _ => object(json!({ "driver": "raw", "offset": offset, "file": image })),
    }
}

fn protocol(args: &Args, name: &str) -> Value {
    if name.starts_with("nbd://") || name.starts_with("nbd+unix://") {
        return json!({ "driver": "nbd", "filename": name });
    }
    let mut file = json!({ "driver": "file", "filename": name });
    if let Some(aio) = args.aio {
        file["aio"] = json!(match aio {
            Aio::Threads => "threads",
            Aio::Native => "native",
            Aio::IoUring => "io_uring",
        });
    }
    file
}

/// Without -f the bytes are served as they are, unless they look as if that were a mistake.
async fn refuse_to_guess(engine: &Engine, name: &str) -> Result<()> {
    let looks_like_qcow2 = looks_like_qcow2(engine, Path::new(name)).await;
    if !looks_like_qcow2 {
        return Ok(());
    }
    let context = format!(
        "image '{name}' looks like qcow2, and formats are not guessed (a guest could have written that): \
         say -f qcow2, or -f raw to serve its bytes"
    );
    Err(invalid(context))
}

async fn looks_like_qcow2(engine: &Engine, path: &Path) -> bool {
    let Ok(file) = engine.world().open(path, io::OpenOptions::default()).await else { return false };
    let (result, first) = file.read(0, io::Lease::zeroed(QCOW2_MAGIC.len())).await;
    result.is_ok() && &first[..] == QCOW2_MAGIC
}

/// What the options around FILE say of the node.
fn common(args: &Args) -> Map<String, Value> {
    let cache = if args.nocache { CacheMode::None } else { args.cache };
    let direct = matches!(cache, CacheMode::None | CacheMode::Directsync);
    let no_flush = cache == CacheMode::Unsafe;
    object(json!({
        "read-only": args.read_only,
        "cache": { "direct": direct, "no-flush": no_flush },
        "discard": if args.discard == Discard::Unmap { "unmap" } else { "ignore" },
        "detect-zeroes": match args.detect_zeroes {
            DetectZeroesMode::Off => "off",
            DetectZeroesMode::On => "on",
            DetectZeroesMode::Unmap => "unmap",
        },
    }))
}

fn object(value: Value) -> Map<String, Value> {
    match value {
        Value::Object(map) => map,
        _ => Map::new(),
    }
}

fn with(mut map: Map<String, Value>, key: &str, value: Value) -> Map<String, Value> {
    map.insert(key.to_owned(), value);
    map
}

fn invalid(context: String) -> BlockError {
    BlockError::new(ErrorKind::Invalid, context)
}
