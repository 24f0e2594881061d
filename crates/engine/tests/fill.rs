//! The cache of a far image: read through it, filled beside its readers, cut off its source.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod listening;

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use block::{ByteRange, ErrorKind};
use engine::{
    Engine, EngineOptions, ExportRequest, JobState, NbdServer, Reader, ServerRequest, StreamRequest,
};
use export::nbd::ExportOptions;
use flow::copy::Policy;
use futures_util::future::{join, join_all};
use io::{Address, Lease, OpenOptions, World};
use serde_json::{Value, json};
use sim::{Link, Options, Rng, SimWorld};

const SIZE: u64 = (6 << 20) + 512;
const GRANULE: u64 = 64 << 10;

fn far() -> Address {
    Address::Tcp { host: "repository".to_owned(), port: 10809 }
}

/// The image as a guest sees it. Data from page to page, about half of it holes.
async fn make_image(world: &SimWorld, rng: &mut Rng) -> Vec<u8> {
    world.disk().put_hole("image", SIZE);
    world.disk().put_hole("cache", 0);
    let mut bytes = vec![0; SIZE as usize];
    let writable = OpenOptions { write: true, ..OpenOptions::default() };
    let file = world.open(Path::new("image"), writable).await.unwrap();
    let mut at = 0;
    while at < SIZE {
        let end = (at + 4096 * (1 + rng.below(40))).min(SIZE);
        if rng.chance(0.5) {
            let part = &mut bytes[at as usize..end as usize];
            part.fill_with(|| (1 + rng.below(255)) as u8);
            file.write(at, Lease::copy_of(part)).await.0.unwrap();
        }
        at = end;
    }
    bytes
}

async fn add(engine: &Engine, options: Value) {
    engine.add_node(options.as_object().unwrap().clone()).await.unwrap();
}

async fn serve(world: &Arc<SimWorld>) -> (Arc<Engine>, Arc<NbdServer>) {
    let engine =
        Engine::new(world.clone(), EngineOptions { threads: 1, ..EngineOptions::default() }).unwrap();
    let image = json!({"driver": "file", "filename": "image"});
    add(&engine, json!({"driver": "raw", "node-name": "image", "read-only": true, "file": image})).await;
    let server = Arc::new(engine.nbd_server(&ServerRequest::default()));
    let options = ExportOptions::read_only("disk");
    server.add(ExportRequest { id: "disk".to_owned(), node: "image".to_owned(), options }).unwrap();
    listening::listen(&server, far()).await;
    (engine, server)
}

async fn host(world: &Arc<SimWorld>) -> Arc<Engine> {
    let engine =
        Engine::new(world.clone(), EngineOptions { threads: 2, ..EngineOptions::default() }).unwrap();
    let server = json!({"type": "inet", "host": "repository", "port": "10809"});
    add(
        &engine,
        json!({"driver": "nbd", "node-name": "source", "read-only": true, "server": server, "export": "disk"}),
    )
    .await;
    let file = json!({"driver": "file", "filename": "cache"});
    add(
        &engine,
        json!({"driver": "memory-format", "node-name": "cache", "size": SIZE, "file": file, "backing": "source"}),
    )
    .await;
    add(&engine, json!({"driver": "copy-on-read", "node-name": "top", "file": "cache"})).await;
    engine
}

fn stat(engine: &Engine, node: &str, name: &str) -> u64 {
    let stats = engine.stats(node).unwrap();
    stats.iter().find(|(its, _)| its == name).unwrap().1
}

async fn check(reader: &Reader, range: ByteRange, image: &[u8]) {
    let read = reader.read(range).await.unwrap();
    assert!(read[..] == image[range.start() as usize..range.end() as usize], "{range} is wrong");
}

/// Bytes of the granules that hold data.
fn granules(image: &[u8]) -> u64 {
    let held = image.chunks(GRANULE as usize).filter(|granule| granule.iter().any(|byte| *byte != 0));
    held.map(|granule| granule.len() as u64).sum()
}

async fn guest(reader: &Reader, image: &[u8], mut rng: Rng) {
    for _ in 0..60 {
        let start = rng.below(SIZE / 512) * 512;
        let range =
            ByteRange::new(start, 512 * (1 + rng.below(300))).intersection(ByteRange::between(0, SIZE));
        check(reader, range, image).await;
    }
}

