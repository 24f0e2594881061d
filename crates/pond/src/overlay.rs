//! The files of VMs' disks: made here, and moved from their socket to the cache. What is in them is the VM's.

use std::path::Path;
use std::sync::Arc;

use block::{BlockError, ErrorKind, Permissions};
use io::folders::{NewFile, Owner};
use io::{File, Lease, OpenOptions, World};
use qcow2::{Backing, Header, HeaderEdit, NewImage};
use serde_json::json;

use crate::refusal::{Refusal, Remedy, Result};

/// How long VMs wait for the daemon: after it was lost, and when they are started.
const RECONNECT_SECONDS: u32 = 60;
const OPEN_SECONDS: u32 = 20;
/// Clusters of overlays, as QEMU's default.
const CLUSTER_BITS: u32 = 16;

/// The backing name of an overlay that reads through a socket.
pub(crate) fn backing_name(socket: &Path) -> String {
    let name = json!({
        "driver": "raw",
        "file": {
            "driver": "nbd",
            "server": { "type": "unix", "path": socket },
            "reconnect-delay": RECONNECT_SECONDS,
            "open-timeout": OPEN_SECONDS,
        },
    });
    format!("json:{name}")
}

/// Removes the overlay of a VM that does not run, if there is one.
pub(crate) async fn remove(world: &dyn World, path: &Path) -> Result<()> {
    if world.folders().about(path).await.is_err() {
        return Ok(());
    }
    // Nobody's running disk is pulled from under him.
    let alone = open_alone(world, path).await?;
    let removed = world.folders().remove(path).await;
    drop(alone);
    Ok(removed.map_err(|e| BlockError::system(format!("cannot remove '{}'", path.display()), e))?)
}

/// Makes an overlay of `size` bytes that reads through `socket`, and that is `owner`'s.
pub(crate) async fn create(
    world: &dyn World,
    path: &Path,
    size: u64,
    socket: &Path,
    owner: Option<Owner>,
) -> Result<()> {
    let image = NewImage::new(size, CLUSTER_BITS).over(&backing_name(socket), "raw");
    let file = NewFile { owner, ..new_file(&image, 0o600)? };
    world.folders().put(path, file).await.map_err(|error| match error.kind() {
        std::io::ErrorKind::AlreadyExists => exists(path),
        std::io::ErrorKind::PermissionDenied if owner.is_some() => {
            let context = format!("cannot create '{}' for another user", path.display());
            Refusal::of(BlockError::system(context, error), Remedy::RunAsOwner)
        }
        _ => BlockError::system(format!("cannot create '{}'", path.display()), error).into(),
    })
}

/// It may not be overwritten.
pub(crate) fn exists(path: &Path) -> Refusal {
    Refusal::new(ErrorKind::Exists, format!("'{}' exists", path.display()), Remedy::OverwriteOverlay)
}

/// Makes an overlay read `cache`; it is changed only if `is_ours` knows the name that it reads by now, and if nobody
/// uses it. One that reads `cache` already stays as it is.
pub(crate) async fn pivot(
    world: &dyn World,
    path: &Path,
    cache: &Path,
    is_ours: impl Fn(&str) -> bool,
) -> Result<()> {
    let file = open(world, path).await?;
    let failed = |e| BlockError::system(format!("cannot write the header of '{}'", path.display()), e);
    let name = cache.to_str().ok_or_else(|| {
        let context = format!("the path of the cache, '{}', is not UTF-8", cache.display());
        BlockError::new(ErrorKind::Invalid, context)
    })?;
    if named(&first_cluster(&*file, path).await?, path)?.as_deref() == Some(name) {
        // A crash came before that was written down.
        return Ok(file.flush().await.map_err(failed)?);
    }
    lock(&*file, path)?;
    let first = first_cluster(&*file, path).await?;
    let now = named(&first, path)?;
    if !now.as_deref().is_some_and(is_ours) {
        let now = now.unwrap_or_else(|| "nothing".to_owned());
        let context = format!("'{}' is not as it was made: its backing file is '{now}'", path.display());
        return Err(Refusal::new(ErrorKind::Invalid, context, Remedy::NewClone));
    }
    let edit = HeaderEdit::Backing(Backing { name: name.to_owned(), format: Some("qcow2".to_owned()) });
    file.flush().await.map_err(failed)?;
    for write in edit.writes(&first)? {
        file.write(write.offset, Lease::copy_of(&write.bytes)).await.0.map_err(failed)?;
        file.flush().await.map_err(failed)?;
    }
    Ok(())
}

/// The backing name in the first cluster of an overlay.
fn named(first: &[u8], path: &Path) -> Result<Option<String>> {
    let header = Header::parse(first).map_err(|e| e.within(format_args!("'{}'", path.display())))?;
    Ok(header.backing.map(|backing| backing.name))
}

async fn open(world: &dyn World, path: &Path) -> Result<Arc<dyn File>> {
    let options = OpenOptions { write: true, ..OpenOptions::default() };
    let file = world.open(path, options).await;
    Ok(file.map_err(|e| BlockError::system(format!("cannot open '{}'", path.display()), e))?)
}

fn lock(file: &dyn File, path: &Path) -> Result<()> {
    file.lock(Permissions::WRITE | Permissions::CONSISTENT_READ, Permissions::NONE).map_err(|error| {
        let error = BlockError::new(ErrorKind::Busy, format!("'{}' is in use", path.display())).within(error);
        Refusal::of(error, Remedy::StopVm)
    })
}

/// Opens an overlay that nobody else has open.
pub(crate) async fn open_alone(world: &dyn World, path: &Path) -> Result<Arc<dyn File>> {
    let file = open(world, path).await?;
    lock(&*file, path)?;
    Ok(file)
}

/// The file of a fresh image, that replaces none.
pub(crate) fn new_file(image: &NewImage, mode: u32) -> block::Result<NewFile> {
    let fresh = image.bytes()?;
    let parts = fresh.pieces.into_iter().map(|(at, bytes)| (at.0, bytes)).collect();
    Ok(NewFile { parts, len: fresh.len, mode, owner: None, replace: false })
}

/// As much of the front of an image as its header may take.
pub(crate) async fn first_cluster(file: &dyn File, path: &Path) -> block::Result<Vec<u8>> {
    let failed = |e| BlockError::system(format!("cannot read '{}'", path.display()), e);
    let size = file.size().map_err(failed)?;
    let read = async |len: u64| {
        let (result, bytes) = file.read(0, Lease::zeroed(len.min(size) as usize)).await;
        result.map(|()| bytes.to_vec()).map_err(failed)
    };
    let prefix = read(Header::PREFIX as u64).await?;
    let needed = Header::needed(&prefix).map_err(|e| e.within(format_args!("'{}'", path.display())))?;
    read(needed as u64).await
}
