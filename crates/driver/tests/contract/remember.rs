//! Remembered mappings of long chains: found again, forgotten when something changed, within their budget.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};

use crate::lab::client::{self, Way};
use crate::lab::layer::Layer;
use crate::lab::{Lab, Tree, same};
use block::ByteRange;
use flow::{Body, Flags, Op, Role, Root};
use serde_json::json;
use sim::{Options, SimWorld};

const REGION: u64 = 2 << 20;
const SIZE: u64 = 8 * REGION;
const BUDGET: usize = 256 << 10;

fn world() -> SimWorld {
    flow::set_remember_budget(BUDGET);
    SimWorld::new(1, Options::calm())
}

/// A `memory-format` on `count - 1` layers that hold nothing, over `base`.
async fn chain(lab: &Lab, base: &Tree, count: usize, calls: &Arc<AtomicU64>) -> Tree {
    let size = base.node().own_size().unwrap();
    let below = chain_of_layers(lab, base, count - 1, calls).await;
    lab.memory_format("top", json!({"size": size}), Some(&below)).await
}

/// `count` layers that hold nothing, over `base`.
async fn chain_of_layers(lab: &Lab, base: &Tree, count: usize, calls: &Arc<AtomicU64>) -> Tree {
    let size = base.node().own_size().unwrap();
    let mut below = base.clone();
    for _ in 0..count {
        let layer = Body::Maps(Arc::new(Layer::empty(size, calls)));
        below = lab.node("layer", layer, &[(Role::Backing, &below)]);
    }
    below
}

async fn read(root: &Root, start: u64) -> Vec<u8> {
    client::read(root, ByteRange::new(start, 4096), Way::Try).await.unwrap()
}

#[test]
fn long_chains_are_asked_once() {
    let world = world();
    world.run(async {
        let lab = Lab::new(&world);
        world.disk().put("base", &[7; SIZE as usize]);
        let calls = Arc::default();
        let root = lab.root(&chain(&lab, &lab.file("base").await.0, 64, &calls).await);
        for region in 0..SIZE / REGION {
            same(&read(&root, region * REGION + 4096).await, &[7; 4096]);
        }
        let first = calls.swap(0, SeqCst);
        assert!(first >= 63 * SIZE / REGION, "{first}");
        for at in (0..SIZE).step_by(20 << 10).filter(|at| at + 4096 <= SIZE) {
            same(&read(&root, at).await, &[7; 4096]);
        }
        // Requests across two regions take two look-ups, both remembered.
        let across = client::read(&root, ByteRange::new(REGION - 100, 4096), Way::Try).await.unwrap();
        same(&across, &[7; 4096]);
        assert_eq!(calls.load(SeqCst), 0);
    });
}

#[test]
fn every_change_is_seen_and_only_its_region_forgotten() {
    let world = world();
    world.run(async {
        let lab = Lab::new(&world);
        world.disk().put("base", &[7; SIZE as usize]);
        let calls: Arc<AtomicU64> = Arc::default();
        let tree = chain(&lab, &lab.file("base").await.0, 10, &calls).await;
        let root = lab.root(&tree);
        let cluster = ByteRange::new(REGION + (64 << 10), 64 << 10);
        let changed = async |what: &str, expected: u8| {
            calls.store(0, SeqCst);
            same(&read(&root, 5 * REGION).await, &[7; 4096]);
            assert_eq!(calls.load(SeqCst), 0, "{what}: another region was forgotten");
            same(&read(&root, cluster.start()).await, &[expected; 4096]);
            read(&root, 5 * REGION).await;
        };
        read(&root, 5 * REGION).await;
        changed("nothing", 7).await;
        client::write(&root, cluster.start(), &[1; 4096], Way::Try).await.unwrap();
        changed("a commit", 1).await;
        client::change(&root, Op::WriteZeroes, cluster, Flags::NONE).await.unwrap();
        changed("a zeroing", 0).await;
        client::write(&root, cluster.start(), &[2; 4096], Way::Try).await.unwrap();
        changed("another commit", 2).await;
        client::change(&root, Op::Discard, cluster, Flags::NONE).await.unwrap();
        changed("a discard", 0).await;
        client::write(&root, cluster.start(), &[3; 4096], Way::Try).await.unwrap();
        changed("a third commit", 3).await;
        let resize = tree.node().powers().resize.unwrap();
        for size in [cluster.start(), SIZE] {
            resize.resize(size, root.view().next()).await.unwrap();
        }
        same(&read(&root, cluster.start()).await, &[0; 4096]);
    });
}

