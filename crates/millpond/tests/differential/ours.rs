//! Our hands: requests through the engine, in this process.

use std::path::Path;
use std::sync::Arc;

use block::{ByteRange, DirtyBitmap};
use engine::{Engine, EngineOptions, ImagePolicy};
use flow::{Flags, Op, Request, seam};
use graph::{Demand, User};
use io::Lease;
use io::real::RealWorld;
use serde_json::{Value, json};

use crate::steps::Change;

/// Does all that to the image at `path`, flushes and closes it.
pub(crate) fn change(path: &Path, changes: &[Change]) {
    with_image(path, async |view| {
        for change in changes {
            let range = change.range();
            let rq = |op, flags| Request::new(op, range).with_flags(flags);
            match change {
                Change::Write { byte, compressed: false, .. } => {
                    seam::write(view, range.start(), &vec![*byte; range.len() as usize]).await.unwrap();
                }
                Change::Write { byte, compressed: true, .. } => {
                    let bytes = Lease::copy_of(&vec![*byte; range.len() as usize]);
                    seam::write_compressed(view, range.start(), bytes).await.unwrap();
                }
                Change::Zero { unmap, .. } => {
                    let flags = if *unmap { Flags::MAY_UNMAP } else { Flags::NONE };
                    seam::execute(view, rq(Op::WriteZeroes, flags), Lease::empty()).await.0.unwrap();
                }
                Change::Discard { .. } => {
                    seam::execute(view, rq(Op::Discard, Flags::NONE), Lease::empty()).await.0.unwrap();
                }
                Change::Flush => seam::execute(view, Request::flush(), Lease::empty()).await.0.unwrap(),
            }
        }
    });
}

/// What we see of an image.
pub(crate) struct Seen {
    pub(crate) bytes: Vec<u8>,
    /// Of each snapshot.
    pub(crate) snapshots: Vec<Vec<u8>>,
    pub(crate) bitmaps: Vec<DirtyBitmap>,
}

/// What the image at `path` reads as, its snapshots and bitmaps of these names.
pub(crate) fn read(path: &Path, snapshots: &[&str], bitmaps: &[&str]) -> Seen {
    with_engine(async |engine| {
        let bytes = read_node(&engine, json!({}), path).await;
        let (mut states, mut bits) = (Vec::new(), Vec::new());
        for name in snapshots {
            states.push(read_node(&engine, json!({ "snapshot": name }), path).await);
        }
        if !bitmaps.is_empty() {
            add(&engine, json!({ "read-only": true }), path).await;
            for name in bitmaps {
                bits.push(engine.bitmap("disk", name).await.unwrap());
            }
            engine.delete_node("disk").await.unwrap();
        }
        Seen { bytes, snapshots: states, bitmaps: bits }
    })
}

/// All of a node of the image with these options.
async fn read_node(engine: &Engine, options: Value, path: &Path) -> Vec<u8> {
    let mut options = options;
    options["read-only"] = json!(true);
    add(engine, options, path).await;
    let (user, root) = engine.attach("disk", User::named("test"), Demand::READ).unwrap();
    let view = root.view();
    let bytes = seam::read(&view, ByteRange::new(0, view.size())).await.unwrap().to_vec();
    drop(view);
    engine.detach(user).await.unwrap();
    engine.delete_node("disk").await.unwrap();
    bytes
}

fn with_image(path: &Path, work: impl AsyncFnOnce(&flow::View)) {
    with_engine(async |engine| {
        add(&engine, json!({ "discard": "unmap" }), path).await;
        let (user, root) = engine.attach("disk", User::named("test"), Demand::WRITE).unwrap();
        work(&root.view()).await;
        engine.detach(user).await.unwrap();
        engine.flush("disk").await.unwrap();
        engine.rest("disk").await.unwrap();
        engine.delete_node("disk").await.unwrap();
    });
}

/// The image as the node `disk`.
async fn add(engine: &Engine, options: Value, path: &Path) {
    let mut node = json!({
        "driver": "qcow2", "node-name": "disk", "file": { "driver": "file", "filename": path },
    });
    let node = node.as_object_mut().unwrap();
    node.extend(options.as_object().unwrap().clone());
    engine.add_node(node.clone()).await.unwrap();
}

fn with_engine<T>(work: impl AsyncFnOnce(Arc<Engine>) -> T) -> T {
    let world = RealWorld::new();
    let shared: Arc<dyn io::World> = Arc::new(world.clone());
    world.block_on(async move {
        let options = EngineOptions { threads: 1, policy: ImagePolicy::Anywhere, ..EngineOptions::default() };
        work(Engine::new(shared, options).unwrap()).await
    })
}
