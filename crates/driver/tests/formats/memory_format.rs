//! `memory-format` by itself: what it maps, what it gives back, and what its powers answer.

use std::sync::Arc;

use crate::lab::{Lab, Tree, same};
use block::{ByteRange, ErrorKind, ExtentState};
use flow::{CheckReport, Flags, Op, Repair, Request, View, seam};
use io::Lease;
use serde_json::json;
use sim::{Options, SimWorld};

const K: u64 = 1 << 10;
const CLUSTER: u64 = 64 * K;

fn world() -> SimWorld {
    SimWorld::new(1, Options::calm())
}

async fn change(view: &View, op: Op, start: u64, len: u64, flags: Flags) {
    let rq = Request::new(op, ByteRange::new(start, len)).with_flags(flags);
    seam::execute(view, rq, Lease::empty()).await.0.unwrap();
}

async fn bytes(view: &View, start: u64, len: u64) -> Vec<u8> {
    seam::read(view, ByteRange::new(start, len)).await.unwrap().to_vec()
}

async fn check(tree: &Tree, view: &View) -> CheckReport {
    let next = view.next();
    tree.node().powers().check.unwrap().check(Repair::Nothing, &mut |_| (), next).await.unwrap()
}

fn sound(allocated: u64) -> CheckReport {
    CheckReport { allocated, ..CheckReport::default() }
}

#[test]
fn reads_what_was_written_across_clusters_and_holes() {
    let world = world();
    world.run(async {
        let lab = Lab::new(&world);
        let tree = lab.memory_format("disk", json!({"size": 1000 * K + 7}), None).await;
        let view = tree.view();
        let text: Vec<u8> = (0..200 * K).map(|i| (i % 251) as u8 + 1).collect();
        seam::write(&view, 100 * K + 3, &text).await.unwrap();
        same(&bytes(&view, 100 * K + 3, 200 * K).await, &text);
        same(&bytes(&view, 64 * K, 36 * K + 3).await, &vec![0; 36 * K as usize + 3]);
        seam::write(&view, 1000 * K, b"the end").await.unwrap();
        assert_eq!(bytes(&view, 999 * K, K + 7).await[K as usize..], *b"the end");
        assert_eq!(check(&tree, &view).await, sound(4 + 1));
        let map = seam::extents(&view, ByteRange::new(0, 1000 * K)).await.unwrap();
        let map: Vec<_> = map.into_iter().map(|e| (e.range.end() / K, e.state)).collect();
        let (data, hole) = (ExtentState::Data, ExtentState::Hole);
        assert_eq!(map, [(64, hole), (320, data), (960, hole), (1000, data)]);
    });
}

#[test]
fn what_it_does_not_hold_comes_from_the_backing_child() {
    let world = world();
    world.run(async {
        let lab = Lab::new(&world);
        world.disk().put("base", &[7; 200 << 10]);
        let (base, _) = lab.file("base").await;
        let tree = lab.memory_format("disk", json!({"size": 512 * K}), Some(&base)).await;
        let view = tree.view();
        seam::write(&view, 70 * K, &[1; 10]).await.unwrap();
        let mut model = vec![7; 200 << 10];
        model.resize(512 << 10, 0);
        model[70 << 10..][..10].fill(1);
        same(&bytes(&view, 0, 512 * K).await, &model);

        // Within one cluster; with both ends inside clusters; to the end.
        for (start, len) in [(K, 2 * K), (60 * K, 100 * K), (190 * K, 322 * K)] {
            change(&view, Op::WriteZeroes, start, len, Flags::MAY_UNMAP).await;
            model[start as usize..(start + len) as usize].fill(0);
            same(&bytes(&view, 0, 512 * K).await, &model);
        }
        // Discarded bytes must not bring back what lies below.
        change(&view, Op::Discard, 10, 100 * K, Flags::NONE).await;
        same(&bytes(&view, 0, 512 * K).await, &model);
        change(&view, Op::Discard, 0, 100 * K, Flags::NONE).await;
        model[..64 << 10].fill(0);
        same(&bytes(&view, 0, 512 * K).await, &model);
        assert!(check(&tree, &view).await.corruptions == 0);
    });
}

