//! The image of the demo: made from files of this machine, or brought along.

mod ext4;
mod fat;
mod files;
mod pages;

use std::path::{Path, PathBuf};

use block::{BlockError, ErrorKind, Result};
use nbd::uri::{Address, NbdUri};
use serde_json::{Value, json};

use super::args::{Args, FileSystem};
use super::machine;
use super::repository::Shelved;
use super::scratch::Scratch;
use super::worker::{self, CallOff};

/// An image that a repository can serve.
pub(super) struct Image {
    /// For people.
    pub(super) description: String,
    /// Options of the node that reads it without link and cache.
    pub(super) node: Value,
    /// What the repository serves.
    pub(super) shelved: Shelved,
    /// The file with its bytes as guests see them, where there is one.
    pub(super) raw: Option<PathBuf>,
}

/// The image that the options ask for.
pub(super) async fn prepare(args: &Args, scratch: &Scratch) -> Result<Image> {
    if let Some(image) = &args.image {
        return brought(image, &args.format);
    }
    let (folder, staging) = (scratch.path("repository"), scratch.path("staging"));
    let made = std::fs::create_dir(&folder);
    made.map_err(|e| BlockError::system(format!("cannot make '{}'", folder.display()), e))?;
    let path = folder.join("image.raw");
    let (kind, bytes, boot) = (args.filesystem, args.data_bytes(), args.boot);
    worker::run("image", move |call_off| {
        let image = make(kind, bytes, &path, &staging, call_off)?;
        if boot {
            machine::install(&path)?;
        }
        Ok(image)
    })
    .await
}

fn brought(name: &str, format: &str) -> Result<Image> {
    let description = name.to_owned();
    if name.contains("://") {
        let uri = name.parse().map_err(|e| BlockError::from(e).within(format_args!("'{name}'")))?;
        let node = json!({ "driver": format, "read-only": true, "file": nbd_node(&uri)? });
        return Ok(Image { description, shelved: Shelved::Elsewhere(node.clone()), node, raw: None });
    }
    let path = Path::new(name).canonicalize();
    let path = path.map_err(|e| BlockError::system(format!("cannot find '{name}'"), e))?;
    let raw = (format == "raw").then(|| path.clone());
    Ok(Image { description, node: file_node(&path, format), shelved: shelved(&path, format), raw })
}

fn file_node(path: &Path, format: &str) -> Value {
    json!({ "driver": format, "read-only": true, "file": { "driver": "file", "filename": path } })
}

/// A file of a folder, where a repository would serve it; devices and hidden files are exported by themselves.
fn shelved(path: &Path, format: &str) -> Shelved {
    let name = path.file_name().and_then(|name| name.to_str()).filter(|name| !name.starts_with('.'));
    match (path.parent(), name.filter(|_| path.is_file())) {
        (Some(folder), Some(name)) => {
            Shelved::File { folder: folder.to_owned(), name: name.to_owned(), format: format.to_owned() }
        }
        _ => Shelved::Elsewhere(file_node(path, format)),
    }
}

fn nbd_node(uri: &NbdUri) -> Result<Value> {
    let server = match &uri.address {
        Address::Tcp { host, port } => json!({ "type": "inet", "host": host, "port": port.to_string() }),
        Address::Unix(path) => {
            let path = String::from_utf8(path.clone()).map_err(|_| {
                BlockError::new(ErrorKind::Unsupported, "paths of sockets that are no text are not supported")
            })?;
            json!({ "type": "unix", "path": path })
        }
    };
    Ok(json!({ "driver": "nbd", "server": server, "export": uri.export, "reconnect-delay": 10 }))
}

fn make(kind: FileSystem, bytes: u64, image: &Path, staging: &Path, call_off: &CallOff) -> Result<Image> {
    let files = files::choose(Path::new("/usr"), bytes, call_off)?;
    // Room for the file system's own tables, and holes.
    let size = (bytes * 8 / 3).max(64 << 20).next_multiple_of(1 << 20);
    let made = match kind {
        FileSystem::Fat => None,
        FileSystem::Auto | FileSystem::Ext4 => ext4::make(&files, image, size, staging, call_off)?,
    };
    let name = match made {
        Some(()) => "ext4",
        None if kind == FileSystem::Ext4 => {
            let context = "mke2fs is not there: install e2fsprogs, or use --filesystem fat";
            return Err(BlockError::new(ErrorKind::NotFound, context));
        }
        None => {
            fat::make(&files, image, size, call_off)?;
            "FAT"
        }
    };
    let description = format!("{name} with {} files of /usr", files.len());
    let shelved = shelved(image, "raw");
    Ok(Image { description, node: file_node(image, "raw"), shelved, raw: Some(image.to_owned()) })
}
