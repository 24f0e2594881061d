//! What files with locks are told: QEMU's lock states, all or nothing, and nothing given up too early.
//!
//! A state is `used/shared`, of r(ead), w(rite), u(nchanged), s(ize): QEMU locks byte 100+n for what is used and
//! 200+n for what is not shared.

mod bodies;

use std::sync::Arc;
use std::sync::atomic::Ordering;

use block::{ByteRange, Permissions};
use bodies::{Disk, Gate, Layer, World};
use flow::{Body, Role, seam};
use futures_util::FutureExt;
use graph::{Demand, EdgeDemand, Edit, Place, Reopen, User};

/// Bytes 100 101 103, 201 203.
const WRITABLE: &str = "rws/ru";
/// Bytes 100-103, 201 203.
const WRITABLE_UNDER_COPY_ON_READ: &str = "rwus/ru";
/// Bytes 100, 201 203.
const READ_ONLY: &str = "r/ru";
const NOTHING: &str = "-/rwus";

const UNCHANGED: EdgeDemand = EdgeDemand { uses: Permissions::WRITE_UNCHANGED, unshares: Permissions::NONE };

fn copy_on_read(world: &World, on: &str) -> [Edit; 2] {
    let filter = world.new_node("cor", Body::Executes(Gate::open()));
    let filter = filter.demanding(Role::Filtered, world.id(on), UNCHANGED);
    let insert = Edit::InsertFilter { filter: filter.node.id(), at: Place::Above };
    [Edit::AddNode(filter), insert]
}

#[test]
fn lock_states_are_those_of_qemu() {
    let mut world = World::new();
    let file = world.disk("a");
    assert_eq!(file.last(), NOTHING);
    world.layer("q", "a");
    assert_eq!(file.last(), WRITABLE);
    world.attach("q", User::export("e"), Demand::READ);
    assert_eq!(file.last(), WRITABLE);
    drop(world.edit(&copy_on_read(&world, "q")));
    assert_eq!(file.last(), WRITABLE_UNDER_COPY_ON_READ);
    let take_out = [Edit::RemoveFilter(world.id("cor")), Edit::DeleteNode(world.id("cor"))];
    drop(world.edit(&take_out));
    assert_eq!(file.last(), WRITABLE);
    drop(world.edit(&[world.read_only("q", true), world.read_only("a", true)]));
    assert_eq!(file.last(), READ_ONLY);
    assert_eq!(world.graph.permitted_to(world.id("a")).map(bodies::letters), Some(READ_ONLY.to_owned()));
}

#[test]
fn a_read_only_node_cannot_be_copied_to() {
    let mut world = World::new();
    world.disk("a");
    world.layer("q", "a");
    world.export("q");
    drop(world.edit(&[world.read_only("q", true)]));
    assert_eq!(world.refused(&copy_on_read(&world, "q")), "Block node is read-only");
}

#[test]
fn a_backing_chain_is_only_read() {
    let mut world = World::new();
    let (base, top) = (world.disk("a"), world.disk("b"));
    world.layer("base", "a");
    drop(world.edit(&[world.read_only("base", true)]));
    world.overlay("top", "b", "base");
    world.attach("top", User::export("e"), Demand::WRITE);
    assert_eq!((base.last(), top.last()), (READ_ONLY.to_owned(), WRITABLE.to_owned()));
}

#[test]
fn nodes_are_told_only_what_is_new() {
    let mut world = World::new();
    let file = world.disk("a");
    world.layer("q", "a");
    let before = file.all().len();
    world.export("q");
    world.export("q");
    assert_eq!(file.all().len(), before);
}

#[test]
fn a_failure_in_the_middle_leaves_everything_as_it_was() {
    let mut world = World::new();
    let files: Vec<Arc<Disk>> = ["a", "b", "c", "d"].iter().map(|name| world.disk(name)).collect();
    for (layer, file) in [("qa", "a"), ("qb", "b"), ("qc", "c"), ("qd", "d")] {
        world.layer(layer, file);
        drop(world.edit(&[world.read_only(layer, true)]));
    }
    let root = world.export("qa");
    let version = world.graph.root(root).expect("attached").view().version();
    files[2].refuses.store(true, Ordering::SeqCst);
    let told: Vec<usize> = files.iter().map(|file| file.all().len()).collect();
    let edits: Vec<Edit> = ["qa", "qb", "qc", "qd"].map(|name| world.read_only(name, false)).into();
    let plan = world.graph.check(&edits).expect("as far as the graph goes");
    let error = world.graph.apply(plan).err().expect("a lock is missing");
    assert_eq!(error.to_string(), "Failed to get \"write\" lock");
    // Who was told before is told again what it knew; who comes after was not told at all.
    let news: Vec<Vec<String>> = files.iter().zip(told).map(|(file, n)| file.all().split_off(n)).collect();
    let there_and_back = vec![WRITABLE.to_owned(), READ_ONLY.to_owned()];
    assert_eq!(news, [there_and_back.clone(), there_and_back, vec![], vec![]]);
    assert!(world.graph.node(world.id("qa")).expect("there").read_only);
    assert_eq!(world.graph.root(root).expect("attached").view().version(), version);
    files[2].refuses.store(false, Ordering::SeqCst);
    drop(world.edit(&edits));
    assert!(files.iter().all(|file| file.last() == WRITABLE));
}

