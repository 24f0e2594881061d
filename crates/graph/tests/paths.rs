//! What roots see: views, filters that come and go below live requests, drains.

mod bodies;

use std::sync::Arc;
use std::sync::atomic::Ordering;

use block::{ByteRange, ErrorKind, Result};
use bodies::{Gate, World};
use flow::{Body, DetectZeroes, Flags, Op, Request, Role, Root, View, seam};
use futures_util::FutureExt;
use futures_util::future::LocalBoxFuture;
use graph::{Child, Demand, Edit, Place, Reopen, RootId, User};
use io::Lease;

/// A read of one byte that waits as long as it must, in the view of now.
fn read(root: &Arc<Root>, at: u64) -> LocalBoxFuture<'static, Result<u8>> {
    let view: Arc<View> = root.view();
    async move { seam::read(&view, ByteRange::new(at, 1)).await.map(|lease| lease[0]) }.boxed_local()
}

fn read_now(world: &World, root: RootId, at: u64) -> Result<u8> {
    read(&world.graph.root(root).expect("attached"), at).now_or_never().expect("nothing to wait for")
}

fn insert(world: &World, name: &str, gate: &Arc<Gate>, on: &str, at: Place) -> [Edit; 2] {
    let filter = world.new_filter(name, gate, on);
    let insert = Edit::InsertFilter { filter: filter.node.id(), at };
    [Edit::AddNode(filter), insert]
}

#[test]
fn bytes_come_from_where_the_graph_says() {
    let mut world = World::new();
    world.disk("A");
    world.disk("B");
    world.layer("base", "A");
    world.overlay("top", "B", "base");
    let root = world.export("top");
    assert_eq!(read_now(&world, root, 0).expect("read"), b'B');
    // Behind the half that `top` holds, and that `base` does not hold either: zeros.
    assert_eq!(read_now(&world, root, 600 << 10).expect("read"), 0);
    world.disk("C");
    drop(world.edit(&[Edit::MoveRoot { root, to: world.id("C") }]));
    assert_eq!(read_now(&world, root, 600 << 10).expect("read"), b'C');
    assert_eq!(world.seen(root), ["C"]);
}

#[test]
fn a_filter_goes_in_above_every_parent_or_one() {
    let mut world = World::new();
    world.disk("a");
    world.disk("b");
    world.layer("l", "b");
    drop(world.edit(&[Edit::ReplaceChild {
        parent: world.id("l"),
        role: Role::Backing,
        child: Some(world.id("a")),
    }]));
    let (upper, lower) = (world.export("l"), world.export("a"));
    let gate = Gate::open();
    drop(world.edit(&insert(&world, "f", &gate, "a", Place::Above)));
    assert_eq!(world.seen(upper), ["l", "b", "f", "a"]);
    assert_eq!(world.seen(lower), ["f", "a"]);
    drop(world.edit(&[Edit::RemoveFilter(world.id("f")), Edit::DeleteNode(world.id("f"))]));
    assert_eq!(
        (world.seen(upper), world.seen(lower)),
        (vec!["l".into(), "b".into(), "a".into()], vec!["a".into()])
    );
    drop(world.edit(&insert(&world, "g", &gate, "a", Place::Root(lower))));
    assert_eq!((world.seen(upper).len(), world.seen(lower)), (3, vec!["g".into(), "a".into()]));
    let place = Place::Edge { parent: world.id("l"), role: Role::Backing };
    drop(world.edit(&insert(&world, "h", &gate, "a", place)));
    assert_eq!(world.seen(upper), ["l", "b", "h", "a"]);
    let wrong = Place::Edge { parent: world.id("l"), role: Role::File };
    assert_eq!(
        world.refused(&insert(&world, "i", &gate, "a", wrong)),
        "filter 'i' cannot be inserted there: 'b' is not what it stands on"
    );
}

#[test]
fn an_inserted_filter_counts_when_older_requests_have_ended() {
    let mut world = World::new();
    world.disk("a");
    let slow = Gate::shut();
    drop(world.edit(&[Edit::AddNode(world.new_filter("slow", &slow, "a"))]));
    let root = world.export("slow");
    let mut waits = read(&world.graph.root(root).expect("attached"), 0);
    assert!(waits.as_mut().now_or_never().is_none());
    let seer = Gate::open();
    let mut drained = world.edit(&insert(&world, "seer", &seer, "slow", Place::Above));
    assert!((&mut drained).now_or_never().is_none(), "a read in flight does not go through the filter");
    slow.shut.store(false, Ordering::SeqCst);
    assert_eq!(read_now(&world, root, 0).expect("read"), b'a');
    assert_eq!(seer.seen.load(Ordering::SeqCst), 1, "new requests go through it before");
    assert!((&mut drained).now_or_never().is_none());
    slow.shut.store(true, Ordering::SeqCst);
    drop(waits);
    assert!(drained.now_or_never().is_some());
}

