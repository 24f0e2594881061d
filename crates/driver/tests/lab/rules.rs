//! One scenario per rule of the data path, which ends well only because of that rule. Each answers how many bytes
//! were wrong, so that the same scenario shows that the rule is kept and that it is needed.

use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use block::ByteRange;
use flow::{Body, Flags, Op, Request, Role, seam};
use futures_util::future::{join, join3};
use io::Lease;
use serde_json::json;
use sim::{OpKind, Options, SimDisk, SimWorld, Verdict};

use super::client::{self, Way};
use super::layer::Layer;
use super::{Lab, Tree};

const CLUSTER: u64 = 64 << 10;
const OLD: u8 = 1;
const NEW: u8 = 2;

fn cluster(number: u64) -> ByteRange {
    ByteRange::new(number * CLUSTER, CLUSTER)
}

fn wrong(found: &[u8], allowed: &[u8]) -> usize {
    found.iter().filter(|byte| !allowed.contains(byte)).count()
}

fn hold(disk: &SimDisk, kind: OpKind, path: &'static str) {
    disk.set_policy(move |op| if op.is(kind, path) { Verdict::Hold } else { Verdict::Go });
}

async fn let_go(disk: &SimDisk) {
    disk.clear_policy();
    disk.release_all();
}

/// A cluster is read, and meanwhile dropped; something else is written. The reader must not see that.
pub fn a_reader_that_waits() -> usize {
    let world = SimWorld::new(1, Options::calm());
    world.run(async {
        let lab = Lab::new(&world);
        let view = lab.memory_format("disk", json!({"size": 4 * CLUSTER}), None).await.view();
        seam::write(&view, 0, &[OLD; CLUSTER as usize]).await.unwrap();
        hold(&world.disk(), OpKind::Read, "disk");
        let read = seam::read(&view, cluster(0));
        let others = async {
            io::sleep(Duration::from_millis(1)).await;
            let discard = Request::new(Op::Discard, cluster(0));
            seam::execute(&view, discard, Lease::empty()).await.0.unwrap();
            seam::write(&view, CLUSTER, &[NEW; CLUSTER as usize]).await.unwrap();
            let_go(&world.disk()).await;
        };
        let (found, ()) = join(read, others).await;
        wrong(&found.unwrap(), &[OLD, 0])
    })
}

/// The same within a turn: what lies where its look-ups lead must stay there until it ends.
pub fn a_turn() -> usize {
    let world = SimWorld::new(1, Options::calm());
    world.run(async {
        let lab = Lab::new(&world);
        let root = lab.root(&lab.memory_format("disk", json!({"size": 4 * CLUSTER}), None).await);
        client::write(&root, 0, &[OLD; CLUSTER as usize], Way::Wait).await.unwrap();
        let turn = root.turn();
        client::change(&root, Op::Discard, cluster(0), Flags::NONE).await.unwrap();
        client::write(&root, CLUSTER, &[NEW; CLUSTER as usize], Way::Wait).await.unwrap();
        let seen = world.disk().peek("disk", cluster(0)).unwrap();
        drop(turn);
        wrong(&seen, &[OLD])
    })
}

/// A write that was given up lands when its cluster belongs to others.
pub fn a_write_that_was_given_up() -> usize {
    let world = SimWorld::new(1, Options::calm());
    world.run(async {
        let lab = Lab::new(&world);
        let view = lab.memory_format("disk", json!({"size": 4 * CLUSTER}), None).await.view();
        seam::write(&view, 0, &[OLD; CLUSTER as usize]).await.unwrap();
        hold(&world.disk(), OpKind::Write, "disk");
        let late = io::now().after(Duration::from_millis(1));
        assert!(io::timeout_at(late, seam::write(&view, 0, &[OLD; 5000])).await.is_none());
        world.disk().clear_policy();
        seam::execute(&view, Request::new(Op::Discard, cluster(0)), Lease::empty()).await.0.unwrap();
        seam::write(&view, CLUSTER, &[NEW; CLUSTER as usize]).await.unwrap();
        let_go(&world.disk()).await;
        io::sleep(Duration::from_millis(1)).await;
        wrong(&seam::read(&view, cluster(1)).await.unwrap(), &[NEW])
    })
}

