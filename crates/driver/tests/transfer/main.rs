//! The copy of nodes into another: what arrives, in which order, how much is under way.

#![allow(unreachable_pub, reason = "modules of one test")]
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod failing;
#[path = "../lab/mod.rs"]
mod lab;
mod offload;

use std::cell::{Cell, RefCell};
use std::sync::{Arc, Mutex};

use block::{BlockError, ByteRange, Errno};
use flow::copy::{Failed, Follow, Over, Transfer, Zeroes, to_move, transfer};
use flow::{Request, Role, Root, seam};
use io::Lease;
use io::file::Offload;
use lab::{Lab, Tree, qcow2 as images, same};
use qcow2::NewImage;
use serde_json::json;
use sim::{OpKind, Options, Rng, SimWorld, Verdict};

const K: u64 = 1 << 10;

/// Copies all of it, as convert does.
const PLAIN: Transfer = Transfer {
    chunk: 64 * K,
    parallel: 8,
    ordered: true,
    sparse: 4096,
    zeroes: Zeroes::Skip,
    over: None,
    layers: 1,
    compress: false,
    offload: None,
    salvage: false,
    rate: None,
};

/// Notes what it is told.
#[derive(Default)]
struct Noting {
    moved: Cell<u64>,
    spared: Cell<u64>,
    lost: RefCell<Vec<u64>>,
    /// It is over when so much has been moved.
    ends_at: Option<u64>,
}

impl Follow for Noting {
    fn moved(&self, bytes: u64) {
        self.moved.set(self.moved.get() + bytes);
    }

    fn spared(&self, bytes: u64) {
        self.spared.set(self.spared.get() + bytes);
    }

    fn is_over(&self) -> bool {
        self.ends_at.is_some_and(|end| self.moved.get() >= end)
    }

    fn lost(&self, at: u64, _: &BlockError) {
        self.lost.borrow_mut().push(at);
    }
}

/// Nodes by the real drivers on a simulated disk.
struct Bench {
    world: SimWorld,
    lab: Lab,
}

impl Bench {
    fn new(world: &SimWorld) -> Self {
        Self { world: world.clone(), lab: Lab::new(world) }
    }

    async fn file(&self, path: &str) -> Tree {
        self.lab.open("file", json!({"filename": path}), &[]).await
    }

    async fn raw(&self, path: &str) -> Tree {
        let file = self.file(path).await;
        self.lab.open("raw", json!({}), &[(Role::Filtered, &file)]).await
    }

    /// An image that is there.
    async fn qcow2(&self, path: &str, backing: Option<&Tree>) -> Tree {
        let file = self.file(path).await;
        let mut children = vec![(Role::File, &file)];
        children.extend(backing.map(|tree| (Role::Backing, tree)));
        self.lab.open("qcow2", json!({}), &children).await
    }

    async fn new_qcow2(&self, path: &str, size: u64, bits: u32) -> Tree {
        images::put(&self.world.disk(), path, &NewImage::new(size, bits));
        self.qcow2(path, None).await
    }

    /// A raw file in which pages of noise, zeros and nothing alternate.
    async fn source(&self, path: &str, size: u64, rng: &mut Rng) -> Tree {
        self.world.disk().put_hole(path, size);
        let tree = self.raw(path).await;
        scribble(&tree, size, rng).await;
        tree
    }
}

async fn scribble(tree: &Tree, size: u64, rng: &mut Rng) {
    let (view, mut at) = (tree.view(), 0);
    while at < size {
        let len = (512 << rng.below(8)).min(size - at);
        let mut bytes = vec![0; len as usize];
        match rng.below(3) {
            0 => {}
            what => {
                if what == 1 {
                    rng.fill(&mut bytes);
                }
                seam::write(&view, at, &bytes).await.unwrap();
            }
        }
        at += len;
    }
}

async fn content(tree: &Tree) -> Vec<u8> {
    let view = tree.view();
    seam::read(&view, ByteRange::new(0, view.size())).await.unwrap().to_vec()
}

fn world(seed: u64) -> SimWorld {
    SimWorld::new(seed, Options::calm())
}

/// Nothing worse than nothing: leaks neither.
async fn is_sound(tree: &Tree) {
    let view = tree.view();
    let Some(power) = tree.node().powers().check else { return };
    let report = power.check(flow::Repair::Nothing, &mut |_| {}, view.next()).await.unwrap();
    assert_eq!((report.corruptions, report.leaks, report.errors), (0, 0, 0), "{report:?}");
}

#[test]
fn everything_arrives_whatever_the_plan() {
    let seeds = if std::env::var("MILLPOND_TEST_FULL").is_ok_and(|it| it == "1") { 600 } else { 60 };
    for seed in 1..=seeds {
        let world = SimWorld::new(seed, Options::default());
        world.run(one_plan(&world, seed));
    }
}

