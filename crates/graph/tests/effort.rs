//! An edit touches what it concerns, whatever the size of the graph. Counted, not timed.

mod bodies;

use std::collections::BTreeMap;

use bodies::{Gate, Layer, World};
use flow::{Body, NodeId, Role};
use graph::{Demand, Edit, Effort, Place, RootId, User};

const CLONES: usize = 15_000;

/// A base image with many overlays, each with a file and an export of its own: 30,000 nodes.
struct Pond {
    world: World,
    clones: Vec<(NodeId, RootId)>,
}

impl Pond {
    fn new() -> Self {
        let mut world = World::new();
        world.disk("file");
        world.layer("base", "file");
        drop(world.edit(&[world.read_only("base", true), world.read_only("file", true)]));
        let mut pond = Self { world, clones: Vec::new() };
        let (mut edits, mut clones) = (Vec::new(), Vec::new());
        for _ in 0..CLONES {
            let (new, node, root) = pond.clone_of_base();
            edits.extend(new);
            clones.push((node, root));
        }
        pond.clones = clones;
        drop(pond.world.edit(&edits));
        pond
    }

    fn clone_of_base(&self) -> ([Edit; 3], NodeId, RootId) {
        let file = self.world.new_disk("").inline();
        let overlay = self.world.new_node("", Body::Maps(Layer::new()));
        let overlay = overlay.child(Role::File, file.node.id()).child(Role::Backing, self.world.id("base"));
        let (node, root) = (overlay.node.id(), self.world.graph.new_root());
        let attach = Edit::AttachRoot { root, node, user: User::export("e"), demand: Demand::WRITE };
        ([Edit::AddNode(file), Edit::AddNode(overlay), attach], node, root)
    }

    fn versions(&self) -> BTreeMap<RootId, u64> {
        let version = |root| self.world.graph.root(root).expect("attached").view().version();
        self.world.graph.users().map(|user| (user.root, version(user.root))).collect()
    }

    /// Makes edits and answers what they took and how many roots see another view.
    fn make(&mut self, edits: &[Edit]) -> (Effort, usize) {
        let before = self.versions();
        let plan = self.world.graph.check(edits).expect("fine");
        let effort = plan.effort();
        drop(self.world.graph.apply(plan).expect("no locks in the way"));
        let after = self.versions();
        let changed = after.iter().filter(|(root, version)| before.get(root) != Some(version)).count();
        (effort, changed)
    }
}

fn is_small(effort: Effort) -> bool {
    effort.visited < 60 && effort.changed < 8 && effort.views == 1
}

#[test]
fn an_edit_of_one_disk_leaves_thousands_alone() {
    let mut pond = Pond::new();
    assert!(pond.world.graph.len() > 30_000);
    let (node, root) = pond.clones[CLONES / 2];
    let filter = pond.world.new_node("f", Body::Executes(Gate::open())).child(Role::Filtered, node);
    let id = filter.node.id();
    let insert = [Edit::AddNode(filter), Edit::InsertFilter { filter: id, at: Place::Above }];
    let remove = [Edit::RemoveFilter(id), Edit::DeleteNode(id)];
    let (another, _, _) = pond.clone_of_base();
    let read_only =
        [Edit::SetDemand { root, demand: Demand::READ }, Edit::SetReadOnly { node, read_only: true }];
    let cut = [Edit::ReplaceChild { parent: node, role: Role::Backing, child: None }];
    let edits: [&[Edit]; 5] = [&insert, &remove, &another, &read_only, &cut];
    for edits in edits {
        let (effort, changed) = pond.make(edits);
        assert!(is_small(effort) && changed == 1, "{edits:?} took {effort:?} and changed {changed} views");
    }
    let (effort, changed) = pond.make(&[Edit::DetachRoot(root), Edit::DeleteNode(node)]);
    assert!(effort.visited < 60 && effort.views == 0 && changed == 0, "{effort:?} {changed}");
}

#[test]
fn an_edit_below_all_reaches_all() {
    let mut pond = Pond::new();
    let base = pond.world.id("base");
    let filter = pond.world.new_node("f", Body::Executes(Gate::open())).child(Role::Filtered, base);
    let insert = Edit::InsertFilter { filter: filter.node.id(), at: Place::Above };
    let (effort, changed) = pond.make(&[Edit::AddNode(filter), insert]);
    assert_eq!((effort.views, changed), (CLONES, CLONES));
    assert!(effort.visited < 60 * CLONES, "{effort:?}");
}

#[test]
fn a_long_chain_is_walked_once_per_edit() {
    let mut world = World::new();
    world.disk("top-file");
    let mut edits = Vec::new();
    let mut below: Option<NodeId> = None;
    for _ in 0..500 {
        let file = world.new_disk("").inline();
        let layer = world.new_node("", Body::Maps(Layer::new())).child(Role::File, file.node.id());
        let layer =
            below.iter().fold(layer, |layer, id| layer.child(Role::Backing, *id)).inline().read_only();
        below = Some(layer.node.id());
        edits.extend([file, layer].map(Edit::AddNode));
    }
    let top = world.new_layer("top", "top-file").child(Role::Backing, below.expect("a chain"));
    let root = world.graph.new_root();
    edits.push(Edit::AddNode(top));
    drop(world.edit(&edits));
    let attach = world.attaching(root, "top", User::export("e"), Demand::WRITE);
    let effort = world.graph.check(&[attach]).expect("fine").effort();
    // Some looks at each of the thousand nodes; diamonds and chains cost no more than their nodes.
    assert!(effort.visited < 10 * 1000, "{effort:?}");
}
