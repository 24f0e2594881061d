//! Nodes: add, delete, list.

use std::collections::BTreeMap;
use std::sync::Arc;

use engine::{Engine, Event, NodeInfo};
use qmp::schema::Nothing;

use crate::failure::Failure;
use crate::table::Table;
use crate::types::dirty_bitmap::BitmapDescription;
use crate::types::image_info::ImageDescription;
use crate::types::node_info::{BlockImageCorrupted, CacheDescription, NodeDescription};
use crate::types::node_options::{DetectZeroes, NodeArguments};
use crate::types::number::number;

qmp::structure! {
    /// Arguments of `blockdev-del`.
    pub struct Delete {
        /// Which node.
        "node-name" => node_name: String,
    }
}

qmp::structure! {
    /// Arguments of `block_resize`.
    pub struct Resize {
        /// Which device: there are none.
        "device" => device: Option<String>,
        /// Which node.
        "node-name" => node_name: Option<String>,
        /// Its new size in bytes.
        "size" => size: i64,
    }
}

qmp::structure! {
    /// Arguments of `query-named-block-nodes`.
    pub struct Query {
        /// Leave out the images below each.
        "flat" => flat: Option<bool>,
    }
}

pub(super) fn add(table: &mut Table, engine: &Arc<Engine>) {
    table.event("BLOCK_IMAGE_CORRUPTED", corrupted);
    let of = engine.clone();
    table.command("blockdev-add", move |NodeArguments(options): NodeArguments| {
        let engine = of.clone();
        async move {
            if !options.contains_key("node-name") {
                return Err(Failure::new("'node-name' must be specified for the root node"));
            }
            engine.add_node(options).await?;
            Ok(Nothing)
        }
    });
    let of = engine.clone();
    table.command("blockdev-del", move |arguments: Delete| {
        let engine = of.clone();
        async move {
            engine.delete_node(&arguments.node_name).await?;
            Ok(Nothing)
        }
    });
    let of = engine.clone();
    table.command("block_resize", move |arguments: Resize| {
        let engine = of.clone();
        async move { resize(&engine, arguments).await }
    });
    let of = engine.clone();
    table.command("query-named-block-nodes", move |arguments: Query| {
        let engine = of.clone();
        async move { Ok(describe(&engine, arguments.flat.unwrap_or(false)).await) }
    });
}

async fn resize(engine: &Engine, arguments: Resize) -> Result<Nothing, Failure> {
    let Resize { device, node_name, size } = arguments;
    let (device, node) = (device.unwrap_or_default(), node_name.unwrap_or_default());
    if !engine.has_node(&node) {
        return Err(Failure::new(format!("Cannot find device='{device}' nor node-name='{node}'")));
    }
    let size = u64::try_from(size).map_err(|_| Failure::new("Parameter 'size' expects a >0 size"))?;
    engine.resize(&node, size).await?;
    Ok(Nothing)
}

fn corrupted(event: &Event) -> Option<BlockImageCorrupted> {
    let Event::ImageCorrupt { node, message, range, fatal } = event else { return None };
    Some(BlockImageCorrupted {
        device: String::new(),
        node_name: Some(node.clone()),
        msg: message.clone(),
        offset: range.map(|range| number(range.start())),
        size: range.map(|range| number(range.len())),
        fatal: *fatal,
    })
}

async fn describe(engine: &Engine, flat: bool) -> Vec<NodeDescription> {
    let nodes = engine.nodes();
    let by_name: BTreeMap<&str, &NodeInfo> = nodes.iter().map(|node| (node.name.as_str(), node)).collect();
    let mut list: Vec<_> = nodes.iter().map(|node| description(node, &by_name, flat)).collect();
    for (node, description) in nodes.iter().zip(&mut list) {
        description.dirty_bitmaps = dirty_bitmaps(engine, &node.name).await;
    }
    list
}

/// What is known of them: a node that went meanwhile, or whose bitmaps cannot be read, is told of without.
async fn dirty_bitmaps(engine: &Engine, node: &str) -> Option<Vec<BitmapDescription>> {
    let bitmaps = engine.bitmaps(node).await.unwrap_or_default();
    (!bitmaps.is_empty()).then(|| bitmaps.iter().rev().map(BitmapDescription::of).collect())
}

fn description(node: &NodeInfo, nodes: &BTreeMap<&str, &NodeInfo>, flat: bool) -> NodeDescription {
    let next = |node: &NodeInfo| shown_below(node, nodes).filter(|_| !flat);
    let chain: Vec<_> = std::iter::successors(next(node), |below| next(below)).collect();
    let mut below: Option<Box<ImageDescription>> = None;
    // From the bottom up.
    for image in chain.iter().rev() {
        below = Some(Box::new(ImageDescription::of(image, below.take())));
    }
    NodeDescription {
        file: node.full_name.clone(),
        node_name: Some(node.name.clone()),
        read_only: node.read_only,
        driver: node.driver.to_owned(),
        dirty_bitmaps: None,
        backing_file: child(node, "backing", nodes).map(|backing| backing.full_name.clone()),
        backing_file_depth: chain.len().try_into().unwrap_or(i64::MAX),
        active: true,
        encrypted: false,
        detect_zeroes: detect_zeroes(node),
        bps: 0,
        bps_read: 0,
        bps_write: 0,
        iops: 0,
        iops_read: 0,
        iops_write: 0,
        image: ImageDescription::of(node, below),
        cache: CacheDescription { writeback: true, direct: node.direct, no_flush: node.no_flush },
        write_threshold: 0,
    }
}

/// What shows where the node itself holds nothing.
fn shown_below<'n>(node: &NodeInfo, nodes: &BTreeMap<&str, &'n NodeInfo>) -> Option<&'n NodeInfo> {
    child(node, if node.is_filter { "file" } else { "backing" }, nodes)
}

fn child<'n>(node: &NodeInfo, role: &str, nodes: &BTreeMap<&str, &'n NodeInfo>) -> Option<&'n NodeInfo> {
    nodes.get(node.child(role)?).copied()
}

fn detect_zeroes(node: &NodeInfo) -> DetectZeroes {
    match node.detect_zeroes {
        engine::DetectZeroes::Off => DetectZeroes::Off,
        engine::DetectZeroes::On => DetectZeroes::On,
        engine::DetectZeroes::Unmap => DetectZeroes::Unmap,
    }
}