/// A copy from a seed: images of all kinds, and all ways.
async fn one_plan(world: &SimWorld, seed: u64) {
    let (bench, rng) = (Bench::new(world), &mut Rng::new(seed));
    let mut sources = Vec::new();
    for number in 0..1 + rng.below(3) {
        // Few of them end with a cluster, and some within a sector.
        let size = (1 + rng.below(600)) * 512 - rng.below(2) * rng.below(512);
        sources.push(any_source(&bench, &format!("source{number}"), size, rng).await);
    }
    let mut expected = Vec::new();
    for source in &sources {
        expected.extend(content(source).await);
        expected.resize(expected.len().next_multiple_of(512), 0);
    }
    let size = expected.len() as u64;
    let fresh = rng.chance(0.5);
    let is_raw = rng.chance(0.4);
    let to = match is_raw {
        true => {
            world.disk().put_hole("target", size);
            bench.raw("target").await
        }
        false => bench.new_qcow2("target", size, 9 + rng.below(8) as u32).await,
    };
    if !fresh {
        scribble(&to, size, rng).await;
    }
    let compress = !is_raw && rng.chance(0.3);
    let zeroes = if fresh { Zeroes::Skip } else { Zeroes::Write };
    let how = Transfer { zeroes, compress, ..any_way(compress, rng) };
    let roots: Vec<Arc<Root>> = sources.iter().map(|source| bench.lab.root(source)).collect();
    let (from, noting): (Vec<&Root>, _) = (roots.iter().map(|root| &**root).collect(), Noting::default());
    let to_root = bench.lab.root(&to);
    let announced = to_move(&from, &to_root, &how, &noting).await.unwrap();
    let copied = transfer(&from, &to_root, &how, &noting).await;
    copied.unwrap_or_else(|failed| panic!("seed {seed}: {failed:?}"));
    assert_eq!(noting.moved.get(), announced, "seed {seed}: {how:?}");
    assert_eq!(noting.moved.get() + noting.spared.get(), size, "seed {seed}: {how:?}");
    drop(to_root);
    println!("seed {seed}: {how:?}");
    same(&content(&to).await, &expected);
    is_sound(&to).await;
}

fn any_way(compress: bool, rng: &mut Rng) -> Transfer {
    let offloads = [None, Some(Offload::Share), Some(Offload::Copy)];
    Transfer {
        chunk: 4096 << rng.below(6),
        parallel: 1 + rng.index(16),
        ordered: rng.chance(0.5),
        sparse: [0, 512, 4096, 65536][rng.index(4)],
        offload: offloads[rng.index(3)].filter(|_| !compress),
        salvage: rng.chance(0.2),
        ..PLAIN
    }
}

/// A raw file, or an image, over a file that may be shorter or longer or over none.
async fn any_source(bench: &Bench, path: &str, size: u64, rng: &mut Rng) -> Tree {
    let base = format!("base of {path}");
    let below = bench.source(&base, (1 + rng.below(600)) * 512, rng).await;
    match rng.below(3) {
        0 => bench.source(path, size, rng).await,
        kind => {
            let alone = NewImage::new(size, 9 + rng.below(8) as u32);
            let image = if kind == 1 { alone.over(&base, "raw") } else { alone };
            images::put(&bench.world.disk(), path, &image);
            let tree = bench.qcow2(path, (kind == 1).then_some(&below)).await;
            scribble(&tree, size / 2, rng).await;
            tree
        }
    }
}

#[test]
fn so_many_requests_are_under_way_and_no_more() {
    for parallel in [1, 5, 16] {
        let world = world(1);
        world.run(async {
            let bench = Bench::new(&world);
            world.disk().put("source", &vec![7; 2 << 20]);
            let (from, to) = (bench.raw("source").await, bench.new_qcow2("target", 2 << 20, 16).await);
            world.disk().set_policy(|op| match op.is(OpKind::Read, "source") {
                true => Verdict::Hold,
                false => Verdict::Go,
            });
            let (how, noting) = (Transfer { parallel, ..PLAIN }, Noting::default());
            let (from, to) = (bench.lab.root(&from), bench.lab.root(&to));
            let from: [&Root; 1] = [&from];
            let mut copy = Box::pin(transfer(&from, &to, &how, &noting));
            assert!(lab::start(&mut copy).await.is_pending());
            let held = || world.disk().held().iter().filter(|(_, op)| op.kind == OpKind::Read).count();
            while held() < parallel {
                io::sleep(std::time::Duration::from_millis(1)).await;
                assert!(lab::start(&mut copy).await.is_pending());
            }
            io::sleep(std::time::Duration::from_millis(1)).await;
            assert!(lab::start(&mut copy).await.is_pending());
            assert_eq!(held(), parallel);
            world.disk().clear_policy();
            world.disk().release_all();
            copy.await.unwrap();
        });
    }
}

