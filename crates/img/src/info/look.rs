//! Finding out what an image is. Of the format itself only the tables are read: nothing that it names is opened.

use std::path::Path;

use block::ByteRange;
use engine::{FullName, NodeInfo, NodeOptions, SnapshotInfo};
use flow::Role;
use graph::{Demand, User};
use io::{LocalFut, OpenOptions};
use qcow2::{BitmapEntry, Header};
use serde_json::json;

use super::about::{About, Details, Storage};
use crate::failure::{Failure, Result};
use crate::image::SECTOR;
use crate::naming;
use crate::session::{Looked, Session, Source, is_protocol};

/// What an image is that was looked at, and is to be opened with these options.
pub(super) async fn at(
    session: &Session,
    source: Source<'_>,
    looked: Looked,
    options: NodeOptions,
) -> Result<About> {
    let demand = if looked.header.is_some() { Demand::STILL } else { Demand::NOTHING };
    let (user, _) = session.engine.attach(&looked.node, User::named("info"), demand)?;
    let nodes = session.engine.nodes();
    let file = node(session, &nodes, &looked.node).await?;
    let about = match is_protocol(looked.format) {
        true => file,
        false => format(session, source, &looked, options, file).await?,
    };
    session.engine.detach(user).await?;
    session.engine.delete_node(&looked.node).await?;
    Ok(about)
}

/// The format on a node that is open.
async fn format(
    session: &Session,
    source: Source<'_>,
    looked: &Looked,
    options: NodeOptions,
    file: About,
) -> Result<About> {
    let below = session.engine.full_name(&looked.node)?;
    let name = FullName::of(options.driver, &options.own, vec![(Role::File, below)], false);
    let (mut image, mut snapshots) = (None, file.snapshots.clone());
    if let Some(header) = &looked.header {
        snapshots = stored_snapshots(session, &looked.node, header).await?;
        let filename = looked.named.filename(source.name);
        image = Some(details(session, &looked.node, header.clone(), &filename).await?);
    }
    let virtual_size = match &image {
        Some(image) => image.header.virtual_size,
        None => opened_size(session, looked, options).await?,
    };
    let children = vec![("file", file)];
    Ok(About {
        snapshots,
        filename: name.text(),
        format: looked.format,
        is_protocol: false,
        virtual_size,
        disk_size: disk_size(&children),
        storage: Storage::of(looked.format, image.as_ref(), &children),
        image,
        children,
    })
}

/// A node that is open, with all that it lies on.
fn node<'a>(session: &'a Session, nodes: &'a [NodeInfo], name: &'a str) -> LocalFut<'a, Result<About>> {
    Box::pin(async move {
        let missing = || Failure::new(format!("Cannot find device='' nor node-name='{name}'"));
        let info = nodes.iter().find(|node| node.name == name).ok_or_else(missing)?;
        let mut children = Vec::new();
        // QEMU puts those first that came last.
        for (role, child) in info.children.iter().rev() {
            children.push((*role, node(session, nodes, child).await?));
        }
        let file = |(role, _): &&(&str, _)| *role == "file";
        let mut snapshots = info.snapshots.clone();
        let mut image = None;
        if let Some((_, file)) = info.children.iter().find(file).filter(|_| info.driver == "qcow2") {
            let header = session.header(file).await?;
            let filename = info.filename.as_deref().unwrap_or(Path::new("")).to_string_lossy();
            image = Some(details(session, file, header, &filename).await?);
        } else if let Some((_, file)) = children.iter().find(|(role, _)| *role == "file") {
            snapshots.clone_from(&file.snapshots);
        }
        Ok(About {
            snapshots,
            filename: info.full_name.clone(),
            format: info.driver,
            is_protocol: info.children.is_empty(),
            virtual_size: info.size.next_multiple_of(SECTOR),
            disk_size: match info.driver {
                "file" => allocated(session, info.filename.as_deref()).await,
                "null-co" | "null-aio" => Some(0),
                _ if info.children.is_empty() => None,
                _ => disk_size(&children),
            },
            storage: Storage::of(info.driver, image.as_ref(), &children),
            image,
            children,
        })
    })
}

/// What it lies on takes together, if all of it can be found out.
fn disk_size(children: &[(&'static str, About)]) -> Option<u64> {
    children.iter().filter(|(role, _)| *role != "backing").map(|(_, child)| child.disk_size).sum()
}

/// Bytes that a file takes on its disk, as far as that can be found out.
async fn allocated(session: &Session, path: Option<&Path>) -> Option<u64> {
    let file = session.engine.world().open(path?, OpenOptions::default()).await.ok()?;
    file.allocated().ok()
}

/// Size of an image without tables: options may say that it is a part of what it lies on.
async fn opened_size(session: &Session, looked: &Looked, options: NodeOptions) -> Result<u64> {
    let mut map = options.own;
    map.extend(naming::object(
        json!({ "driver": options.driver.name, "file": looked.node, "read-only": true }),
    ));
    let node = session.engine.add_node(map).await?;
    let size = session.engine.size(&node)?.next_multiple_of(SECTOR);
    session.engine.delete_node(&node).await?;
    Ok(size)
}

/// What the tables of an image in the node `file` say.
async fn details(session: &Session, file: &str, header: Header, filename: &str) -> Result<Details> {
    let backing = header.backing.as_ref();
    let full_backing = backing.map(|backing| naming::full_name(&backing.name, filename));
    Ok(Details { bitmaps: stored_bitmaps(session, file, &header).await?, full_backing, header })
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

/// The internal snapshots that it names.
async fn stored_snapshots(session: &Session, file: &str, header: &Header) -> Result<Vec<SnapshotInfo>> {
    if header.snapshots.count == 0 {
        return Ok(Vec::new());
    }
    let reader = session.engine.look("info", file)?;
    let found =
        driver::formats::qcow2::snapshots(header, reader.size(), async |range| reader.read(range).await)
            .await;
    reader.close().await?;
    Ok(found?)
}