#[test]
fn requests_that_wait_in_a_removed_filter_go_on() {
    let mut world = World::new();
    world.disk("a");
    let root = world.export("a");
    let gate = Gate::shut();
    drop(world.edit(&insert(&world, "f", &gate, "a", Place::Above)));
    let mut waits = read(&world.graph.root(root).expect("attached"), 0);
    assert!(waits.as_mut().now_or_never().is_none());
    let mut drained = world.edit(&[Edit::RemoveFilter(world.id("f")), Edit::DeleteNode(world.id("f"))]);
    assert!((&mut drained).now_or_never().is_none());
    assert_eq!(waits.now_or_never().expect("released").expect("read"), b'a');
    assert!(drained.now_or_never().is_some());
    assert_eq!(gate.released(), 1);
}

#[test]
fn a_filter_that_still_is_in_one_path_is_not_released() {
    let mut world = World::new();
    world.disk("a");
    let gate = world.filter("f", "a");
    let (first, second) = (world.export("f"), world.export("f"));
    drop(world.edit(&[Edit::MoveRoot { root: first, to: world.id("a") }]));
    assert_eq!(gate.released(), 0);
    drop(world.edit(&[Edit::DetachRoot(second)]));
    assert_eq!(gate.released(), 1);
}

#[test]
fn a_reopened_body_is_released_and_the_node_stays() {
    let mut world = World::new();
    world.disk("a");
    let (old, new) = (world.filter("f", "a"), Gate::open());
    let root = world.export("f");
    let id = world.id("f");
    drop(world.edit(&[world.reopen("f", Body::Executes(new.clone()))]));
    assert_eq!((old.released(), new.released()), (1, 0));
    assert_eq!((world.id("f"), read_now(&world, root, 0).expect("read")), (id, b'a'));
    assert_eq!(new.seen.load(Ordering::SeqCst), 1);
    // With the same body: nothing was taken out.
    drop(world.edit(&[world.reopen("f", Body::Executes(new.clone()))]));
    assert_eq!(new.released(), 0);
    // Locks of ranges and guards belong to the node, whatever its body.
    drop(world.edit(&[world.read_only("f", true)]));
    drop(world.edit(&[world.reopen("f", Body::Executes(Gate::open()))]));
    assert!(world.graph.node(id).expect("there").node.is_read_only());
}

#[test]
fn reopening_replaces_children_and_flags_together() {
    let mut world = World::new();
    world.disk("a");
    world.disk("b");
    world.layer("l", "a");
    let root = world.export("l");
    let children = vec![Child::new(Role::File, world.id("b"))];
    let reopen = Reopen { children: Some(children), read_only: Some(true), ..Reopen::new(world.id("l")) };
    drop(world.edit(&[Edit::Reopen(reopen)]));
    assert_eq!(world.seen(root), ["l", "b"]);
    assert!(world.graph.node(world.id("l")).expect("there").read_only);
    assert_eq!(world.graph.node(world.id("a")).expect("there").references, 1);
}

#[test]
fn a_drain_waits_for_all_requests_in_flight_and_holds_nobody_up() {
    let mut world = World::new();
    world.disk("a");
    let gate = Gate::shut();
    drop(world.edit(&[Edit::AddNode(world.new_filter("f", &gate, "a"))]));
    let (root, other) = (world.export("f"), world.export("a"));
    let mut first = read(&world.graph.root(root).expect("attached"), 0);
    assert!(first.as_mut().now_or_never().is_none());
    let mut early = world.graph.drain_root(root).expect("attached");
    // The second drain waits for the first request as well, though it is in a view of before the first drain.
    let mut late = world.graph.drain_node(world.id("a")).expect("there");
    assert!((&mut early).now_or_never().is_none() && (&mut late).now_or_never().is_none());
    assert!(world.graph.drain_root(other).expect("attached").now_or_never().is_some());
    assert_eq!(read_now(&world, other, 0).expect("read"), b'a');
    gate.shut.store(false, Ordering::SeqCst);
    assert_eq!(read_now(&world, root, 0).expect("read"), b'a');
    drop(first);
    assert!(early.now_or_never().is_some() && late.now_or_never().is_some());
}

