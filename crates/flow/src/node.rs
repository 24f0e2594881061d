//! Nodes: a body that maps or executes, and the state that outlives its reopening.

use std::any::Any;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use block::Alignment;

use crate::contract::{Execute, Format};
use crate::guard::{Domain, Reclaim};
use crate::joins::Joins;
use crate::locks::RangeLocks;
use crate::powers::Powers;

/// Identity of a node within its graph; never reused.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, PartialOrd, Ord)]
pub struct NodeId(pub u64);

/// What a child is to its parent. Children are numbered in this order.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, PartialOrd, Ord)]
pub enum Role {
    /// Where a format keeps its tables (and its data, unless there is a data file).
    File,
    /// What a filter passes requests to.
    Filtered,
    /// Where a format keeps guest data apart from its tables.
    DataFile,
    /// What answers where a format holds nothing.
    Backing,
}

impl Role {
    /// Its name in options and messages.
    pub const fn name(self) -> &'static str {
        match self {
            Self::File | Self::Filtered => "file",
            Self::Backing => "backing",
            Self::DataFile => "data-file",
        }
    }
}

/// What zeroing costs.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum ZeroCost {
    /// A change of tables.
    Free,
    /// One request, whatever the length.
    Fast,
    /// As much as writing.
    #[default]
    Slow,
}

/// What requests to a node must look like, and what they cost: data, not methods.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Limits {
    /// Offsets, lengths and memory of requests are multiples of this.
    pub alignment: Alignment,
    /// Longest read or write in bytes.
    pub max_transfer: u64,
    /// Longest zeroing or discard in bytes.
    pub max_zeroes: u64,
    /// The unit of allocation in bytes (a format's cluster size; 1 where nothing is allocated).
    pub granule: u64,
    /// What zeroing costs.
    pub zeroing: ZeroCost,
    /// What it can do.
    pub can: Capabilities,
}

impl Limits {
    /// No limit at all.
    pub const NONE: Self = Self {
        alignment: Alignment::BYTE,
        max_transfer: u64::MAX,
        max_zeroes: u64::MAX,
        granule: 1,
        zeroing: ZeroCost::Slow,
        can: Capabilities { discard: true, zeroes: true, fua: false },
    };
}

/// What a node can do by itself; the core makes up for the rest.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Capabilities {
    /// It takes discards.
    pub discard: bool,
    /// It takes zeroing.
    pub zeroes: bool,
    /// It takes writes that are durable when answered.
    pub fua: bool,
}

/// A node is one or the other.
#[derive(Clone)]
pub enum Body {
    /// It says where bytes are.
    Maps(Arc<dyn Format>),
    /// It carries requests out.
    Executes(Arc<dyn Execute>),
}

/// State of a node that stays when its body is reopened: whoever holds a range or a guard keeps it.
pub struct NodeState {
    pub(crate) locks: RangeLocks,
    pub(crate) joins: Joins,
    pub(crate) reclaim: Reclaim,
    read_only: AtomicBool,
}

impl NodeState {
    /// Fresh state for a node whose clients take their turns in `turns`.
    pub fn new(turns: Arc<Domain>) -> Arc<Self> {
        Arc::new(Self {
            locks: RangeLocks::default(),
            joins: Joins::default(),
            reclaim: Reclaim::new(turns),
            read_only: AtomicBool::new(false),
        })
    }
}

/// A node of the graph as the data path sees it: a name, a body, and state.
pub struct Node {
    id: NodeId,
    name: Arc<str>,
    driver: &'static str,
    body: Body,
    state: Arc<NodeState>,
}

impl Node {
    /// A node with fresh or (when it is reopened) kept state.
    pub fn new(id: NodeId, name: Arc<str>, driver: &'static str, body: Body, state: Arc<NodeState>) -> Self {
        Self { id, name, driver, body, state }
    }

    /// The same node with another body: what it looks like after a reopen.
    #[must_use]
    pub fn reopened(&self, body: Body) -> Self {
        Self { id: self.id, name: self.name.clone(), driver: self.driver, body, state: self.state.clone() }
    }

    /// Its identity.
    pub fn id(&self) -> NodeId {
        self.id
    }

    /// Its node-name.
    pub fn name(&self) -> &Arc<str> {
        &self.name
    }

    /// Name of its driver.
    pub fn driver(&self) -> &'static str {
        self.driver
    }

    /// What its driver wants back when the node is reopened.
    pub fn keep(&self) -> Option<Arc<dyn Any + Send + Sync>> {
        match &self.body {
            Body::Executes(node) => node.keep(),
            Body::Maps(format) => format.keep(),
        }
    }

    /// Its body.
    pub fn body(&self) -> &Body {
        &self.body
    }

    /// What requests to it must look like.
    pub fn limits(&self) -> Limits {
        match &self.body {
            Body::Maps(format) => format.limits(),
            Body::Executes(node) => node.limits(),
        }
    }

    /// Size of its own; `None` of a filter, and of a format that is as long as its child.
    pub fn own_size(&self) -> Option<u64> {
        match &self.body {
            Body::Maps(format) if format.sized_by().is_some() => None,
            Body::Maps(format) => Some(format.size()),
            Body::Executes(node) => node.size(),
        }
    }

    /// Its optional powers.
    pub fn powers(&self) -> Powers<'_> {
        match &self.body {
            Body::Maps(format) => format.powers(),
            Body::Executes(node) => node.powers(),
        }
    }

    /// Whether writes to it are refused.
    pub fn is_read_only(&self) -> bool {
        self.state.read_only.load(Ordering::Relaxed)
    }

    /// Refuses (or takes) writes from now on.
    pub fn set_read_only(&self, read_only: bool) {
        self.state.read_only.store(read_only, Ordering::Relaxed);
    }

    pub(crate) fn state(&self) -> &NodeState {
        &self.state
    }

    pub(crate) fn reclaim(&self) -> &Reclaim {
        &self.state.reclaim
    }

    /// Lets requests go that wait in this filter, because it was taken out.
    pub fn release(&self) {
        if let Body::Executes(node) = &self.body {
            node.release();
        }
    }

    /// Lets no request wait in this node any more, because the process is about to end.
    pub fn call_off(&self) {
        if let Body::Executes(node) = &self.body {
            node.call_off();
        }
    }
}

impl fmt::Debug for Node {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} '{}'", self.driver, self.name)
    }
}
