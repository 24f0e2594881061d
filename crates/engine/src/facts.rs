//! What is known of the image in each node: what it tells itself, and what it has from those that it lies on.
//!
//! Invariant: nodes are asked when nobody holds the graph: how much room a file takes, its file system may take a while
//! to tell.

use std::collections::HashMap;
use std::sync::Arc;

use flow::{Fact, ImageFacts, Node, NodeId, Role};
use graph::Graph;
use serde_json::{Map, Value};

/// Facts of all nodes, each found out once: those of a filter are those of what it filters.
pub(crate) struct AllFacts {
    nodes: HashMap<NodeId, Lying>,
    found: HashMap<NodeId, ImageFacts>,
}

/// A node, and what it lies on.
struct Lying {
    node: Arc<Node>,
    on: Vec<(Role, NodeId)>,
}

impl AllFacts {
    /// Of the nodes that are in the graph now.
    pub(crate) fn new(graph: &Graph) -> Self {
        let lying = |info: graph::NodeInfo<'_>| {
            let below = info.children.iter().filter(|edge| edge.role != Role::Backing);
            let on = below.map(|edge| (edge.role, edge.child)).collect();
            (info.node.id(), Lying { node: info.node.clone(), on })
        };
        Self { nodes: graph.nodes().map(lying).collect(), found: HashMap::new() }
    }

    pub(crate) fn of(&mut self, node: NodeId) -> ImageFacts {
        if let Some(facts) = self.found.get(&node) {
            return facts.clone();
        }
        let facts = self.make(node);
        self.found.insert(node, facts.clone());
        facts
    }

    fn make(&mut self, node: NodeId) -> ImageFacts {
        let Some(Lying { node, on }) = self.nodes.get(&node) else { return ImageFacts::default() };
        let (node, on) = (node.clone(), on.clone());
        let below: Vec<_> = on.into_iter().map(|(role, child)| (role, self.of(child))).collect();
        lying_on(node.powers().facts.map(|power| power.facts()), &below)
    }
}

/// The facts of an image on these: all that it takes on disks it takes there, and what has no tables of its own is
/// stored as what it lies on.
pub fn lying_on(own: Option<ImageFacts>, below: &[(Role, ImageFacts)]) -> ImageFacts {
    let whole = || below.iter().map(|(_, facts)| facts.allocated).sum::<Option<u64>>();
    let allocated = if below.is_empty() { None } else { whole() };
    match (own, below.iter().find(|(role, _)| matches!(role, Role::File | Role::Filtered))) {
        (Some(own), _) => ImageFacts { allocated: own.allocated.or(allocated), ..own },
        (None, Some((_, file))) => ImageFacts {
            allocated,
            storage: file.storage,
            snapshots: file.snapshots.clone(),
            ..ImageFacts::default()
        },
        (None, None) => ImageFacts::default(),
    }
}

/// Facts of a format as QMP has them.
pub fn facts_json(facts: &[(&'static str, Fact)]) -> Map<String, Value> {
    facts.iter().map(|(name, fact)| ((*name).to_owned(), fact_json(fact))).collect()
}

fn fact_json(fact: &Fact) -> Value {
    match fact {
        Fact::Text(text) => text.as_str().into(),
        Fact::Number(number) => (*number).into(),
        Fact::Flag(flag) => (*flag).into(),
        Fact::Words(words) => words.as_slice().into(),
        Fact::Each(each) => each.iter().map(|facts| Value::Object(facts_json(facts))).collect(),
    }
}