#[test]
fn a_detached_root_leads_nowhere() {
    let mut world = World::new();
    world.disk("a");
    let id = world.attach("a", User::export("e"), Demand::WRITE);
    let root = world.graph.root(id).expect("attached");
    let view = root.view();
    let drained = world.edit(&[Edit::DetachRoot(id)]);
    assert!(!drained.is_ready(), "a request may still be under way");
    let error = read(&root, 0).now_or_never().expect("at once").expect_err("detached");
    assert_eq!(error.kind(), ErrorKind::Cancelled);
    let flush =
        seam::execute(&root.view(), Request::flush(), Lease::empty()).now_or_never().expect("at once");
    assert!(flush.0.is_err());
    let write = Request::new(Op::Write, ByteRange::new(0, 1));
    assert!(seam::execute(&root.view(), write, Lease::new(1)).now_or_never().expect("at once").0.is_err());
    drop(view);
    assert!(drained.now_or_never().is_some());
    assert!(world.graph.root(id).is_err());
}

#[test]
fn jobs_stay_where_they_are() {
    let mut world = World::new();
    world.disk("a");
    world.disk("b");
    let export = world.export("a");
    drop(world.edit(&[Edit::ReplaceNode { node: world.id("a"), with: world.id("b") }]));
    assert_eq!(world.seen(export), ["b"]);
    let job = world.attach("b", User::job("backup", "j", "main node"), Demand::NOTHING);
    drop(world.edit(&insert(&world, "f", &Gate::open(), "b", Place::Above)));
    assert_eq!((world.seen(export), world.seen(job)), (vec!["f".into(), "b".into()], vec!["b".into()]));
    let swap = Edit::ReplaceNode { node: world.id("b"), with: world.id("a") };
    assert_eq!(world.refused(&[swap]), "Node 'b' is busy: block device is in use by block job: backup");
}

#[test]
fn an_overlay_takes_the_place_of_its_backing() {
    let mut world = World::new();
    world.disk("a");
    world.disk("b");
    world.layer("base", "a");
    let export = world.export("base");
    let overlay = world.new_layer("snap", "b").child(Role::Backing, world.id("base"));
    let swap = Edit::ReplaceNode { node: world.id("base"), with: overlay.node.id() };
    drop(world.edit(&[Edit::AddNode(overlay), swap]));
    assert_eq!(world.seen(export), ["snap", "b", "base", "a"]);
}

#[test]
fn zeros_are_detected_by_the_first_node_that_says_so() {
    let mut world = World::new();
    let disk = world.disk("a");
    world.filter("f", "a");
    let root = world.export("f");
    let mut becomes = |name: &str, mode: DetectZeroes| {
        let reopen = Reopen { detect_zeroes: Some(mode), ..Reopen::new(world.id(name)) };
        drop(world.edit(&[Edit::Reopen(reopen)]));
        let view = world.graph.root(root).expect("attached").view();
        seam::write(&view, 0, &[0; 512]).now_or_never().expect("at once").expect("written");
        disk.asked.lock().unwrap().pop().expect("asked")
    };
    assert_eq!(becomes("a", DetectZeroes::Off), (Op::Write, Flags::NONE));
    assert_eq!(becomes("a", DetectZeroes::On), (Op::WriteZeroes, Flags::NONE));
    assert_eq!(becomes("f", DetectZeroes::Unmap), (Op::WriteZeroes, Flags::MAY_UNMAP));
    assert_eq!(becomes("a", DetectZeroes::Off), (Op::WriteZeroes, Flags::MAY_UNMAP));
}

#[test]
fn headers_of_children_can_be_read_before_they_are_added() {
    let mut world = World::new();
    world.disk("a");
    let filter = world.new_filter("f", &Gate::open(), "a").inline();
    let id = filter.node.id();
    let view = world.graph.preview(&[Edit::AddNode(filter)], id).expect("a view");
    let lease = seam::read(&view, ByteRange::new(0, 1)).now_or_never().expect("at once").expect("read");
    assert_eq!(lease[0], b'a');
    assert_eq!(world.graph.len(), 1);
}

#[test]
fn a_plan_is_made_only_on_the_graph_that_it_was_checked_against() {
    let mut world = World::new();
    let plan = world.graph.check(&[Edit::AddNode(world.new_disk("x"))]).expect("fine");
    world.disk("x");
    let error = world.graph.apply(plan).err().expect("stale");
    assert_eq!(error.kind(), ErrorKind::Busy);
    assert_eq!(world.graph.len(), 1);
}
