//! Caches with a quota: what has no room is read through, and the quota lives as long as only we write.

use std::sync::atomic::Ordering::SeqCst;

use crate::lab::{Lab, Tree, qcow2 as images, same};
use block::ByteRange;
use flow::{Op, Request, Role, View, Whence, seam};
use io::Lease;
use qcow2::{Header, NewImage, cache};
use serde_json::{Value, json};
use sim::{Options, SimWorld};

const CLUSTER: u64 = 64 << 10;
const SIZE: u64 = 4 << 20;
const QUOTA: u64 = 20 * CLUSTER;

fn bytes() -> Vec<u8> {
    (0..SIZE).map(|at| (at % 251) as u8 | 1).collect()
}

fn image() -> NewImage {
    NewImage {
        extensions: vec![cache::extension(&cache::with_quota(QUOTA)).unwrap()],
        autoclear: cache::AUTOCLEAR,
        ..NewImage::new(SIZE, 16).over("base", "raw")
    }
}

async fn over(lab: &Lab<SimWorld>, cache: &Tree) -> Tree {
    lab.open("copy-on-read", json!({}), &[(Role::Filtered, cache)]).await
}

/// A new cache of `source`, and copy-on-read over it.
async fn cached(lab: &Lab<SimWorld>, source: &Tree) -> (Tree, Tree) {
    let cache = lab.qcow2("disk", &image(), json!({}), Some(source)).await;
    let top = over(lab, &cache).await;
    (cache, top)
}

async fn read_all(view: &View, bytes: &[u8]) {
    for start in (0..SIZE).step_by(10_000) {
        let range = ByteRange::new(start, 10_000).intersection(ByteRange::new(0, SIZE));
        same(&seam::read(view, range).await.unwrap(), &bytes[start as usize..range.end() as usize]);
    }
}

async fn sync(view: &View) {
    seam::execute(view, Request::flush(), Lease::empty()).await.0.unwrap();
}

#[test]
fn what_has_no_room_is_read_through_and_not_stored() {
    let (world, bytes) = (SimWorld::new(1, Options::calm()), bytes());
    let file = |world: &SimWorld| world.disk().durable_bytes("disk").unwrap();
    world.run(async {
        let lab = Lab::new(&world);
        world.disk().put("base", &bytes);
        let (base, counts) = lab.file("base").await;
        let (cache, top) = cached(&lab, &base).await;
        read_all(&top.view(), &bytes).await;
        sync(&top.view()).await;
        let used = file(&world).len() as u64;
        assert!(used <= QUOTA && used + 3 * CLUSTER > QUOTA, "{used} of {QUOTA}");
        // A read across two granules may find no room where one across one still does.
        let fetched = counts.read_bytes.load(SeqCst);
        assert!((SIZE..SIZE + CLUSTER).contains(&fetched), "{fetched}: no more than was asked for");
        seam::execute(&top.view(), Request::new(Op::Cache, ByteRange::new(0, SIZE)), Lease::empty())
            .await
            .0
            .unwrap();
        assert_eq!(counts.read_bytes.load(SeqCst), fetched, "nothing is fetched that cannot be kept");
        let held = SIZE - missing(&cache.view()).await;
        read_all(&top.view(), &bytes).await;
        assert_eq!(
            counts.read_bytes.load(SeqCst),
            fetched + SIZE - held,
            "what is held is not fetched again"
        );
    });
    world.run(async {
        // Opened again, by anybody: the bit was kept, since a quota is true whatever is written.
        let lab = Lab::new(&world);
        let (base, _) = lab.file("base").await;
        let cache = lab.open_qcow2("disk", json!({}), Some(&base)).await;
        assert_eq!(cache.node().powers().quota.unwrap().limit(), QUOTA);
        let top = over(&lab, &cache).await;
        // What a guest writes is kept, room or not.
        seam::write(&top.view(), 100, &[0; 3000]).await.unwrap();
        seam::write(&top.view(), SIZE - 3000, &[0; 3000]).await.unwrap();
        same(&seam::read(&top.view(), ByteRange::new(SIZE - 4000, 4000)).await.unwrap()[1000..], &[0; 3000]);
        sync(&top.view()).await;
    });
    assert_eq!(images::check(&file(&world)).unwrap().leaks, 0);
}

#[test]
fn of_what_is_read_at_once_as_much_is_kept_as_has_room() {
    for op in [Op::Read, Op::Cache] {
        let (world, bytes) = (SimWorld::new(1, Options::calm()), bytes());
        world.run(async {
            let lab = Lab::new(&world);
            world.disk().put("base", &bytes);
            let (base, _) = lab.file("base").await;
            let (_, top) = cached(&lab, &base).await;
            let lease = Lease::new(if op == Op::Read { SIZE as usize } else { 0 });
            let (result, lease) =
                seam::execute(&top.view(), Request::new(op, ByteRange::new(0, SIZE)), lease).await;
            result.unwrap();
            assert!(lease.is_empty() || lease[..] == bytes[..]);
            sync(&top.view()).await;
        });
        let used = world.disk().durable_bytes("disk").unwrap().len() as u64;
        assert!(used <= QUOTA && used + 3 * CLUSTER > QUOTA, "{op:?}: {used} of {QUOTA}");
    }
}

