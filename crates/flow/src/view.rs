//! Snapshots of the graph as one root sees it, compiled for the walk.
//!
//! Invariants: a view never changes; its nodes are in no cycle (the builder refuses one); index 0 is the root;
//! dropping the last reference to a view is what "drained" means for the edit that replaced it.

use std::sync::Arc;
use std::sync::Mutex;
use std::sync::PoisonError;
use std::sync::Weak;
use std::sync::atomic::{AtomicU64, Ordering};

use block::{BlockError, ChildIndex, ErrorKind, Result};
use io::sync::oneshot;

use crate::contract::Changes;
use crate::next::Next;
use crate::node::{Body, Limits, Node, NodeId, Role};

/// Position of a node in its view.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
pub struct ViewIndex(pub(crate) u32);

impl ViewIndex {
    /// The root.
    pub const ROOT: Self = Self(0);
}

/// What becomes of writes that are all zeros.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum DetectZeroes {
    /// They are written.
    #[default]
    Off,
    /// They become a zeroing.
    On,
    /// They become a zeroing that may unmap.
    Unmap,
}

struct ViewNode {
    node: Arc<Node>,
    children: Box<[(Role, ViewIndex)]>,
    backing: Option<u8>,
    sized: Sized,
    slot: u64,
    limits: Limits,
    /// Where a format that allocates, and keeps its clusters in it, has its tables.
    stores_clusters: Option<ViewIndex>,
}

/// Where a node's size comes from.
#[derive(Clone, Copy)]
struct Sized {
    /// The node that has it: itself, or the first on the way down.
    by: ViewIndex,
    /// Bytes at the beginning of that node that do not count (the offset of raw nodes on the way).
    less: u64,
}

/// Version of the next view.
static VERSION: AtomicU64 = AtomicU64::new(1);

/// The graph below one root, at one moment.
pub struct View {
    version: u64,
    nodes: Box<[ViewNode]>,
    /// Formats that can change, anywhere below: a request that waits takes a guard on each.
    changing: Box<[ViewIndex]>,
    formats: usize,
    detect_zeroes: DetectZeroes,
    /// A node records what is changed.
    records: bool,
    /// Neither that nor zeros make writes of the root wait.
    writes_freely: bool,
    retired: Mutex<Vec<oneshot::Sender<()>>>,
    me: Weak<View>,
}

impl View {
    /// Another reference to this view, for work that outlives the request that began it.
    pub(crate) fn another(&self) -> Option<Arc<Self>> {
        self.me.upgrade()
    }

    /// Unique among all views of the process; later ones have higher ones.
    pub fn version(&self) -> u64 {
        self.version
    }

    /// A version that no view built so far exceeds, and any built from now on does.
    pub fn newest_version() -> u64 {
        VERSION.load(Ordering::SeqCst) - 1
    }

    /// A node of the view.
    pub fn node(&self, index: ViewIndex) -> &Node {
        &self.at(index).node
    }

    /// The root node.
    pub fn root(&self) -> &Node {
        self.node(ViewIndex::ROOT)
    }

    /// Size of the root in bytes.
    pub fn size(&self) -> u64 {
        self.size_of(ViewIndex::ROOT)
    }

    /// Whether writes beyond the end of the root make it longer: it is carried out by a node that can be resized.
    pub fn root_grows(&self) -> bool {
        self.grows(ViewIndex::ROOT)
    }

    /// Limits of the root.
    pub fn limits(&self) -> Limits {
        *self.limits_of(ViewIndex::ROOT)
    }

