//! Random edits against a plain model: what one takes the other takes, and the same comes of it; what is refused, or
//! fails for want of a lock, changes nothing.

mod bodies;
mod plain;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use block::{ByteRange, Permissions};
use bodies::{Disk, Gate, Layer, World};
use flow::{Body, NodeId, Role, View, seam};
use futures_util::FutureExt;
use graph::{Child, Demand, EdgeDemand, Edit, NewNode, Place, Reopen, RootId, User};
use plain::Plain;
use proptest::prelude::*;

/// Numbers from which one edit is made.
type Seed = [u8; 6];

struct Run {
    world: World,
    plain: Plain,
    disks: BTreeMap<NodeId, Arc<Disk>>,
    /// Views that requests in flight hold.
    in_flight: Vec<Arc<View>>,
    roots: Vec<RootId>,
    accepted: usize,
    names: u64,
}

/// The nodes that an edit may name: those of the graph, those of the edits before it, and one that is not there.
struct Known {
    ids: Vec<NodeId>,
    roots: Vec<RootId>,
}

impl Known {
    fn node(&self, by: u8) -> NodeId {
        // The last ones more often: what is above others.
        let last = if by.is_multiple_of(2) { self.ids.len() } else { self.ids.len().min(6) };
        self.ids[self.ids.len() - 1 - usize::from(by / 2) % last]
    }

    fn root(&self, by: u8) -> RootId {
        self.roots[usize::from(by) % self.roots.len()]
    }
}

impl Run {
    /// Begins with a chain of two layers and a filter, an export of it, and some disks.
    fn new() -> Self {
        let mut run = Self {
            world: World::new(),
            plain: Plain::default(),
            disks: BTreeMap::new(),
            in_flight: Vec::new(),
            roots: Vec::new(),
            accepted: 0,
            names: 0,
        };
        let disks = ["a", "b", "c", "d"].map(|name| (Disk::new(name.as_bytes()[0]), name));
        let mut edits = Vec::new();
        for (disk, name) in disks {
            let new = run.world.new_node(name, Body::Executes(disk.clone()));
            run.disks.insert(new.node.id(), disk);
            edits.push(Edit::AddNode(new));
        }
        let ids: Vec<NodeId> = run.disks.keys().copied().collect();
        let layer = |world: &World, name, file| {
            world.new_node(name, Body::Maps(Layer::new())).child(Role::File, file)
        };
        let base = layer(&run.world, "base", ids[0]).read_only();
        let top = layer(&run.world, "top", ids[1]).child(Role::Backing, base.node.id());
        let filter =
            run.world.new_node("filter", Body::Executes(Gate::open())).child(Role::Filtered, top.node.id());
        let mut known = Known { ids: vec![filter.node.id()], roots: Vec::new() };
        edits.extend([base, top, filter].map(Edit::AddNode));
        edits.push(run.make_root(0, 5, 0, &mut known));
        run.plain = run.plain.after(&edits).expect("a start");
        drop(run.world.edit(&edits));
        run.verify();
        run
    }

    fn known(&self) -> Known {
        let mut known = Known { ids: self.plain.nodes.keys().copied().collect(), roots: self.roots.clone() };
        known.ids.push(NodeId(u64::MAX - 1));
        known.roots.push(RootId(u64::MAX - 1));
        known
    }

    fn make(&mut self, seed: Seed, known: &mut Known) -> Edit {
        let [kind, a, b, c, d, e] = seed;
        let role = [Role::File, Role::Filtered, Role::DataFile, Role::Backing][usize::from(c % 4)];
        match kind % 16 {
            0..=4 => Edit::AddNode(self.make_node([a, b, c, d, e], known)),
            5 => Edit::DeleteNode(known.node(a)),
            6 => {
                let child = (d % 4 > 0).then(|| known.node(b));
                Edit::ReplaceChild { parent: known.node(a), role, child }
            }
            7 => Edit::ReplaceNode { node: known.node(a), with: known.node(b) },
            8 | 9 => {
                let at = match d % 3 {
                    0 => Place::Above,
                    1 => Place::Edge { parent: known.node(b), role },
                    _ => Place::Root(known.root(b)),
                };
                Edit::InsertFilter { filter: known.node(a), at }
            }
            10 => Edit::RemoveFilter(known.node(a)),
            11 => {
                let children = (d.is_multiple_of(2)).then(|| vec![Child::new(role, known.node(b))]);
                let read_only = (e.is_multiple_of(3)).then_some(d.is_multiple_of(2));
                Edit::Reopen(Reopen { children, read_only, ..Reopen::new(known.node(a)) })
            }
            12 => Edit::SetReadOnly { node: known.node(a), read_only: b.is_multiple_of(2) },
            13 => self.make_root(a, b, c, known),
            14 if a.is_multiple_of(2) => Edit::DetachRoot(known.root(b)),
            14 => Edit::SetDemand { root: known.root(b), demand: demand(c) },
            _ => Edit::MoveRoot { root: known.root(a), to: known.node(b) },
        }
    }