async fn missing(view: &View) -> u64 {
    let (mut missing, mut rest) = (0, ByteRange::new(0, SIZE));
    while !rest.is_empty() {
        let (whence, len) = seam::whence(view, None, rest).await.unwrap();
        let held = whence == Whence::Here;
        missing += if held { 0 } else { len };
        rest = rest.skip(len);
    }
    missing
}

#[test]
fn a_foreign_writer_disarms_it() {
    let world = SimWorld::new(1, Options::calm());
    let quota = world.run(async {
        let lab = Lab::new(&world);
        world.disk().put("base", &bytes());
        let (base, _) = lab.file("base").await;
        let mut disk = images::file_of(&image());
        // Its bit is cleared by whoever does not know it (byte 88 holds bits 56 to 63).
        disk[88] &= !0x40;
        world.disk().put("disk", &disk);
        let header = Header::parse(&disk[..CLUSTER as usize]).unwrap();
        assert_eq!((header.features.autoclear, header.unknown_extensions.len()), (0, 1));
        let cache = lab.open_qcow2("disk", Value::Object(Default::default()), Some(&base)).await;
        cache.node().powers().quota.map(flow::Quota::limit)
    });
    assert_eq!(quota, None);
}

#[test]
fn a_fill_that_waits_for_demand_keeps_to_the_quota() {
    let (world, bytes) = (SimWorld::new(1, Options::calm()), bytes());
    world.run(async {
        let lab = Lab::new(&world);
        world.disk().put("base", &bytes);
        let (base, _) = lab.file("base").await;
        let slow = lab.open("delay", json!({"read-ms": 50}), &[(Role::Filtered, &base)]).await;
        let (_, top) = cached(&lab, &slow).await;
        let view = top.view();
        let demand = seam::read(&view, ByteRange::new(0, CLUSTER));
        let fill = |at: u64| {
            let rq = Request::new(Op::Cache, ByteRange::new(at * CLUSTER, CLUSTER))
                .with_priority(block::Priority::Fill);
            let view = &view;
            async move { seam::execute(view, rq, Lease::empty()).await.0.unwrap() }
        };
        let fills = futures_util::future::join_all((1..60).map(fill));
        let (read, _) = futures_util::future::join(demand, fills).await;
        read.unwrap();
        sync(&top.view()).await;
    });
    let used = world.disk().durable_bytes("disk").unwrap().len() as u64;
    assert!(used <= QUOTA, "{used} of {QUOTA}");
}

/// How long the file of a cache becomes when many clients read here and there, a few bytes at a time each.
fn length(seed: u64, cluster_bits: u32, quota: u64, refcount_bits: u32) -> u64 {
    let world = SimWorld::new(seed, Options::default());
    let size = 64 << 20;
    world.disk().put("base", &vec![7; size as usize]);
    let image = NewImage {
        extensions: vec![cache::extension(&cache::with_quota(quota)).unwrap()],
        autoclear: cache::AUTOCLEAR,
        refcount_bits,
        ..NewImage::new(size, cluster_bits).over("base", "raw")
    };
    world.run(async {
        let lab = Lab::new(&world);
        let (base, _) = lab.file("base").await;
        let cache = lab.qcow2("disk", &image, json!({}), Some(&base)).await;
        let top = over(&lab, &cache).await;
        let clients = (0..16).map(|client| {
            let view = top.view();
            async move {
                let mut rng = sim::Rng::new(seed * 16 + client);
                for _ in 0..40 {
                    let longest = if rng.chance(0.1) { 1 << 20 } else { 5000 };
                    let len = 1 + rng.below(longest);
                    let at = rng.below(size - len);
                    let read = seam::read(&view, ByteRange::new(at, len)).await.unwrap();
                    assert!(read.iter().all(|byte| *byte == 7));
                }
            }
        });
        futures_util::future::join_all(clients).await;
        sync(&top.view()).await;
    });
    let file = world.disk().durable_bytes("disk").unwrap();
    images::check(&file).unwrap();
    file.len() as u64
}

#[test]
fn it_is_never_exceeded_whoever_reads_where_at_the_same_time() {
    for seed in 0..4 {
        for (bits, quota, refcount_bits) in [
            (9, 1 << 20, 64),
            (9, 300_000, 16),
            (12, 1_000_000, 16),
            (16, 1_000_000, 16),
            (16, 3_000_001, 1),
            (18, 4 << 20, 16),
        ] {
            let length = length(seed, bits, quota, refcount_bits);
            assert!(length <= quota, "seed {seed}: {length} of {quota}, clusters of {} bytes", 1 << bits);
            assert!(length > quota / 2, "seed {seed}: only {length} of {quota}");
        }
    }
}