    /// The root's view of its children: what its powers are called with.
    pub fn next(&self) -> Next<'_> {
        Next::new(self, ViewIndex::ROOT)
    }

    pub(crate) fn limits_of(&self, index: ViewIndex) -> &Limits {
        &self.at(index).limits
    }

    /// Nodes of the view, the root first.
    pub fn nodes(&self) -> impl Iterator<Item = &Arc<Node>> {
        self.nodes.iter().map(|n| &n.node)
    }

    /// Strictest alignment of any node, in bytes.
    pub fn alignment(&self) -> u64 {
        self.nodes.iter().map(|n| n.limits.alignment.bytes()).max().unwrap_or(1)
    }

    pub(crate) fn detect_zeroes(&self) -> DetectZeroes {
        self.detect_zeroes
    }

    /// Whether a node of it records what is changed.
    pub(crate) fn records(&self) -> bool {
        self.records
    }

    /// Whether the seam has nothing to look for in writes.
    #[inline]
    pub(crate) fn writes_freely(&self) -> bool {
        self.writes_freely
    }

    pub(crate) fn formats(&self) -> usize {
        self.formats
    }

    pub(crate) fn changing(&self) -> &[ViewIndex] {
        &self.changing
    }

    pub(crate) fn size_of(&self, index: ViewIndex) -> u64 {
        let Sized { by, less } = self.at(index).sized;
        self.at(by).node.own_size().unwrap_or(0).saturating_sub(less)
    }

    pub(crate) fn grows(&self, index: ViewIndex) -> bool {
        let node = &self.at(self.at(index).sized.by).node;
        matches!(node.body(), Body::Executes(_)) && node.powers().resize.is_some()
    }

    pub(crate) fn children(&self, index: ViewIndex) -> &[(Role, ViewIndex)] {
        &self.at(index).children
    }

    pub(crate) fn child(&self, index: ViewIndex, child: ChildIndex) -> Result<ViewIndex> {
        match self.children(index).get(usize::from(child.0)) {
            Some((_, at)) => Ok(*at),
            None => Err(self.no_child(index, child)),
        }
    }

    #[cold]
    fn no_child(&self, index: ViewIndex, child: ChildIndex) -> BlockError {
        let context = format!("node {:?} has no child number {}", self.node(index), child.0);
        BlockError::new(ErrorKind::Invalid, context)
    }

    pub(crate) fn backing_child(&self, index: ViewIndex) -> Option<ChildIndex> {
        self.at(index).backing.map(ChildIndex)
    }

    pub(crate) fn backing(&self, index: ViewIndex) -> Option<ViewIndex> {
        let node = self.at(index);
        node.backing.map(|at| node.children[usize::from(at)].1)
    }

    pub(crate) fn slot(&self, index: ViewIndex) -> u64 {
        self.at(index).slot
    }

    /// Where a format has its tables that allocates, and keeps its clusters in that node; `None` where none does.
    pub(crate) fn stores_clusters(&self, index: ViewIndex) -> Option<ViewIndex> {
        self.at(index).stores_clusters
    }

    fn at(&self, index: ViewIndex) -> &ViewNode {
        &self.nodes[index.0 as usize]
    }

    pub(crate) fn on_retired(&self) -> oneshot::Receiver<()> {
        let (sender, receiver) = oneshot::channel();
        self.retired.lock().unwrap_or_else(PoisonError::into_inner).push(sender);
        receiver
    }
}

impl Drop for View {
    fn drop(&mut self) {
        for sender in self.retired.get_mut().unwrap_or_else(PoisonError::into_inner).drain(..) {
            // Nobody may be waiting for it any more.
            let _ = sender.send(());
        }
    }
}

/// A node and its children, in the driver's order.
type Entry = (Arc<Node>, Vec<(Role, NodeId)>);

/// Builds a view from the root down.
#[derive(Default)]
pub struct ViewBuilder {
    nodes: Vec<Entry>,
    detect_zeroes: DetectZeroes,
}

impl ViewBuilder {
    /// An empty builder.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a node with its children in the driver's order; the root comes first.
    #[must_use]
    pub fn node(mut self, node: Arc<Node>, children: Vec<(Role, NodeId)>) -> Self {
        self.nodes.push((node, children));
        self
    }

    /// What becomes of writes of zeros at this root.
    #[must_use]
    pub fn detect_zeroes(mut self, mode: DetectZeroes) -> Self {
        self.detect_zeroes = mode;
        self
    }

    /// Compiles the view. Fails on a child that was not added, on a cycle, and on a filter without a child.
    pub fn build(self) -> Result<Arc<View>> {
        let edges = self.edges()?;
        let order = topological(&edges)?;
        let mut sized = vec![Sized { by: ViewIndex::ROOT, less: 0 }; edges.len()];
        for &at in &order {
            sized[at] = self.size_source(&edges, &sized, at)?;
        }
        let stores: Vec<_> = (0..edges.len()).map(|at| self.stores_clusters(&edges, at)).collect();
        let mut slots = 0;
        let nodes: Box<[ViewNode]> = self
            .nodes
            .into_iter()
            .zip(edges)
            .enumerate()
            .map(|(at, ((node, _), children))| {
                Ok(ViewNode {
                    slot: next_slot(&node, &mut slots)?,
                    backing: children.iter().position(|(role, _)| *role == Role::Backing).map(|i| i as u8),
                    sized: sized[at],
                    children: children.into(),
                    limits: node.limits(),
                    stores_clusters: stores[at],
                    node,
                })
            })
            .collect::<Result<_>>()?;
        let maps = |n: &ViewNode| matches!(n.node.body(), Body::Maps(_));
        let changes = |n: &ViewNode| matches!(n.node.body(), Body::Maps(f) if f.changes().is_some());
        let records = |n: &ViewNode| matches!(n.node.body(), Body::Maps(f) if f.changes().and_then(Changes::recorder).is_some());
        let records = nodes.iter().any(records);
        let changing =
            (0..nodes.len()).filter(|i| changes(&nodes[*i])).map(|i| ViewIndex(i as u32)).collect();
        Ok(Arc::new_cyclic(|me| View {
            version: VERSION.fetch_add(1, Ordering::SeqCst),
            formats: nodes.iter().filter(|n| maps(n)).count(),
            changing,
            nodes,
            detect_zeroes: self.detect_zeroes,
            records,
            writes_freely: !records && self.detect_zeroes == DetectZeroes::Off,
            retired: Mutex::default(),
            me: me.clone(),
        }))
    }

