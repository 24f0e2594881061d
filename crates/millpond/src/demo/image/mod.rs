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
use super::scratch::Scratch;
use super::worker::{self, CallOff};

/// An image that a repository can serve.
pub(super) struct Image {
    /// For people.
    pub(super) description: String,
    /// Options of the node that reads it.
    pub(super) node: Value,
    /// The file with its bytes as guests see them, where there is one.
    pub(super) raw: Option<PathBuf>,
}

/// The image that the options ask for.
pub(super) async fn prepare(args: &Args, scratch: &Scratch) -> Result<Image> {
    if let Some(image) = &args.image {
        return brought(image, &args.format);
    }
    let (path, staging) = (scratch.path("image"), scratch.path("staging"));
    let (kind, bytes) = (args.filesystem, args.data << 20);
    worker::run("image", move |call_off| make(kind, bytes, &path, &staging, call_off)).await
}

fn brought(name: &str, format: &str) -> Result<Image> {
    let is_uri = name.contains("://");
    let file = match is_uri {
        true => nbd_node(&name.parse().map_err(|e| BlockError::from(e).within(format_args!("'{name}'")))?)?,
        false => json!({ "driver": "file", "filename": absolute(name)? }),
    };
    let node = json!({ "driver": format, "read-only": true, "file": file });
    let raw = (!is_uri && format == "raw").then(|| PathBuf::from(name));
    Ok(Image { description: name.to_owned(), node, raw })
}

fn absolute(name: &str) -> Result<PathBuf> {
    let path = std::path::absolute(name);
    path.map_err(|e| BlockError::system(format!("cannot find '{name}'"), e))
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
    let node = json!({ "driver": "raw", "read-only": true, "file": { "driver": "file", "filename": image } });
    Ok(Image { description, node, raw: Some(image.to_owned()) })
}
