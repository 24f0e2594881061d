//! A chain of images on a simulated disk, made from a seed, and a stream over it.
//!
//! `base <- low <- mid <- top`: each with clusters and a size of its own, data and zeros over those below. A layer that
//! is shorter than the one below it hides what lies behind its end.

use std::process::Command;
use std::sync::Arc;

use engine::{Engine, EngineOptions, Job, StreamBase, StreamRequest};
use flow::{Flags, Op, Request, seam};
use graph::{Demand, User};
use io::Lease;
use qcow2::{Header, NewImage};
use serde_json::{Value, json};
use sim::{Options, Rng, SimDisk, SimWorld};

pub(crate) type World = SimWorld;

/// Bytes of the topmost image; those below have up to a quarter more, or less.
pub(crate) const SIZE: u64 = (384 << 10) + 1024;
const LAYERS: [&str; 4] = ["base", "low", "mid", "top"];

pub(crate) struct Scene {
    /// What the topmost image reads as in the beginning.
    pub(crate) content: Vec<u8>,
    /// What stays below it.
    pub(crate) stays: Option<&'static str>,
    base: StreamBase,
    /// What is streamed is opened read-only in the beginning, or not.
    speed: i64,
}

impl Scene {
    /// A scene and its disk.
    pub(crate) fn new(seed: u64) -> (Self, SimDisk) {
        let mut rng = Rng::new(seed ^ 0x5eed);
        let disk = SimDisk::new();
        let mut content = Vec::new();
        for (at, name) in LAYERS.into_iter().enumerate() {
            let quarter = rng.below(SIZE / 512 / 4) * 512;
            let size = match name {
                "top" => SIZE,
                _ if rng.chance(0.5) => SIZE + quarter,
                _ => SIZE - quarter,
            };
            let bits = [9, 12, 14, 16][rng.index(4)];
            let fresh = NewImage::new(size, bits);
            let fresh = if at > 0 { fresh.over(LAYERS[at - 1], "qcow2") } else { fresh };
            put(&disk, name, &fresh);
            content.resize(size as usize, 0);
            let world = SimWorld::with_disk(seed, Options::calm(), disk.clone());
            world.run(scribble(&world, at, &mut content, rng.fork()));
        }
        let (stays, base) = match rng.index(4) {
            0 => (Some("base"), StreamBase::Node("base".to_owned())),
            1 => (Some("low"), StreamBase::Bottom("mid".to_owned())),
            _ => (None, StreamBase::Nothing),
        };
        let speed = if rng.chance(0.3) { 20 << 20 } else { 0 };
        (Self { content, stays, base, speed }, disk)
    }

    /// All layers, by names of their own.
    pub(crate) async fn open(&self, world: &SimWorld) -> Arc<Engine> {
        let engine = engine(world);
        for at in 0..LAYERS.len() {
            add_layer(&engine, at, at + 1 < LAYERS.len()).await;
        }
        engine
    }

    /// The topmost image, as its header says.
    pub(crate) async fn open_by_name(&self, world: &SimWorld) -> Arc<Engine> {
        let engine = engine(world);
        let file = json!({"driver": "file", "filename": "top"});
        add(&engine, json!({"driver": "qcow2", "node-name": "top", "file": file})).await;
        engine
    }

    /// Starts the stream; `how` says what else is to be known of it.
    pub(crate) async fn stream(&self, engine: &Arc<Engine>, how: StreamRequest) -> block::Result<Arc<Job>> {
        let (id, node) = ("j".to_owned(), "top".to_owned());
        let request = StreamRequest { id, node, base: self.base.clone(), speed: self.speed, ..how };
        let events = engine.events().subscribe();
        engine.stream(request).await?;
        drop(events);
        Ok(engine
            .jobs()
            .find("j")
            .unwrap_or_else(|| panic!("it cannot have ended: nobody else has had a turn")))
    }

    /// What the header of the topmost image names.
    pub(crate) fn names(&self, disk: &SimDisk) -> Option<String> {
        let mut first = disk.bytes("top").unwrap();
        first.truncate(1 << 16);
        Header::parse(&first).unwrap().backing.map(|backing| backing.name)
    }
}

fn put(disk: &SimDisk, name: &str, fresh: &NewImage) {
    let fresh = fresh.bytes().unwrap();
    let mut file = vec![0; fresh.len as usize];
    for (at, bytes) in fresh.pieces {
        file[at.0 as usize..][..bytes.len()].copy_from_slice(&bytes);
    }
    disk.put(name, &file);
}

fn engine(world: &SimWorld) -> Arc<Engine> {
    let options = EngineOptions { threads: 2, ..EngineOptions::default() };
    Engine::new(Arc::new(world.clone()), options).unwrap()
}

async fn add(engine: &Engine, options: Value) {
    engine.add_node(options.as_object().unwrap().clone()).await.unwrap();
}

async fn add_layer(engine: &Engine, at: usize, read_only: bool) {
    let name = LAYERS[at];
    let file = json!({"driver": "file", "filename": name, "node-name": format!("{name}-file")});
    let backing = at.checked_sub(1).map(|below| LAYERS[below]);
    let node = json!({"driver": "qcow2", "node-name": name, "file": file, "backing": backing, "read-only": read_only});
    add(engine, node).await;
}

/// Writes to layer `at` over those below, and to the model.
async fn scribble(world: &SimWorld, at: usize, content: &mut [u8], mut rng: Rng) {
    let engine = engine(world);
    for layer in 0..=at {
        add_layer(&engine, layer, layer < at).await;
    }
    let (root, entry) = engine.attach(LAYERS[at], User::named("scribble"), Demand::WRITE).unwrap();
    let sectors = content.len() as u64 / 512;
    for _ in 0..6 + rng.below(12) {
        let start = rng.below(sectors);
        let len = (1 + rng.below(sectors / 6)).min(sectors - start);
        let part = &mut content[start as usize * 512..][..len as usize * 512];
        let view = entry.view();
        if rng.chance(0.3) {
            part.fill(0);
            let range = block::ByteRange::new(start * 512, len * 512);
            let rq = Request::new(Op::WriteZeroes, range).with_flags(Flags::MAY_UNMAP);
            seam::execute(&view, rq, Lease::empty()).await.0.unwrap();
        } else {
            part.fill_with(|| (1 + rng.below(255)) as u8);
            seam::write(&view, start * 512, part).await.unwrap();
        }
    }
    engine.flush(LAYERS[at]).await.unwrap();
    engine.detach(root).await.unwrap();
}

/// Nothing worse than leaks in the topmost image, says QEMU.
pub(crate) fn ask_qemu(scene: &Scene, disk: &SimDisk) {
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    for name in LAYERS {
        std::fs::write(folder.path().join(name), disk.bytes(name).unwrap()).unwrap();
    }
    let mut command = Command::new("qemu-img");
    command.args(["check", "-q", "-f", "qcow2", "top"]).current_dir(folder.path());
    let Ok(output) = command.output() else {
        return sim::skip("engine stream, what is left after a stream", "qemu-img");
    };
    assert!(matches!(output.status.code(), Some(0 | 3)), "{:?}: {output:?}", scene.stays);
}