/// A `memory-format` on top of `layers` that hold nothing.
async fn long_chain(lab: &Lab, layers: usize) -> Tree {
    let (mut tree, _) = lab.file("base").await;
    let calls = Arc::new(AtomicU64::new(0));
    for _ in 0..layers {
        let layer = Body::Maps(Arc::new(Layer::empty(64 * CLUSTER, &calls)));
        tree = lab.node("layer", layer, &[(Role::Backing, &tree)]);
    }
    lab.memory_format("disk", json!({"size": 64 * CLUSTER}), Some(&tree)).await
}

/// What is remembered of a long chain must not outlive a commit, a discard, or the reuse of a cluster.
pub fn a_remembered_mapping() -> usize {
    let world = SimWorld::new(1, Options::calm());
    world.disk().put_hole("base", 64 * CLUSTER);
    world.run(async {
        let lab = Lab::new(&world);
        let root = lab.root(&long_chain(&lab, 9).await);
        let read = async |number| client::read(&root, cluster(number), Way::Try).await.unwrap();
        let mut count = wrong(&read(0).await, &[0]);
        client::write(&root, 0, &[OLD; CLUSTER as usize], Way::Try).await.unwrap();
        count += wrong(&read(0).await, &[OLD]);
        client::change(&root, Op::Discard, cluster(0), Flags::NONE).await.unwrap();
        client::write(&root, CLUSTER, &[NEW; CLUSTER as usize], Way::Try).await.unwrap();
        count += wrong(&read(0).await, &[0]);
        count + wrong(&read(1).await, &[NEW])
    })
}

/// Two writers of parts of one block: each has to read what the other has written.
pub fn two_parts_of_a_block() -> usize {
    let world = SimWorld::new(1, Options::calm());
    world.disk().put("disk", &[OLD; 1024]);
    world.run(async {
        let lab = Lab::new(&world);
        let view = lab.file_with("disk", true).await.0.view();
        let parts = [0u64, 200, 400].map(|start| {
            let view = view.clone();
            async move { seam::write(&view, start, &[NEW; 200]).await.unwrap() }
        });
        let [first, second, third] = parts;
        join3(first, second, third).await;
        let found = seam::read(&view, ByteRange::new(0, 1024)).await.unwrap();
        wrong(&found[..600], &[NEW]) + wrong(&found[600..], &[OLD])
    })
}

/// A store of what was fetched from below, and a guest that writes the same cluster meanwhile.
pub fn a_late_store() -> usize {
    let world = SimWorld::new(1, Options::calm());
    world.disk().put("base", &[OLD; 4 << 16]);
    world.run(async {
        let lab = Lab::new(&world);
        let (base, _) = lab.file("base").await;
        let view = lab.memory_format("disk", json!({"size": 4 * CLUSTER}), Some(&base)).await.view();
        hold(&world.disk(), OpKind::Write, "disk");
        let store = Request::new(Op::Write, cluster(0)).with_flags(Flags::UNCHANGED);
        let store = seam::execute(&view, store, Lease::copy_of(&[OLD; CLUSTER as usize]));
        let guest = seam::write(&view, 4096, &[NEW; 4096]);
        let world_goes_on = async {
            io::sleep(Duration::from_millis(1)).await;
            // The store is the first that is held: whatever else there is goes before it.
            world.disk().clear_policy();
            for (id, _) in world.disk().held().into_iter().skip(1) {
                world.disk().release(id);
            }
            io::sleep(Duration::from_millis(1)).await;
            world.disk().release_all();
        };
        let ((stored, _), written, ()) = join3(store, guest, world_goes_on).await;
        stored.unwrap();
        written.unwrap();
        let found = seam::read(&view, cluster(0)).await.unwrap();
        wrong(&found[4096..8192], &[NEW])
    })
}

/// Random work on chains where the rule matters; answers whether a byte was wrong.
pub fn random_work(seeds: std::ops::Range<u64>, layers: usize) -> bool {
    const SIZE: u64 = 300_001;
    let build = async |lab: &Lab| {
        let mut tree = lab.file_with("base", true).await.0;
        for layer in 0..layers {
            let options = json!({"size": SIZE, "cluster-size": 8192});
            tree = lab.memory_format(&format!("layer{layer}"), options, Some(&tree)).await;
        }
        tree
    };
    seeds
        .into_iter()
        .any(|seed| super::simulation::run(seed, SIZE, SIZE, &build).is_err_and(|e| e.contains(": byte ")))
}
