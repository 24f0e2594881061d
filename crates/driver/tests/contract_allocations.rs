//! The path that does not wait asks for no memory: not for reads, not for writes in place, whatever the chain.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod lab;

use std::process::Command;
use std::sync::Arc;

use block::ByteRange;
use driver::options;
use flow::{BitmapChange, Body, Now, Op, Pieces, Request, Role, Root, Window, seam};
use io::counting::{self, Counting};
use io::real::RealWorld;
use lab::{Lab, Tree};
use object::{ObjectOptions, Objects};
use qcow2::NewImage;
use serde_json::{Value, json};

#[global_allocator]
static ALLOCATOR: Counting = Counting;

const SIZE: u64 = 4 << 20;

/// Requests of many sizes at many places; answers how many were done at once, and how much memory was asked for.
fn ask(root: &Root, op: Op, buf: &mut [u8]) -> (usize, u64) {
    let before = counting::asked_here();
    let mut done = 0;
    for i in 0..400u64 {
        let len = [1, 512, 4096, 65536, 200_000][i as usize % 5];
        let range = ByteRange::new(i * 7919 * 512 % (SIZE - len), len);
        let mut rq = Request::new(op, range);
        let part = &mut buf[..len as usize];
        let window = if op == Op::Read { Window::In(part) } else { Window::Out(part) };
        let now = seam::try_now(&root.turn(), &mut rq, window).unwrap();
        done += usize::from(now == Now::Done);
    }
    (done, counting::asked_here() - before)
}

fn lend(root: &Root, pieces: &mut Pieces) -> u64 {
    let before = counting::asked_here();
    for i in 0..100u64 {
        let mut rq = Request::new(Op::Read, ByteRange::new(i * 4096, 128 << 10));
        seam::try_now(&root.turn(), &mut rq, Window::Lend(pieces)).unwrap();
        pieces.drain().for_each(drop);
    }
    counting::asked_here() - before
}

/// The second round of requests (the first may set up what a thread keeps) asks for nothing.
fn asks_for_nothing(what: &str, root: Arc<Root>, ops: &[Op], at_once: bool) {
    let before = counting::asked_here();
    let (mut buf, mut pieces) = (vec![3; 200_000], Pieces::new());
    assert_eq!(counting::asked_here() - before, 2, "it counts");
    for op in ops {
        ask(&root, *op, &mut buf);
        let (done, asked) = ask(&root, *op, &mut buf);
        assert!(done == 400 || !at_once, "{what}: {done} of 400 {op:?} were done at once");
        assert_eq!(asked, 0, "{what}: {op:?} asked for memory");
    }
    assert_eq!(lend(&root, &mut pieces), 0, "{what}: lending asked for memory");
}

async fn written(lab: &Lab<RealWorld>, tree: &Tree) -> Arc<Root> {
    let root = lab.root(tree);
    for at in (0..SIZE).step_by(1 << 20) {
        seam::write(&root.view(), at, &vec![5; 1 << 20]).await.unwrap();
    }
    root
}

/// `count` times `memory-format`, the top one on `memory`, the others holding nothing, over `memory`.
async fn chain(lab: &Lab<RealWorld>, count: usize) -> Tree {
    let memory = async || lab.open("memory", json!({"size": SIZE}), &[]).await;
    let mut tree = memory().await;
    for _ in 0..count {
        let children = [(Role::File, &memory().await), (Role::Backing, &tree)];
        tree = lab.open("memory-format", json!({"size": SIZE}), &children).await;
    }
    tree
}

#[test]
fn formats_and_chains() {
    let world = RealWorld::new();
    world.block_on(async {
        let lab = Lab::new(&world);
        for count in [0, 1, 3, 10] {
            let tree = chain(&lab, count).await;
            let what = format!("{count} formats");
            asks_for_nothing(&what, lab.root(&tree), &[Op::Read], true);
            asks_for_nothing(&what, written(&lab, &tree).await, &[Op::Read, Op::Write], true);
            let raw = lab.open("raw", json!({}), &[(Role::Filtered, &tree)]).await;
            asks_for_nothing("raw", lab.root(&raw), &[Op::Read, Op::Write], true);
        }
    });
}