/// How many pieces were read from memory while the first is written.
async fn read_ahead(world: &SimWorld, ordered: bool) -> usize {
    let bench = Bench::new(world);
    world.disk().adjust(|options| options.inline = 1.0);
    world.disk().put("source", &vec![7; 2 << 20]);
    world.disk().put_hole("target", 2 << 20);
    let (from, to) = (bench.raw("source").await, bench.raw("target").await);
    let read: Arc<Mutex<usize>> = Arc::default();
    let noted = read.clone();
    world.disk().set_policy(move |op| {
        *noted.lock().unwrap() += usize::from(op.is(OpKind::Read, "source"));
        if op.kind == OpKind::Write { Verdict::Hold } else { Verdict::Go }
    });
    let (how, noting) = (Transfer { ordered, ..PLAIN }, Noting::default());
    let (from, to) = (bench.lab.root(&from), bench.lab.root(&to));
    let from: [&Root; 1] = [&from];
    let mut copy = Box::pin(transfer(&from, &to, &how, &noting));
    while lab::start(&mut copy).await.is_pending() && world.disk().held().is_empty() {
        io::sleep(std::time::Duration::from_millis(1)).await;
    }
    assert!(lab::start(&mut copy).await.is_pending());
    let ahead = *read.lock().unwrap();
    world.disk().clear_policy();
    world.disk().release_all();
    copy.await.unwrap();
    ahead
}

#[test]
fn what_is_at_hand_is_not_read_far_ahead_of_its_turn() {
    let ordered = world(4);
    assert_eq!(ordered.run(read_ahead(&ordered, true)), 3);
    let any = world(4);
    assert_eq!(any.run(read_ahead(&any, false)), PLAIN.parallel);
}

/// Where writes to the target began, and how many were under way at most.
async fn writes(world: &SimWorld, ordered: bool) -> (Vec<u64>, usize) {
    let bench = Bench::new(world);
    // Every other piece is written in two parts.
    let holed = |at: u64| at % (128 * K) / (16 * K) == 1;
    let bytes: Vec<u8> = (0..2 << 20).map(|at| if holed(at) { 0 } else { 7 }).collect();
    world.disk().put("source", &bytes);
    world.disk().put_hole("target", 2 << 20);
    let (from, to) = (bench.raw("source").await, bench.raw("target").await);
    let begun: Arc<Mutex<Vec<u64>>> = Arc::default();
    let (noted, mut rng) = (begun.clone(), Rng::new(world.seed()));
    world.disk().set_policy(move |op| {
        if op.is(OpKind::Write, "target") && !op.inline {
            noted.lock().unwrap().push(op.range.start());
        }
        match op.kind {
            OpKind::Write if !op.inline => Verdict::Hold,
            // Each takes another time, so that they end in any order.
            _ => Verdict::Delay(std::time::Duration::from_micros(1 + rng.below(500))),
        }
    });
    let (how, noting) = (Transfer { ordered, ..PLAIN }, Noting::default());
    let (from, to) = (bench.lab.root(&from), bench.lab.root(&to));
    let from: [&Root; 1] = [&from];
    let (mut copy, mut most) = (Box::pin(transfer(&from, &to, &how, &noting)), 0);
    while lab::start(&mut copy).await.is_pending() {
        io::sleep(std::time::Duration::from_millis(1)).await;
        let held = world.disk().held();
        most = most.max(held.len());
        held.first().map(|(id, _)| world.disk().release(*id));
    }
    let begun = begun.lock().unwrap().clone();
    (begun, most)
}

#[test]
fn writes_begin_in_order_at_most_two_of_them_unless_any_will_do() {
    let ordered = world(3);
    let (begun, most) = ordered.run(writes(&ordered, true));
    assert!(begun.is_sorted() && begun.len() == 48, "{begun:?}");
    assert_eq!(most, 2);
    let any = world(3);
    let (begun, most) = any.run(writes(&any, false));
    assert!(!begun.is_sorted() && begun.len() == 48, "{begun:?}");
    assert!(most > 2);
}

#[test]
fn packed_clusters_lie_in_the_order_of_the_disk() {
    let world = SimWorld::new(5, Options::default());
    world.run(async {
        let bench = Bench::new(&world);
        let bytes: Vec<u8> = (0..1 << 20).map(|at: u32| (at / 300) as u8).collect();
        world.disk().put("source", &bytes);
        let (from, to) = (bench.raw("source").await, bench.new_qcow2("target", 1 << 20, 14).await);
        let offsets: Arc<Mutex<Vec<u64>>> = Arc::default();
        let noted = offsets.clone();
        world.disk().set_policy(move |op| {
            // Tables are written whole; what is packed is shorter than a cluster.
            if op.is(OpKind::Write, "target") && op.range.len() < 1 << 14 {
                noted.lock().unwrap().push(op.range.start());
            }
            Verdict::Go
        });
        let how = Transfer { chunk: 16 * K, compress: true, ..PLAIN };
        transfer(&[&bench.lab.root(&from)], &bench.lab.root(&to), &how, &Noting::default()).await.unwrap();
        let offsets = offsets.lock().unwrap().clone();
        assert!(offsets.is_sorted() && offsets.len() >= 64, "{offsets:?}");
        world.disk().clear_policy();
        same(&content(&to).await, &bytes);
    });
}
