//! The life of a qcow2 cache: read through, filled beside its readers, cut off its source, reopened read-only; and what
//! a power cut at any point of it leaves, which is opened again and filled to its end.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::sync::Arc;

use block::ByteRange;
use engine::{Engine, EngineOptions, Reader};
use flow::copy::Policy;
use futures_util::future::{join, join_all};
use qcow2::{Header, NewImage, cache};
use serde_json::{Value, json};
use sim::{CrashPoint, Options, Rng, SimDisk, SimWorld};

const SIZE: u64 = (2 << 20) + 512;
const IDENTITY: &str = r#"{"source":"image"}"#;

/// A disk with an image, about half of it holes, and an empty cache of it.
fn disk(seed: u64) -> (SimDisk, Vec<u8>) {
    let (disk, mut rng) = (SimDisk::new(), Rng::new(seed));
    let mut image = vec![0; SIZE as usize];
    for part in image.chunks_mut(20_000) {
        if rng.chance(0.5) {
            part.fill_with(|| (1 + rng.below(255)) as u8);
        }
    }
    disk.put("image", &image);
    let fresh = NewImage {
        extensions: vec![cache::extension(IDENTITY).unwrap()],
        autoclear: cache::AUTOCLEAR,
        ..NewImage::new(SIZE, 14).over("image", "raw")
    };
    let fresh = fresh.bytes().unwrap();
    let mut file = vec![0; fresh.len as usize];
    for (at, bytes) in fresh.pieces {
        file[at.0 as usize..][..bytes.len()].copy_from_slice(&bytes);
    }
    disk.put("cache", &file);
    (disk, image)
}

fn header(disk: &SimDisk) -> Header {
    Header::parse(&disk.peek("cache", ByteRange::new(0, 1 << 14)).unwrap()).unwrap()
}

async fn add(engine: &Engine, options: Value) {
    engine.add_node(options.as_object().unwrap().clone()).await.unwrap();
}

/// The cache, over its source as long as it names it.
async fn open(world: &SimWorld) -> Arc<Engine> {
    let options = EngineOptions { threads: 2, ..EngineOptions::default() };
    let engine = Engine::new(Arc::new(world.clone()), options).unwrap();
    let file = json!({"driver": "file", "filename": "cache", "node-name": "cache-file"});
    let cache = json!({"driver": "qcow2", "node-name": "cache", "file": file, "keep-identity": true});
    if header(&world.disk()).backing.is_none() {
        add(&engine, merged(cache, json!({"node-name": "top", "backing": null, "read-only": true}))).await;
        return engine;
    }
    let image = json!({"driver": "file", "filename": "image"});
    add(&engine, json!({"driver": "raw", "node-name": "source", "read-only": true, "file": image})).await;
    add(&engine, merged(cache, json!({"backing": "source"}))).await;
    add(&engine, json!({"driver": "copy-on-read", "node-name": "top", "file": "cache"})).await;
    engine
}

fn merged(mut options: Value, more: Value) -> Value {
    options.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    options
}

async fn check(reader: &Reader, range: ByteRange, image: &[u8]) {
    let read = reader.read(range).await.unwrap();
    assert!(read[..] == image[range.start() as usize..range.end() as usize], "{range} is wrong");
}

async fn guest(reader: &Reader, image: &[u8], mut rng: Rng) {
    for _ in 0..20 {
        let start = rng.below(SIZE / 512) * 512;
        let range = ByteRange::new(start, 512 * (1 + rng.below(200)));
        check(reader, range.intersection(ByteRange::between(0, SIZE)), image).await;
    }
}

/// From what there is to the end.
async fn live(world: &SimWorld, image: &[u8], mut rng: Rng) {
    let engine = open(world).await;
    let readers: Vec<_> = (0..2).map(|n| engine.reader(&format!("guest{n}"), "top").unwrap()).collect();
    if header(&world.disk()).backing.is_some() {
        let guests: Vec<_> = readers.iter().map(|reader| guest(reader, image, rng.fork())).collect();
        let fill = engine.start_fill("fill", "top", Policy::default()).unwrap();
        join(fill.ended(), join_all(guests)).await.0.unwrap();
        engine.cut("top").await.unwrap();
        engine.delete_node("source").await.unwrap();
        let again = json!({"driver": "qcow2", "node-name": "cache", "file": "cache-file", "read-only": true, "backing": null});
        engine.reopen_node(again.as_object().unwrap().clone()).await.unwrap();
        assert!(engine.is_read_only("cache").unwrap());
    }
    for reader in readers {
        check(&reader, ByteRange::between(0, SIZE), image).await;
        reader.close().await.unwrap();
    }
}

fn is_complete(disk: &SimDisk) {
    let header = header(disk);
    assert_eq!((header.backing.as_ref(), cache::read(&header).unwrap()), (None, Some(IDENTITY)));
}

#[test]
fn a_cache_is_filled_cut_and_reopened() {
    for seed in 0..6 {
        let (disk, image) = disk(seed);
        let world = SimWorld::with_disk(seed, Options::default(), disk);
        world.run(live(&world, &image, Rng::new(seed)));
        is_complete(&world.disk().crash(&mut Rng::new(seed)));
    }
}

#[test]
fn a_power_cut_costs_no_byte() {
    let full = std::env::var_os("MILLPOND_TEST_FULL").is_some();
    for seed in 0..if full { 100 } else { 6 } {
        let (whole, image) = disk(seed);
        let world = SimWorld::with_disk(seed, Options::default(), whole);
        world.run(live(&world, &image, Rng::new(seed)));
        let points: Vec<_> = world.disk().counts().crash_points().collect();
        let mut rng = Rng::new(seed);
        for _ in 0..12 {
            let point: CrashPoint = points[rng.index(points.len())];
            let world = SimWorld::with_disk(seed, Options::default(), disk(seed).0);
            assert!(world.run_until_crash(point, live(&world, &image, Rng::new(seed))).is_none());
            let left = world.disk().crash(&mut rng);
            println!("seed {seed}, {point:?}");
            let after = SimWorld::with_disk(seed + 1000, Options::default(), left);
            after.run(live(&after, &image, rng.fork()));
            is_complete(&after.disk().crash(&mut rng));
        }
    }
}