#[test]
fn regions_in_pieces_are_remembered_by_the_page() {
    let world = world();
    world.run(async {
        let lab = Lab::new(&world);
        world.disk().put("base", &[7; SIZE as usize]);
        let calls: Arc<AtomicU64> = Arc::default();
        let (file, _) = lab.file("base").await;
        let below = chain_of_layers(&lab, &file, 63, &calls).await;
        let top = json!({"size": SIZE, "cluster-size": 4096});
        let root = lab.root(&lab.memory_format("top", top, Some(&below)).await);
        // Every other page of a region.
        let pages = || (REGION..2 * REGION).step_by(4096);
        for at in pages().step_by(2) {
            client::write(&root, at, &[1; 4096], Way::Wait).await.unwrap();
        }
        for round in 0..2 {
            calls.store(0, SeqCst);
            for at in pages() {
                same(&read(&root, at).await, &[if at % 8192 == 0 { 1 } else { 7 }; 4096]);
                let part = client::read(&root, ByteRange::new(at + 100, 300), Way::Try).await.unwrap();
                same(&part, &[if at % 8192 == 0 { 1 } else { 7 }; 300]);
            }
            // At first once for the region, each granule and each page.
            let walks = if round == 0 { 1 + 32 + 512 } else { 0 };
            assert!(calls.load(SeqCst) <= 63 * walks, "round {round}: {calls:?}");
            let long = client::read(&root, ByteRange::new(REGION, REGION), Way::Try).await.unwrap();
            for (page, at) in long.chunks(4096).zip(pages()) {
                same(page, &[if at % 8192 == 0 { 1 } else { 7 }; 4096]);
            }
        }
        // Every other page is written now as well: each is forgotten in turn.
        for at in pages().skip(1).step_by(2) {
            same(&read(&root, at).await, &[7; 4096]);
            client::write(&root, at, &[2; 4096], Way::Wait).await.unwrap();
            same(&read(&root, at).await, &[2; 4096]);
        }
    });
}

#[test]
fn the_budget_is_kept_and_larger_sets_are_read_right() {
    let world = world();
    world.run(async {
        let lab = Lab::new(&world);
        const LARGE: u64 = 256 << 20;
        world.disk().put_hole("base", LARGE);
        let calls = Arc::default();
        let root = lab.root(&chain(&lab, &lab.file("base").await.0, 9, &calls).await);
        // One cluster in 16 is here: nothing larger than a granule can be remembered.
        for at in (0..LARGE).step_by(1 << 20) {
            client::write(&root, at, &(at >> 20).to_le_bytes(), Way::Wait).await.unwrap();
        }
        for _ in 0..2 {
            for at in (0..LARGE).step_by(64 << 10) {
                let mut expected = vec![0; 4096];
                if at % (1 << 20) == 0 {
                    expected[..8].copy_from_slice(&(at >> 20).to_le_bytes());
                }
                same(&read(&root, at).await, &expected);
            }
            let (used, budget) = flow::remember_usage();
            assert!(used > BUDGET / 2 && used <= BUDGET && budget == BUDGET, "{used} of {budget}");
        }
    });
}

#[test]
fn writes_that_lengthen_a_child_are_seen() {
    let world = world();
    world.run(async {
        let lab = Lab::new(&world);
        let calls = Arc::default();
        let (file, _) = lab.file("short").await;
        let layer = Body::Maps(Arc::new(Layer::preallocated(SIZE, &calls)));
        let bottom = lab.node("layer", layer, &[(Role::File, &file)]);
        let mut top = bottom.clone();
        for _ in 0..8 {
            let layer = Body::Maps(Arc::new(Layer::empty(SIZE, &calls)));
            top = lab.node("layer", layer, &[(Role::Backing, &top)]);
        }
        let (top, bottom) = (lab.root(&top), lab.root(&bottom));
        for round in 1..5 {
            let at = u64::from(round) * REGION / 3;
            same(&read(&top, at).await, &[0; 4096]);
            client::write(&bottom, at, &[round; 4096], Way::Try).await.unwrap();
            same(&read(&top, at).await, &[round; 4096]);
        }
    });
}