#[test]
fn a_new_node_without_its_lock_leaves_nothing_behind() {
    let mut world = World::new();
    let good = world.disk("a");
    let bad = Disk::new(0);
    bad.refuses.store(true, Ordering::SeqCst);
    let file = world.new_node("f", Body::Executes(bad));
    let layer = world.new_node("q", Body::Maps(Layer::new()));
    let layer = layer.child(Role::File, world.id("a")).child(Role::DataFile, file.node.id());
    let reader = Edit::AttachRoot {
        root: world.graph.new_root(),
        node: layer.node.id(),
        user: User::export("e"),
        demand: Demand::READ,
    };
    assert!(world.try_edit(&[Edit::AddNode(file), Edit::AddNode(layer), reader]).is_err());
    assert_eq!((world.graph.len(), good.last()), (1, NOTHING.to_owned()));
    assert_eq!(world.graph.permitted_to(world.id("a")).map(bodies::letters), Some(NOTHING.to_owned()));
}

#[test]
fn a_new_body_takes_the_locks_over_or_the_old_one_gets_them_back() {
    let mut world = World::new();
    let old = world.disk("a");
    world.layer("q", "a");
    let new = Disk::new(0);
    new.refuses.store(true, Ordering::SeqCst);
    let told = old.all().len();
    assert!(world.try_edit(&[world.reopen("a", Body::Executes(new.clone()))]).is_err());
    assert_eq!(old.all().split_off(told), [WRITABLE]);
    new.refuses.store(false, Ordering::SeqCst);
    drop(world.edit(&[world.reopen("a", Body::Executes(new.clone()))]));
    assert_eq!((new.last(), old.all().len()), (WRITABLE.to_owned(), told + 1));
    // A failure elsewhere, after it took them.
    let (other, newer) = (world.disk("b"), Disk::new(0));
    other.refuses.store(true, Ordering::SeqCst);
    let edits = [world.reopen("a", Body::Executes(newer.clone())), Edit::AddNode(world.new_layer("p", "b"))];
    assert!(world.try_edit(&edits).is_err());
    assert_eq!((newer.last(), new.all().len()), (WRITABLE.to_owned(), 2));
}

#[test]
fn locks_are_kept_while_requests_in_flight_need_them() {
    let mut world = World::new();
    let file = world.disk("a");
    let root = world.attach("a", User::export("e"), Demand::WRITE);
    let writing = world.graph.root(root).expect("attached").view();
    let mut drained = world.edit(&[Edit::SetDemand { root, demand: Demand::READ }]);
    assert_eq!(file.last(), "rw/rwu");
    assert!((&mut drained).now_or_never().is_none());
    // What comes after, comes on top.
    world.attach(
        "a",
        User::export("f"),
        Demand { uses: Permissions::NONE, shares: !Permissions::WRITE_UNCHANGED },
    );
    assert_eq!(file.last(), "rw/rw");
    seam::write(&writing, 0, b"late").now_or_never().expect("at once").expect("still allowed");
    drop(writing);
    assert!(drained.now_or_never().is_some());
    assert_eq!(file.last(), "r/rw");
}

#[test]
fn an_edit_on_top_of_another_keeps_the_locks_for_requests_before_both() {
    let mut world = World::new();
    let file = world.disk("a");
    let root = world.attach("a", User::export("e"), Demand::WRITE);
    let writing = world.graph.root(root).expect("attached").view();
    let filter = world.new_filter("f", &Gate::open(), "a");
    let insert = Edit::InsertFilter { filter: filter.node.id(), at: Place::Above };
    drop(world.edit(&[Edit::AddNode(filter), insert]));
    drop(world.edit(&[Edit::DetachRoot(root)]));
    world.graph.settle();
    assert_eq!(file.last(), "rw/rwu");
    drop(writing);
    world.graph.settle();
    assert_eq!(file.last(), NOTHING);
}

#[test]
fn a_deleted_file_keeps_its_locks_until_the_last_request() {
    let mut world = World::new();
    let file = Disk::new(7);
    let node = world.new_node("f", Body::Executes(file.clone())).inline();
    let id = node.node.id();
    let top = world.new_node("q", Body::Maps(Layer::new())).child(Role::File, id);
    let root = world.graph.new_root();
    let attach =
        Edit::AttachRoot { root, node: top.node.id(), user: User::export("e"), demand: Demand::READ };
    drop(world.edit(&[Edit::AddNode(node), Edit::AddNode(top), attach]));
    let view = world.graph.root(root).expect("attached").view();
    drop(world.edit(&[Edit::DetachRoot(root), Edit::DeleteNode(world.id("q"))]));
    assert!(world.graph.is_empty());
    assert_eq!(file.last(), WRITABLE);
    let read = seam::read(&view, ByteRange::new(0, 1)).now_or_never().expect("at once").expect("read");
    assert_eq!(read[0], 7);
    drop(view);
    world.graph.settle();
    assert_eq!((file.last(), world.graph.permitted_to(id)), (NOTHING.to_owned(), None));
}

#[test]
fn reopening_a_whole_chain_read_only_is_one_edit() {
    let mut world = World::new();
    let (base, top) = (world.disk("a"), world.disk("b"));
    world.layer("base", "a");
    drop(world.edit(&[world.read_only("base", true)]));
    world.overlay("top", "b", "base");
    let export = world.export("top");
    let cut = Reopen {
        children: Some(vec![graph::Child::new(Role::File, world.id("b"))]),
        read_only: Some(true),
        ..Reopen::new(world.id("top"))
    };
    let edits = [Edit::Reopen(cut), world.read_only("b", true)];
    let drained = world.edit(&edits);
    assert!(drained.is_ready());
    assert_eq!((top.last(), world.seen(export)), (READ_ONLY.to_owned(), vec!["top".into(), "b".into()]));
    // The source is closed then.
    drop(world.edit(&[Edit::DeleteNode(world.id("base")), Edit::DeleteNode(world.id("a"))]));
    assert_eq!(base.last(), NOTHING);
}