    fn size_source(&self, edges: &[Vec<(Role, ViewIndex)>], known: &[Sized], at: usize) -> Result<Sized> {
        let (node, _) = &self.nodes[at];
        if node.own_size().is_some() {
            return Ok(Sized { by: ViewIndex(at as u32), less: 0 });
        }
        let (child, offset) = match node.body() {
            Body::Maps(format) => format.sized_by().unwrap_or((ChildIndex(0), 0)),
            Body::Executes(_) => (ChildIndex(0), 0),
        };
        let Some((_, below)) = edges[at].get(usize::from(child.0)) else {
            return Err(malformed(format!("filter '{}' has no child", node.name())));
        };
        let Sized { by, less } = known[below.0 as usize];
        Ok(Sized { by, less: less.saturating_add(offset) })
    }

    fn stores_clusters(&self, edges: &[Vec<(Role, ViewIndex)>], at: usize) -> Option<ViewIndex> {
        let keeps = |(role, child): &(Role, ViewIndex)| child.0 as usize == at && *role != Role::Backing;
        let allocates = |parent: &usize| self.nodes[*parent].0.limits().granule > 1;
        let parent = (0..edges.len()).filter(allocates).find(|parent| edges[*parent].iter().any(keeps))?;
        edges[parent].iter().find(|(role, _)| *role == Role::File).map(|(_, file)| *file)
    }

    fn edges(&self) -> Result<Vec<Vec<(Role, ViewIndex)>>> {
        let index = |id: NodeId| self.nodes.iter().position(|(n, _)| n.id() == id);
        let edge = |(role, id): &(Role, NodeId)| match index(*id) {
            Some(at) => Ok((*role, ViewIndex(at as u32))),
            None => Err(malformed(format!("a child ({id:?}) is missing from the view"))),
        };
        if self.nodes.is_empty() {
            return Err(malformed("a view needs a root".to_owned()));
        }
        self.nodes.iter().map(|(_, children)| children.iter().map(edge).collect()).collect()
    }
}

/// Filters get a bit each of [`crate::Request::acted`].
fn next_slot(node: &Node, slots: &mut u32) -> Result<u64> {
    let filter = matches!(node.body(), Body::Executes(node) if node.size().is_none());
    if !filter {
        return Ok(0);
    }
    let slot = 1u64.checked_shl(*slots);
    *slots += 1;
    slot.ok_or_else(|| malformed(format!("more than 64 filters below one root (at '{}')", node.name())))
}

/// Children before parents; fails on a cycle.
fn topological(edges: &[Vec<(Role, ViewIndex)>]) -> Result<Vec<usize>> {
    let mut order = Vec::with_capacity(edges.len());
    let mut waiting: Vec<usize> = edges.iter().map(Vec::len).collect();
    let mut ready: Vec<usize> = (0..edges.len()).filter(|at| waiting[*at] == 0).collect();
    let mut parents = vec![Vec::new(); edges.len()];
    for (at, children) in edges.iter().enumerate() {
        for (_, child) in children {
            parents[child.0 as usize].push(at);
        }
    }
    while let Some(at) = ready.pop() {
        order.push(at);
        for &parent in &parents[at] {
            waiting[parent] -= 1;
            if waiting[parent] == 0 {
                ready.push(parent);
            }
        }
    }
    if order.len() < edges.len() {
        return Err(malformed("the graph has a cycle".to_owned()));
    }
    Ok(order)
}

fn malformed(context: String) -> BlockError {
    BlockError::new(ErrorKind::Invalid, context)
}
