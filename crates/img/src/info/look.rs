//! Finding out what an image is. Of the format itself only the tables are read: nothing that it names is opened.

use block::ByteRange;
use engine::{FullName, ImageFacts, NodeInfo, NodeOptions, SnapshotInfo};
use flow::Role;
use graph::{Demand, User};
use qcow2::{BitmapEntry, Header};
use serde_json::json;

use super::about::About;
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
    let file = node(&nodes, &looked.node)?;
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
    let (virtual_size, own) = match &looked.header {
        Some(header) => {
            let filename = looked.named.filename(source.name);
            (header.virtual_size, Some(stored(session, &looked.node, header, &filename).await?))
        }
        None => (opened_size(session, looked, options).await?, None),
    };
    Ok(About {
        filename: name.text(),
        format: looked.format,
        is_protocol: false,
        virtual_size,
        facts: engine::lying_on(own, &[(Role::File, file.facts.clone())]),
        children: vec![("file", file)],
    })
}

/// A node that is open, with all that it lies on.
fn node(nodes: &[NodeInfo], name: &str) -> Result<About> {
    let missing = || Failure::new(format!("Cannot find device='' nor node-name='{name}'"));
    let info = nodes.iter().find(|node| node.name == name).ok_or_else(missing)?;
    // QEMU puts those first that came last.
    let children = info.children.iter().rev().map(|(role, child)| Ok((*role, node(nodes, child)?)));
    Ok(About {
        filename: info.full_name.clone(),
        format: info.driver,
        is_protocol: info.children.is_empty(),
        virtual_size: info.size.next_multiple_of(SECTOR),
        facts: info.facts.clone(),
        children: children.collect::<Result<_>>()?,
    })
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
async fn stored(session: &Session, file: &str, header: &Header, filename: &str) -> Result<ImageFacts> {
    let bitmaps = stored_bitmaps(session, file, header).await?;
    let snapshots = stored_snapshots(session, file, header).await?;
    Ok(ImageFacts { snapshots, ..driver::formats::qcow2::facts(header, &bitmaps, filename) })
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
