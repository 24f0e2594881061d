//! Tables that cannot be read, in the simulated world: an error of that read only, and read again later.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use block::{Errno, ErrorKind};
use engine::{Engine, EngineOptions, ImagePolicy};
use futures_util::FutureExt;
use futures_util::future::join_all;
use io::World;
use serde_json::json;
use sim::{OpKind, Options, SimDisk, SimWorld, Verdict};

use crate::disk::{Disk, qcow2};
use crate::handmade::{CLUSTER, COPIED, Handmade};

const SIZE: u64 = 128 << 20;
/// Guest bytes that a slice of 4 KiB maps.
const SPAN: u64 = 32 << 20;

/// An image with plain clusters at the start of each slice, and a compressed one behind each; answers its table.
fn image() -> (Handmade, u64) {
    let (mut image, table) = Handmade::with_table(3, SIZE, 0);
    for slice in 0..SIZE / SPAN {
        let index = slice * SPAN / CLUSTER;
        let at = image.fill(1 + slice as u8);
        image.l2(table, index, at | COPIED, 0);
        let compressed = image.store(101 + slice as u8);
        image.l2(table, index + 1, compressed, 0);
    }
    (image, table)
}

fn run<T>(
    seed: u64,
    options: Options,
    disk: SimDisk,
    test: impl AsyncFnOnce(&Arc<Engine>, SimDisk) -> T,
) -> T {
    let world = SimWorld::with_disk(seed, options, disk);
    let shared: Arc<dyn World> = Arc::new(world.clone());
    let engine_options =
        EngineOptions { threads: 1, policy: ImagePolicy::Anywhere, ..EngineOptions::default() };
    world.run(async {
        let engine = Engine::new(shared, engine_options).unwrap();
        test(&engine, world.disk()).await
    })
}

async fn expect(disk: &Disk, start: u64, byte: u8) {
    let got = disk.read(start, 5000).await.unwrap();
    assert!(got.iter().all(|b| *b == byte), "at {start}");
}

fn on_disk() -> (SimDisk, u64) {
    let (disk, (image, table)) = (SimDisk::new(), image());
    disk.put("image", &image.bytes);
    (disk, table)
}

#[test]
fn a_table_that_cannot_be_read_fails_its_readers_and_is_read_again() {
    let (disk, table) = on_disk();
    run(1, Options::calm(), disk, async |engine, on| {
        let disk = Disk::image(engine, Path::new("image")).await.unwrap();
        let slice = table + 4096;
        on.set_policy(move |op| match op.kind == OpKind::Read && op.range.start() == slice {
            true => Verdict::Fail(Errno::IO),
            false => Verdict::Go,
        });
        for start in [SPAN, SPAN + CLUSTER, SPAN + (5 << 20), SPAN - 1] {
            let error = disk.read(start, 5000).await.unwrap_err();
            let said = error.to_string();
            let words = ["image 'image'", "L2 table at", &format!("{slice:#x}"), "guest offset 0x2000000"];
            assert!(words.iter().all(|word| said.contains(word)), "{said}");
            assert_eq!(error.kind(), ErrorKind::Io);
            expect(&disk, 0, 1).await;
            expect(&disk, 2 * SPAN + CLUSTER, 103).await;
        }
        assert!(disk.extents().await.is_err());
        on.clear_policy();
        expect(&disk, SPAN, 2).await;
        expect(&disk, SPAN + CLUSTER, 102).await;
        assert!(disk.extents().await.is_ok());
    });
}

#[test]
fn a_compressed_cluster_that_cannot_be_read_is_read_again() {
    let (disk, _) = on_disk();
    run(1, Options::calm(), disk, async |engine, on| {
        let disk = Disk::image(engine, Path::new("image")).await.unwrap();
        expect(&disk, 0, 1).await;
        // Only packed clusters are read in one piece of that length.
        on.set_policy(|op| match op.kind == OpKind::Read && op.range.len() > CLUSTER {
            true => Verdict::Fail(Errno::IO),
            false => Verdict::Go,
        });
        for _ in 0..3 {
            assert_eq!(disk.read(CLUSTER + 7, 1).await.unwrap_err().kind(), ErrorKind::Io);
        }
        on.clear_policy();
        expect(&disk, CLUSTER + 7, 101).await;
        on.set_policy(|_| Verdict::Fail(Errno::IO));
        expect(&disk, CLUSTER + 7, 101).await;
    });
}

