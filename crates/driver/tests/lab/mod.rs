//! What the contract tests stand on: a simulated world, graphs built by hand, and a file that counts.

#![allow(dead_code, unreachable_pub, reason = "each test binary uses a part of it")]
#![allow(clippy::unwrap_used, reason = "a test may panic")]

pub mod client;
pub mod far_client;
pub mod file;
pub mod layer;
pub mod model;
pub mod moved_tables;
pub mod oracle;
pub mod qcow2;
pub mod ram;
pub mod reader;
pub mod rules;
pub mod simulation;
pub mod work;

use std::cell::Cell;
use std::future::{Future, poll_fn};
use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;
use std::task::Poll;

use driver::OpenContext;
use flow::guard::Domain;
use flow::{Body, Node, NodeId, NodeState, Role, Root, View, ViewBuilder};
use io::{OpenOptions, World};
use serde_json::Value;
use sim::SimWorld;

use file::{Counts, FileNode};
use ram::Ram;

/// Builds graphs in one world.
pub struct Lab<W = SimWorld> {
    pub world: W,
    turns: Arc<Domain>,
    next_id: Cell<u64>,
}

/// A node with all that lies below it, itself first.
#[derive(Clone)]
pub struct Tree {
    nodes: Vec<Entry>,
}

type Entry = (Arc<Node>, Vec<(Role, NodeId)>);

impl<W: World + Clone + 'static> Lab<W> {
    pub fn new(world: &W) -> Self {
        Self { world: world.clone(), turns: Arc::default(), next_id: Cell::new(0) }
    }

    /// A node of this body on these children.
    pub fn node(&self, driver: &'static str, body: Body, children: &[(Role, &Tree)]) -> Tree {
        let id = NodeId(self.next_id.replace(self.next_id.get() + 1));
        let name: Arc<str> = format!("{driver}{}", id.0).into();
        let node = Arc::new(Node::new(id, name, driver, body, NodeState::new(self.turns.clone())));
        let edges = children.iter().map(|(role, tree)| (*role, tree.node().id())).collect();
        let mut nodes = vec![(node, edges)];
        for (below, edges) in children.iter().flat_map(|(_, tree)| &tree.nodes) {
            if nodes.iter().all(|(node, _)| node.id() != below.id()) {
                nodes.push((below.clone(), edges.clone()));
            }
        }
        Tree { nodes }
    }

    /// A node that carries requests to the file `path` of the simulated disk, made empty when it is not there.
    pub async fn file(&self, path: &str) -> (Tree, Arc<Counts>) {
        self.file_with(path, false).await
    }

    /// The same; `direct` asks for blocks of 512 bytes.
    pub async fn file_with(&self, path: &str, direct: bool) -> (Tree, Arc<Counts>) {
        let options = OpenOptions { direct, ..OpenOptions::CREATE };
        let file = FileNode::new(self.world.open(Path::new(path), options).await.unwrap());
        let counts = file.counts.clone();
        (self.node("file", Body::Executes(Arc::new(file)), &[]), counts)
    }

    /// A node of `size` bytes of memory, some of whose requests wait.
    pub fn ram(&self, size: u64) -> Tree {
        self.node("ram", Body::Executes(Arc::new(Ram::new(size))), &[])
    }

    /// A node opened by the driver of this name.
    pub async fn open(&self, driver: &str, options: Value, children: &[(Role, &Tree)]) -> Tree {
        self.open_with(driver, options, children, |_| {}).await.unwrap()
    }

    /// The same in other circumstances, or refused.
    pub async fn open_with(
        &self,
        driver: &str,
        options: Value,
        children: &[(Role, &Tree)],
        adjust: impl FnOnce(&mut OpenContext),
    ) -> block::Result<Tree> {
        let driver = driver::find(driver).unwrap();
        let Value::Object(options) = options else { panic!("options are an object") };
        let mut context = OpenContext::new("n", options, Arc::new(self.world.clone()), Arc::default());
        context.unmap = true;
        context.children = children.iter().map(|(role, tree)| (*role, tree.view())).collect();
        adjust(&mut context);
        let read_only = context.read_only;
        let opened = (driver.open)(context).await?;
        let tree = self.node(driver.name, opened.body, children);
        tree.node().set_read_only(read_only);
        Ok(tree)
    }

    /// A `memory-format` on a file of its own, over `backing`.
    pub async fn memory_format(&self, path: &str, options: Value, backing: Option<&Tree>) -> Tree {
        let (file, _) = self.file(path).await;
        let mut children = vec![(Role::File, &file)];
        children.extend(backing.map(|tree| (Role::Backing, tree)));
        self.open("memory-format", options, &children).await
    }

    pub fn root(&self, tree: &Tree) -> Arc<Root> {
        Arc::new(Root::new(tree.view(), self.turns.clone()))
    }
}

impl Tree {
    /// Every node with what lies below it.
    pub fn subtrees(&self) -> Vec<Tree> {
        let below = |at: usize| {
            let mut nodes = vec![self.nodes[at].clone()];
            let mut next = 0;
            while next < nodes.len() {
                for (_, id) in nodes[next].1.clone() {
                    if nodes.iter().all(|(node, _)| node.id() != id) {
                        nodes.push(self.nodes.iter().find(|(node, _)| node.id() == id).unwrap().clone());
                    }
                }
                next += 1;
            }
            Tree { nodes }
        };
        (0..self.nodes.len()).map(below).collect()
    }

    pub fn node(&self) -> &Arc<Node> {
        &self.nodes[0].0
    }

    pub fn view(&self) -> Arc<View> {
        let add = |builder: ViewBuilder, (node, edges): &Entry| builder.node(node.clone(), edges.clone());
        self.nodes.iter().fold(ViewBuilder::new(), add).build().unwrap()
    }
}

/// Polls `future` once: what it does at once is done then.
pub async fn start<T>(future: &mut Pin<Box<impl Future<Output = T> + ?Sized>>) -> Poll<T> {
    poll_fn(|cx| Poll::Ready(future.as_mut().poll(cx))).await
}

/// Both are the same, or a panic that says where they are not.
#[track_caller]
pub fn same(found: &[u8], expected: &[u8]) {
    assert_eq!(found.len(), expected.len(), "lengths differ");
    if let Some(at) = found.iter().zip(expected).position(|(a, b)| a != b) {
        let wrong = found.iter().zip(expected).filter(|(a, b)| a != b).count();
        panic!("{wrong} wrong bytes, the first at {at}: {} instead of {}", found[at], expected[at]);
    }
}