#[test]
fn tables_that_are_missing() {
    let world = RealWorld::new();
    world.block_on(async {
        let lab = Lab::new(&world);
        let file = lab.open("memory", json!({"size": SIZE}), &[]).await;
        let options = json!({"size": SIZE, "table-misses": {"probability": 0.3}});
        let tree = lab.open("memory-format", options, &[(Role::File, &file)]).await;
        asks_for_nothing("misses", written(&lab, &tree).await, &[Op::Read, Op::Write], false);
    });
}

#[test]
fn filters() {
    let world = RealWorld::new();
    world.block_on(async {
        let lab = Lab::new(&world);
        let objects = Arc::new(Objects::default());
        let Value::Object(limits) = json!({"limits": {"iops-total": 1_000_000_000}}) else { panic!() };
        let group =
            options::parse_with(limits, |given| ObjectOptions::read("throttle-group", given)).unwrap();
        objects.create("tg0", group, &world).await.unwrap();
        for count in [1, 10] {
            let mut tree = chain(&lab, count).await;
            let filters = [
                ("copy-on-read", json!({})),
                ("throttle", json!({"throttle-group": "tg0"})),
                ("delay", json!({})),
                ("fault", json!({})),
            ];
            for (driver, options) in filters {
                let children = [(Role::Filtered, &tree)];
                let opened = lab.open_with(driver, options, &children, |c| c.objects = objects.clone()).await;
                tree = opened.unwrap();
                let what = format!("{driver} on {count} formats");
                asks_for_nothing(&what, written(&lab, &tree).await, &[Op::Read, Op::Write], true);
            }
        }
    });
}

#[test]
fn a_bitmap_that_records() {
    let world = RealWorld::new();
    world.block_on(async {
        let lab = Lab::new(&world);
        let memory = lab.open("memory", json!({"size": 2 * SIZE}), &[]).await;
        seam::write(&memory.view(), 0, &lab::qcow2::file_of(&NewImage::new(SIZE, 16))).await.unwrap();
        let tree = lab.open("qcow2", json!({}), &[(Role::File, &memory)]).await;
        let add = BitmapChange::Add { granularity: 4096, recording: true, persistent: true };
        let (view, bitmaps) = (tree.view(), tree.node().powers().bitmaps.unwrap());
        bitmaps.change("b", add, view.next()).await.unwrap();
        // Writes wait while something is recorded; asking whether they can be done at once costs nothing either.
        let root = written(&lab, &tree).await;
        asks_for_nothing("a bitmap", root.clone(), &[Op::Read], true);
        asks_for_nothing("a bitmap", root, &[Op::Write], false);
        let view = tree.view();
        let Body::Maps(format) = view.root().body() else { panic!("a format") };
        let recorder = format.changes().unwrap().recorder().expect("it records");
        let mark = || (0..SIZE).step_by(7 << 9).filter(|at| recorder.mark(ByteRange::new(*at, 512))).count();
        bitmaps.change("b", BitmapChange::Clear, view.next()).await.unwrap();
        let (first, before) = (mark(), counting::asked_here());
        assert_eq!((mark(), counting::asked_here() - before), (first, 0), "a change that is told");
        let content = bitmaps.content("b", view.next()).await.unwrap();
        assert!(first > 1000 && content.count() > SIZE / 2, "it has recorded what was told");
    });
}

#[test]
fn files_and_qcow2() {
    let dir = tempfile::tempdir().unwrap();
    let image = dir.path().join("image.qcow2");
    let world = RealWorld::new();
    world.block_on(async {
        let lab = Lab::new(&world);
        let raw = dir.path().join("raw");
        std::fs::write(&raw, vec![1; SIZE as usize]).unwrap();
        let file = lab.open("file", json!({"filename": raw}), &[]).await;
        asks_for_nothing("file", lab.root(&file), &[Op::Read, Op::Write], false);
        let mut convert = Command::new("qemu-img");
        convert.args(["convert", "-f", "raw", "-O", "qcow2"]).args([&raw, &image]);
        if !convert.status().is_ok_and(|status| status.success()) {
            return sim::skip("driver contract_allocations files_and_qcow2", "qemu-img");
        }
        let file = lab.open("file", json!({"filename": image}), &[]).await;
        let tree = lab.open_with("qcow2", json!({}), &[(Role::File, &file)], |c| c.read_only = true).await;
        let root = lab.root(&tree.unwrap());
        // The tables are read by requests that wait.
        seam::read(&root.view(), ByteRange::new(0, SIZE)).await.unwrap();
        asks_for_nothing("qcow2", root, &[Op::Read], false);
    });
}