    fn make_node(&mut self, [a, b, c, d, e]: [u8; 5], known: &mut Known) -> NewNode {
        self.names += 1;
        // Now and then a name that is there already.
        let name = if e.is_multiple_of(32) { "a".to_owned() } else { format!("n{}", self.names) };
        let disk = Disk::new(e);
        let extra = EdgeDemand {
            uses: if c.is_multiple_of(4) { Permissions::WRITE_UNCHANGED } else { Permissions::NONE },
            unshares: Permissions::NONE,
        };
        let mut new = match a % 4 {
            0 => self.world.new_node(&name, Body::Executes(disk.clone())),
            1 => self.world.new_node(&name, Body::Maps(Layer::new())).child(Role::File, known.node(b)),
            2 => {
                let layer = self.world.new_node(&name, Body::Maps(Layer::new()));
                layer.child(Role::File, known.node(b)).child(Role::Backing, known.node(d))
            }
            _ => {
                let filter = self.world.new_node(&name, Body::Executes(Gate::open()));
                filter.demanding(Role::Filtered, known.node(b), extra)
            }
        };
        new.owned = d % 3 > 0;
        new.read_only = e.is_multiple_of(4);
        if a.is_multiple_of(4) {
            self.disks.insert(new.node.id(), disk);
        }
        known.ids.push(new.node.id());
        new
    }

    fn make_root(&mut self, a: u8, b: u8, c: u8, known: &mut Known) -> Edit {
        let root = self.world.graph.new_root();
        self.roots.push(root);
        known.roots.push(root);
        let user = match b % 6 {
            0 => User::job("stream", "j", "main node"),
            1 => User::job("fill", "f", "main node").movable(),
            2 => User::named("n"),
            _ => User::export("e"),
        };
        Edit::AttachRoot { root, node: known.node(a), user, demand: demand(c) }
    }

    fn step(&mut self, seeds: &[Seed]) {
        let mut known = self.known();
        let edits: Vec<Edit> = seeds.iter().map(|seed| self.make(*seed, &mut known)).collect();
        self.hold_some(seeds[0]);
        let before = self.picture();
        let expected = self.plain.after(&edits);
        let plan = self.world.graph.check(&edits);
        assert_eq!(plan.is_ok(), expected.is_some(), "{edits:#?} {:?}\n{before}", plan.err());
        assert_eq!(self.picture(), before, "checking changed something");
        let (Ok(plan), Some(expected)) = (plan, expected) else { return };
        let stubborn = self.disks.values().nth(usize::from(seeds[0][5]) % self.disks.len());
        let stubborn = stubborn.filter(|_| seeds[0][4].is_multiple_of(4)).cloned();
        if let Some(disk) = &stubborn {
            disk.refuses.store(true, Ordering::SeqCst);
        }
        let result = self.world.graph.apply(plan);
        if let Some(disk) = &stubborn {
            disk.refuses.store(false, Ordering::SeqCst);
        }
        // What it refused to give up, it is asked for again.
        self.world.graph.settle();
        match result {
            Ok(_) => {
                self.plain = expected;
                self.accepted += 1;
            }
            Err(error) => {
                assert!(stubborn.is_some(), "{error}");
                assert_eq!(self.picture(), before, "an edit that failed changed something");
            }
        }
        self.verify();
    }

    /// Lets requests begin and end.
    fn hold_some(&mut self, seed: Seed) {
        if seed[1].is_multiple_of(3) {
            let views =
                self.plain.roots.keys().map(|root| self.world.graph.root(*root).expect("there").view());
            self.in_flight.extend(views);
        } else if seed[1] % 3 == 1 {
            self.in_flight.clear();
        }
        self.world.graph.settle();
    }

    /// Everything that a refused edit must leave as it is.
    fn picture(&self) -> String {
        let graph = &self.world.graph;
        let mut lines: Vec<String> = graph.edges().map(|edge| format!("{edge:?}")).collect();
        for node in graph.nodes() {
            let id = node.node.id();
            let told = self.disks.get(&id).map(|disk| disk.last());
            let (owned, read_only) = (node.owned, node.node.is_read_only());
            lines.push(format!("{:?} {id:?} {owned} {read_only} {:?} {told:?}", node.node, node.demand));
        }
        for user in graph.users() {
            let version = graph.root(user.root).expect("attached").view().version();
            lines.push(format!("{:?} {} {:?} view {version}", user.root, user.user, user.node));
        }
        lines.join("\n")
    }

