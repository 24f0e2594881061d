//! Our hands: requests through the engine, in this process.

use std::path::Path;
use std::sync::Arc;

use block::ByteRange;
use engine::{Engine, EngineOptions, ImagePolicy};
use flow::{Flags, Op, Request, seam};
use graph::{Demand, User};
use io::Lease;
use io::real::RealWorld;
use serde_json::json;

use crate::steps::Change;

/// Does all that to the image at `path`, flushes and closes it.
pub(crate) fn change(path: &Path, changes: &[Change]) {
    with_image(path, false, async |view| {
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

/// What the image at `path` reads as.
pub(crate) fn read(path: &Path) -> Vec<u8> {
    with_image(path, true, async |view| {
        seam::read(view, ByteRange::new(0, view.size())).await.unwrap().to_vec()
    })
}

fn with_image<T>(path: &Path, read_only: bool, work: impl AsyncFnOnce(&flow::View) -> T) -> T {
    let world = RealWorld::new();
    let shared: Arc<dyn io::World> = Arc::new(world.clone());
    world.block_on(async move {
        let options = EngineOptions { threads: 1, policy: ImagePolicy::Anywhere, ..EngineOptions::default() };
        let engine = Engine::new(shared, options).unwrap();
        let node = json!({
            "driver": "qcow2", "file": {"driver": "file", "filename": path}, "node-name": "disk",
            "discard": "unmap", "read-only": read_only,
        });
        engine.add_node(node.as_object().unwrap().clone()).await.unwrap();
        let demand = if read_only { Demand::READ } else { Demand::WRITE };
        let (user, root) = engine.attach("disk", User::named("test"), demand).unwrap();
        let done = work(&root.view()).await;
        engine.detach(user).await.unwrap();
        engine.delete_node("disk").await.unwrap();
        done
    })
}