async fn life_of_a_cache(world: Arc<SimWorld>, mut rng: Rng) {
    let image = make_image(&world, &mut rng).await;
    let (_repository, server) = serve(&world).await;
    let engine = host(&world).await;
    let early = engine.cut("top").await.unwrap_err();
    assert!(early.kind() == ErrorKind::Busy && early.to_string().contains("fill it first"), "{early}");
    let readers: Vec<_> = (0..3).map(|n| engine.reader(&format!("guest{n}"), "top").unwrap()).collect();
    let guests = readers.iter().map(|reader| guest(reader, &image, rng.fork())).collect::<Vec<_>>();
    let fill = engine.start_fill("fill", "top", Policy::default()).unwrap();
    let progress = fill.progress().clone();
    let (filled, _) = join(fill.ended(), join_all(guests)).await;
    filled.unwrap();
    assert_eq!(progress.done.load(std::sync::atomic::Ordering::Relaxed), SIZE);
    // Holes and what was fetched already never travel.
    let received = stat(&engine, "source", "received-bytes");
    assert!(received <= granules(&image), "{received} of {}", granules(&image));
    engine.cut("top").await.unwrap();
    engine.delete_node("source").await.unwrap();
    server.remove("disk").await.unwrap();
    for reader in readers {
        check(&reader, ByteRange::between(0, SIZE), &image).await;
        reader.close().await.unwrap();
    }
}

#[test]
fn a_cache_is_filled_beside_its_readers_and_lives_without_its_source() {
    for seed in 0..12 {
        let mut options = Options { turn_cost: Duration::from_micros(1), ..Options::default() };
        options.net.link = Link { round_trip: Duration::from_millis(10), rate: 25_000_000 };
        options.max_turns = 2_000_000;
        let world = SimWorld::new(seed, options);
        println!("seed {seed}");
        world.run(life_of_a_cache(Arc::new(world.clone()), Rng::new(seed)));
    }
}

/// 2.5 MB are under way when it is full: as much as all the data of the image.
fn long_line() -> Options {
    let mut options = Options::calm();
    options.net.link = Link { round_trip: Duration::from_millis(20), rate: 125_000_000 };
    options
}

/// A test of a host's cache, before anything was fetched: what runs it, what serves the image, a guest, and the image.
fn on_host(
    options: Options,
    image: u64,
    test: impl AsyncFnOnce(&Arc<Engine>, &Arc<NbdServer>, &Reader, &[u8]),
) {
    let world = SimWorld::new(1, options);
    world.run(async {
        let shared = Arc::new(world.clone());
        let image = make_image(&world, &mut Rng::new(image)).await;
        let (_repository, server) = serve(&shared).await;
        let engine = host(&shared).await;
        let reader = engine.reader("guest", "top").unwrap();
        test(&engine, &server, &reader, &image).await;
        reader.close().await.unwrap();
    });
}

#[test]
fn what_is_there_is_not_fetched_again_nor_slows_the_fill_down() {
    on_host(long_line(), 2, async |engine, _, reader, image| {
        // Every second granule.
        let early: Vec<_> =
            (0..SIZE).step_by(2 * GRANULE as usize).map(|at| ByteRange::new(at, 512)).collect();
        join_all(early.iter().map(|range| check(reader, *range, image))).await;
        // Nobody expects the guests back by then.
        io::sleep(Duration::from_secs(1)).await;
        let requests = stat(engine, "source", "requests");
        let begun = io::now();
        engine.start_fill("fill", "top", Policy::default()).unwrap().ended().await.unwrap();
        // Alone or with its neighbour, each of the others is one request; one more asks for extents.
        assert!(stat(engine, "source", "requests") - requests <= SIZE / (2 * GRANULE) + 2);
        assert!(stat(engine, "source", "received-bytes") <= granules(image));
        // 148 ms in this world. It was 184 when what one chunk lacks was asked for piece by piece.
        assert!(io::now().since(begun) < Duration::from_millis(170), "{:?}", io::now().since(begun));
    });
}

#[test]
fn a_question_for_extents_is_asked_once_however_the_cache_is_cut_up() {
    on_host(Options::calm(), 1, async |engine, _, reader, image| {
        for start in (0..SIZE).step_by(2 * GRANULE as usize) {
            check(reader, ByteRange::new(start, 512), image).await;
        }
        let before = stat(engine, "source", "requests");
        let extents = reader.extents(ByteRange::between(0, SIZE)).await.unwrap();
        assert_eq!(stat(engine, "source", "requests") - before, 1);
        for extent in extents {
            let range = extent.range.start() as usize..extent.range.end() as usize;
            assert!(!extent.state.reads_zero() || image[range].iter().all(|byte| *byte == 0), "{extent:?}");
        }
    });
}

#[test]
fn a_stream_keeps_the_line_full_and_leaves_no_trace_of_the_source() {
    on_host(long_line(), 2, async |engine, server, reader, image| {
        let begun = io::now();
        let request =
            StreamRequest { id: "j".to_owned(), node: "top".to_owned(), ..StreamRequest::default() };
        engine.stream(request).await.unwrap();
        if let Some(job) = engine.jobs().find("j") {
            job.reached(|state| state == JobState::Null).await;
            assert_eq!(job.info().error, None);
        }
        let took = io::now().since(begun);
        println!("{took:?}");
        // One request of 512 KiB after the other takes a round trip for each of the 13.
        assert!(took < Duration::from_millis(200), "{took:?}");
        assert!(stat(engine, "source", "received-bytes") <= granules(image));
        engine.delete_node("source").await.unwrap();
        server.remove("disk").await.unwrap();
        check(reader, ByteRange::between(0, SIZE), image).await;
    });
}