#[test]
fn freed_clusters_are_used_again() {
    let world = world();
    world.run(async {
        let lab = Lab::new(&world);
        let tree = lab.memory_format("disk", json!({"size": 64 << 20}), None).await;
        let view = tree.view();
        for round in 0..20u8 {
            let start = u64::from(round) * 3 * CLUSTER;
            seam::write(&view, start, &[round; 3 << 16]).await.unwrap();
            change(&view, Op::Discard, start, 3 * CLUSTER, Flags::NONE).await;
            same(&bytes(&view, start, 3 * CLUSTER).await, &[0; 3 << 16]);
        }
        assert_eq!(world.disk().bytes("disk").unwrap().len(), 3 << 16, "one place for all rounds");
        assert_eq!(check(&tree, &view).await.leaks, 0);
    });
}

#[test]
fn full_files_and_quotas_say_so() {
    let world = world();
    world.run(async {
        let lab = Lab::new(&world);
        let inner = lab.memory_format("inner", json!({"size": 2 * CLUSTER}), None).await;
        let tree =
            lab.open("memory-format", json!({"size": 8 * CLUSTER}), &[(flow::Role::File, &inner)]).await;
        let view = tree.view();
        seam::write(&view, 0, &[1; 2 << 16]).await.unwrap();
        let error = seam::write(&view, 4 * CLUSTER, &[2]).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NoSpace);
        assert!(error.to_string().contains("the file child is full"), "{error}");
        change(&view, Op::Discard, 0, CLUSTER, Flags::NONE).await;
        seam::write(&view, 4 * CLUSTER, &[2]).await.unwrap();

        let small =
            lab.memory_format("small", json!({"size": 8 * CLUSTER, "quota": 2 * CLUSTER}), None).await;
        let view = small.view();
        seam::write(&view, 0, &[1; 2 << 16]).await.unwrap();
        let error = seam::write(&view, 4 * CLUSTER, &[2]).await.unwrap_err();
        assert!(error.to_string().contains("quota"), "{error}");
        seam::write(&view, 10, &[3]).await.unwrap();
        let quota = small.node().powers().quota.unwrap();
        assert_eq!((quota.limit(), quota.used()), (2 * CLUSTER, 2 * CLUSTER));
        assert_eq!(check(&small, &view).await, sound(2));
    });
}

#[test]
fn what_was_cut_off_does_not_come_back() {
    let world = world();
    world.run(async {
        let lab = Lab::new(&world);
        world.disk().put("base", &[7; 8 << 16]);
        let (base, _) = lab.file("base").await;
        let backings = [None, Some(&base)];
        for (backing, old) in backings.into_iter().zip([0, 7]) {
            let tree = lab.memory_format("disk", json!({"size": 3 * CLUSTER + 9}), backing).await;
            let view = tree.view();
            let resize =
                async |size| tree.node().powers().resize.unwrap().resize(size, view.next()).await.unwrap();
            seam::write(&view, CLUSTER, &[1; 2 << 16]).await.unwrap();
            resize(CLUSTER + 100).await;
            assert_eq!(view.size(), CLUSTER + 100);
            resize(5 * CLUSTER + 1).await;
            let mut model = vec![0; 5 << 16 | 1];
            model[..1 << 16].fill(old);
            model[1 << 16..][..100].fill(1);
            same(&bytes(&view, 0, 5 * CLUSTER + 1).await, &model);
            resize(10).await;
            resize(20).await;
            assert_eq!(bytes(&view, 0, 20).await, [vec![old; 10], vec![0; 10]].concat());
            let report = check(&tree, &view).await;
            assert_eq!((report.leaks, report.corruptions), (0, 0));
        }
    });
}

