//! The engine: what all verbs share.

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use block::{BlockError, Result};
use driver::Wording;
use flow::NodeId;
use graph::Graph;
use io::{Thread, World};
use job::Jobs;
use object::Objects;
use serde_json::{Map, Value};

use crate::exports::Exports;
use crate::options::NodeOptions;
use crate::policy::ImagePolicy;
use flow::events::Events;

/// How an engine is set up.
#[derive(Clone, Debug)]
pub struct EngineOptions {
    /// I/O threads that clients and jobs share unless they name one.
    pub threads: usize,
    /// What images may open by the names inside them.
    pub policy: ImagePolicy,
    /// Bytes that each I/O thread may use to remember where the data of long chains lies.
    pub mappings: usize,
    /// Whether files that are only read are kept from being changed by others, where nobody changes them already: what
    /// stands still is sent to clients without copying it.
    pub keeps_still: bool,
    /// In whose words options of nodes are refused.
    pub wording: Wording,
}

impl Default for EngineOptions {
    fn default() -> Self {
        let processors = std::thread::available_parallelism().map_or(1, usize::from);
        Self {
            threads: processors.min(4),
            policy: ImagePolicy::Anywhere,
            mappings: flow::REMEMBER_BUDGET,
            keeps_still: true,
            wording: Wording::default(),
        }
    }
}

/// A storage engine: one per process, or one per simulated process.
pub struct Engine {
    pub(crate) world: Arc<dyn World>,
    pub(crate) objects: Arc<Objects>,
    pub(crate) threads: Vec<Arc<dyn Thread>>,
    pub(crate) policy: ImagePolicy,
    pub(crate) keeps_still: bool,
    wording: Wording,
    pub(crate) events: Events,
    pub(crate) exports: Exports,
    pub(crate) jobs: Jobs,
    graph: Mutex<Graph>,
    known: Mutex<HashMap<NodeId, Known>>,
    /// Nodes that clients could write to, by name.
    written: Mutex<BTreeSet<String>>,
}

/// What is remembered of how a node was opened.
#[derive(Clone, Debug, Default)]
pub(crate) struct Known {
    /// The file that it lies on, for names relative to it.
    pub(crate) file: Option<PathBuf>,
    /// `cache.direct`.
    pub(crate) direct: bool,
    /// `cache.transient`.
    pub(crate) transient: bool,
    /// `cache.no-flush`.
    pub(crate) no_flush: bool,
    /// `discard=unmap`.
    pub(crate) unmap: bool,
    /// The driver's own options.
    pub(crate) own: Arc<Map<String, Value>>,
    /// What an image named to lie below it, and the node that this was opened as.
    pub(crate) led: Option<(PathBuf, NodeId)>,
}

impl Engine {
    /// An engine with an empty graph. Called on an I/O thread.
    pub fn new(world: Arc<dyn World>, options: EngineOptions) -> Result<Arc<Self>> {
        flow::set_remember_budget(options.mappings);
        let start = |number: usize| {
            let name = format!("io{number}");
            world.start_thread(&name).map_err(|e| BlockError::system("cannot start an I/O thread", e))
        };
        let threads = (0..options.threads.max(1)).map(start).collect::<Result<_>>()?;
        Ok(Arc::new(Self {
            world,
            objects: Arc::default(),
            threads,
            policy: options.policy,
            keeps_still: options.keeps_still,
            wording: options.wording,
            events: Events::default(),
            exports: Exports::default(),
            jobs: Jobs::default(),
            graph: Mutex::new(Graph::new()),
            known: Mutex::default(),
            written: Mutex::default(),
        }))
    }

    /// Options of a node as a tree, checked as far as that goes without opening anything.
    pub fn options(&self, options: Map<String, Value>) -> Result<NodeOptions> {
        NodeOptions::parse(options, self.wording)
    }

    /// Where events are told.
    pub fn events(&self) -> &Events {
        &self.events
    }

    /// The I/O threads that clients and jobs share.
    pub fn threads(&self) -> &[Arc<dyn Thread>] {
        &self.threads
    }

    /// The files that a node and all below it lie on, the topmost first.
    pub fn files_of(&self, node: &str) -> Vec<PathBuf> {
        let graph = self.graph();
        let Ok(top) = graph.find(node) else { return Vec::new() };
        let (mut files, mut below) = (Vec::new(), VecDeque::from([top]));
        while let Some(node) = below.pop_front() {
            let Ok(info) = graph.node(node) else { continue };
            if info.children.is_empty() {
                files.extend(self.known(node).file);
            }
            below.extend(info.children.iter().map(|edge| edge.child));
        }
        files
    }

    /// Named handles.
    pub fn objects(&self) -> &Arc<Objects> {
        &self.objects
    }

    /// Bytes that are set aside for remembered mappings, by all I/O threads of the process together.
    pub fn remembered(&self) -> usize {
        flow::remember_total()
    }

    /// The outside.
    pub fn world(&self) -> &Arc<dyn World> {
        &self.world
    }

    /// The graph. Never held across an await.
    pub(crate) fn graph(&self) -> MutexGuard<'_, Graph> {
        self.graph.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How a node was opened.
    pub(crate) fn known(&self, node: NodeId) -> Known {
        self.all_known().get(&node).cloned().unwrap_or_default()
    }

    pub(crate) fn remember(&self, opened: Vec<(NodeId, Known)>) {
        let graph = self.graph();
        let mut known = self.all_known();
        known.extend(opened);
        // Those of nodes that are gone go when there are many: numbers of nodes are never used again.
        if known.len() > 2 * graph.len() {
            known.retain(|node, _| graph.node(*node).is_ok());
        }
    }

    /// Nodes that clients could write to since they were last made durable by [`Engine::close_exports`].
    pub(crate) fn written(&self) -> MutexGuard<'_, BTreeSet<String>> {
        self.written.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn all_known(&self) -> MutexGuard<'_, HashMap<NodeId, Known>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