#[test]
fn what_many_want_is_read_once() {
    let (disk, table) = on_disk();
    run(1, Options::calm(), disk, async |engine, on| {
        let disk = Disk::image(engine, Path::new("image")).await.unwrap();
        let reads = Arc::new(AtomicUsize::new(0));
        let count = reads.clone();
        on.set_policy(move |op| {
            let wanted = op.range.start() == table || op.range.len() > CLUSTER;
            count.fetch_add(usize::from(op.kind == OpKind::Read && wanted), Ordering::SeqCst);
            if op.inline { Verdict::Hold } else { Verdict::Go }
        });
        // The table, the packed cluster.
        join_all((0..50).map(|n| expect(&disk, CLUSTER + n, 101))).await;
        // An inline read that would block does not count as one that was made.
        let made = reads.load(Ordering::SeqCst);
        assert!(made <= 4, "{made} reads");
    });
}

#[test]
fn a_reader_that_leaves_does_not_take_the_table_with_it() {
    let (disk, table) = on_disk();
    run(1, Options::calm(), disk, async |engine, on| {
        let disk = Disk::image(engine, Path::new("image")).await.unwrap();
        on.set_policy(move |op| match op.range.start() == table && op.kind == OpKind::Read {
            true => Verdict::Hold,
            false => Verdict::Go,
        });
        let mut first = Box::pin(disk.read(0, 1));
        assert!(first.as_mut().now_or_never().is_none());
        let mut second = Box::pin(disk.read(CLUSTER, 1));
        assert!(second.as_mut().now_or_never().is_none());
        drop(first);
        on.clear_policy();
        assert_eq!(second.await.unwrap(), [101]);
        on.release_all();
    });
}

#[test]
fn errors_by_chance_never_become_wrong_bytes() {
    for seed in 0..30 {
        let (disk, _) = on_disk();
        let (mut failed, mut read) = (0, 0);
        run(seed, Options::default(), disk, async |engine, on| {
            let mut options = qcow2(Path::new("image"));
            options["l2-cache-size"] = json!(0);
            let disk = Disk::open(engine, options).await.unwrap();
            on.adjust(|options| options.read_errors = 0.2);
            for round in 0..10 {
                let reads = (0..8).map(|n| {
                    let slice = (n + round) % (SIZE / SPAN);
                    let start = slice * SPAN + n % 2 * CLUSTER;
                    let byte = 1 + slice as u8 + (n % 2 * 100) as u8;
                    disk.read(start + 100, 9000).map(move |got| got.map(|got| got.iter().all(|b| *b == byte)))
                });
                for got in join_all(reads).await {
                    match got {
                        Ok(right) => {
                            assert!(right, "seed {seed}");
                            read += 1;
                        }
                        Err(error) => {
                            assert_eq!(error.kind(), ErrorKind::Io, "seed {seed}: {error}");
                            failed += 1;
                        }
                    }
                }
            }
        });
        assert!(failed > 0 && read > 0, "seed {seed}: {failed} failed, {read} read");
    }
}

/// A chain whose layers have room for two slices each, and more readers than that in each of them.
#[test]
fn a_deep_chain_with_tiny_caches_gets_on() {
    const DEPTH: u64 = 24;
    let disk = SimDisk::new();
    let mut options = json!(null);
    for depth in 0..DEPTH {
        let (mut image, _) = match depth {
            0 => image(),
            _ => Handmade::with_table(3, SIZE, 0),
        };
        image.grow();
        disk.put(format!("{depth}"), &image.bytes);
        let mut layer = qcow2(Path::new(&depth.to_string()));
        layer["l2-cache-size"] = json!(0);
        layer["l2-cache-entry-size"] = json!(512);
        layer["backing"] = options;
        options = layer;
    }
    let rough = Options { max_turns: 2_000_000, ..Options::default() };
    run(7, rough, disk, async |engine, _| {
        let disk = Disk::open(engine, options).await.unwrap();
        let reads = (0..64).map(|n| {
            let slice = n % (SIZE / SPAN);
            let at = slice * SPAN + (n / 4 % 2) * CLUSTER;
            let byte = 1 + slice as u8 + (n / 4 % 2 * 100) as u8;
            let disk = &disk;
            async move { expect(disk, at + n, byte).await }
        });
        join_all(reads).await;
        // Other slices of 512 bytes, all of them empty.
        join_all((0..64).map(|n| expect(&disk, (2 * n + 1) << 20, 0))).await;
    });
}