#[test]
fn tables_that_are_not_there_are_loaded() {
    let world = world();
    world.run(async {
        let lab = Lab::new(&world);
        let misses = json!({"probability": 0.5, "seed": 3});
        let options = json!({"size": 4 << 20, "cluster-size": 512, "table-misses": misses});
        let tree = lab.memory_format("disk", options, None).await;
        let root: Arc<flow::Root> = lab.root(&tree);
        let mut waited = 0;
        for at in 0..100u64 {
            let text = [at as u8; 700];
            seam::write(&root.view(), at * 600, &text).await.unwrap();
            let mut buf = [0; 700];
            let mut rq = Request::new(Op::Read, ByteRange::new(at * 600, 700));
            let now = seam::try_now(&root.turn(), &mut rq, flow::Window::In(&mut buf)).unwrap();
            waited += u32::from(now == flow::Now::Wait);
            let (result, lease) = seam::execute(&root.view(), rq, Lease::copy_of(&buf)).await;
            result.unwrap();
            same(&lease, &text);
        }
        assert!((20..100).contains(&waited), "{waited}");
    });
}

#[test]
fn what_is_dropped_after_a_cut_stays_dropped_for_older_views() {
    let world = world();
    world.run(async {
        let lab = Lab::new(&world);
        world.disk().put("base", &[7; 8 << 16]);
        let ((file, _), (base, _)) = (lab.file("disk").await, lab.file("base").await);
        let children = [(flow::Role::File, &file), (flow::Role::Backing, &base)];
        let before = lab.open("memory-format", json!({"size": 8 * CLUSTER}), &children).await;
        let older = lab.open("copy-on-read", json!({}), &[(flow::Role::Filtered, &before)]).await;
        let kept = before.node().keep();
        let alone = [(flow::Role::File, &file)];
        let adjust = |context: &mut driver::OpenContext| context.kept = kept;
        let after = lab.open_with("memory-format", json!({"size": 1}), &alone, adjust).await.unwrap();
        let view = after.view();
        change(&view, Op::Discard, CLUSTER, CLUSTER, Flags::NONE).await;
        change(&view, Op::WriteZeroes, 3 * CLUSTER, 2 * CLUSTER, Flags::NONE).await;
        change(&view, Op::WriteZeroes, 6 * CLUSTER + 512, 512, Flags::NONE).await;
        // A request that began before the cut stores what it finds.
        let zeros = vec![0; CLUSTER as usize];
        for dropped in [1, 3, 4, 6] {
            same(&bytes(&older.view(), dropped * CLUSTER, CLUSTER).await, &zeros);
            same(&bytes(&view, dropped * CLUSTER, CLUSTER).await, &zeros);
        }
    });
}

#[test]
fn a_reopened_node_keeps_what_it_holds() {
    let world = world();
    world.run(async {
        let lab = Lab::new(&world);
        let (file, _) = lab.file("disk").await;
        let (other, _) = lab.file("other").await;
        let first =
            lab.open("memory-format", json!({"size": 8 * CLUSTER}), &[(flow::Role::File, &file)]).await;
        seam::write(&first.view(), CLUSTER, &[1; 1 << 16]).await.unwrap();
        let reopen = async |options, file: &Tree| {
            let children = [(flow::Role::File, file)];
            let kept = first.node().keep();
            lab.open_with("memory-format", options, &children, |context| context.kept = kept).await
        };
        let second = reopen(json!({"size": 1}), &file).await.unwrap();
        let view = second.view();
        assert_eq!(view.size(), 8 * CLUSTER, "the size stays");
        same(&bytes(&view, CLUSTER, CLUSTER).await, &[1; 1 << 16]);
        // Requests of older views still go through the old body.
        seam::write(&first.view(), 3 * CLUSTER, &[2; 1 << 16]).await.unwrap();
        same(&bytes(&view, 3 * CLUSTER, CLUSTER).await, &[2; 1 << 16]);
        assert_eq!(check(&second, &view).await, sound(2));
        assert!(reopen(json!({"size": 1, "cluster-size": 512}), &file).await.is_err());
        assert!(reopen(json!({"size": 1}), &other).await.is_err(), "clusters lie elsewhere");
    });
}