    fn verify(&self) {
        let (graph, plain) = (&self.world.graph, &self.plain);
        let ids: Vec<NodeId> = graph.nodes().map(|n| n.node.id()).collect();
        assert_eq!(ids, plain.nodes.keys().copied().collect::<Vec<_>>());
        for (id, node) in &plain.nodes {
            let found = graph.node(*id).expect("there");
            assert_eq!(graph.find(&node.name).expect("by its name"), *id);
            assert_eq!((found.owned, found.read_only), (node.owned, node.read_only));
            assert_eq!(found.node.is_read_only(), node.read_only);
            let children: BTreeMap<Role, NodeId> = found.children.iter().map(|e| (e.role, e.child)).collect();
            assert_eq!(children, node.children);
            assert_eq!(found.references, plain.parents(*id).len() + usize::from(node.owned));
            assert_eq!(found.demand, plain.demand_on(*id));
        }
        self.verify_edges();
        self.verify_locks();
        plain.roots.keys().for_each(|root| self.verify_root(*root));
        assert_eq!(graph.users().count(), plain.roots.len());
    }

    fn verify_edges(&self) {
        let found: BTreeSet<String> = self
            .world
            .graph
            .edges()
            .map(|e| format!("{:?} {:?} {:?} {:?}", e.parent, e.child, e.uses, e.shares))
            .collect();
        let demands = self.plain.nodes.keys().flat_map(|id| {
            let demands = self.plain.demands_on(*id).into_iter();
            demands.map(move |(parent, d)| format!("{parent:?} {id:?} {:?} {:?}", d.uses, d.shares))
        });
        assert_eq!(found, demands.collect());
    }

    /// Each file knows at least what its users do now; and nothing else when no request is in flight.
    fn verify_locks(&self) {
        for id in self.plain.nodes.keys() {
            let Some(disk) = self.disks.get(id) else { continue };
            let told = disk.told.lock().expect("no test panics while it holds it").last().copied();
            let (told, now) = (told.unwrap_or(Demand::NOTHING), self.plain.demand_on(*id));
            assert!(told.uses.contains(now.uses) && now.shares.contains(told.shares));
            if self.in_flight.is_empty() {
                assert_eq!(told, now);
            }
        }
    }

    /// The view is what a fresh one would be, and bytes come from where the plain graph says.
    fn verify_root(&self, root: RootId) {
        let at = self.plain.roots[&root].at;
        let view = self.world.graph.root(root).expect("attached").view();
        let fresh = self.world.graph.view(at).expect("a view");
        let nodes = |view: &View| view.nodes().map(Arc::as_ptr).collect::<Vec<_>>();
        assert_eq!(nodes(&view), nodes(&fresh));
        for offset in [0, (1 << 20) - 1] {
            let lease = seam::read(&view, ByteRange::new(offset, 1)).now_or_never().expect("at once");
            assert_eq!(lease.expect("read")[0], self.byte(at, offset), "{offset}");
        }
    }

    fn byte(&self, id: NodeId, offset: u64) -> u8 {
        let node = &self.plain.nodes[&id];
        match self.disks.get(&id) {
            Some(disk) => disk.byte,
            None if node.is_filter => self.byte(node.children[&Role::Filtered], offset),
            // Its first half lies in its first child, of whatever role.
            None if offset < 1 << 19 => {
                let first = node.children.values().next().expect("a format has a file");
                self.byte(*first, offset)
            }
            None => node.children.get(&Role::Backing).map_or(0, |backing| self.byte(*backing, offset)),
        }
    }

    fn finish(mut self) -> usize {
        self.in_flight.clear();
        self.world.graph.settle();
        self.verify();
        self.accepted
    }
}

fn demand(by: u8) -> Demand {
    match by % 6 {
        0 | 1 => Demand::READ,
        2 => Demand::WRITE,
        3 => Demand::NOTHING,
        4 => Demand { uses: Permissions::CONSISTENT_READ, shares: Permissions::ALL },
        _ => Demand { uses: Permissions::RESIZE, shares: !Permissions::WRITE },
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: cases(), failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn random_edits_do_what_the_plain_model_does(
        steps in prop::collection::vec(prop::collection::vec(any::<Seed>(), 1..4), 20..60)
    ) {
        let mut run = Run::new();
        steps.iter().for_each(|seeds| run.step(seeds));
        run.finish();
    }
}

fn cases() -> u32 {
    if std::env::var_os("MILLPOND_TEST_FULL").is_some() { 5000 } else { 300 }
}

/// The test above proves something only if edits of every kind are taken.
#[test]
fn random_edits_are_often_taken() {
    let mut random = 1u64;
    let mut next = move || {
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (random >> 33) as u8
    };
    let mut accepted = 0;
    for _ in 0..20 {
        let mut run = Run::new();
        for _ in 0..50 {
            run.step(&[std::array::from_fn(|_| next())]);
        }
        accepted += run.finish();
    }
    assert!(accepted > 200, "only {accepted} of 1000");
}
