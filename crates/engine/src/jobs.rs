//! Verbs on jobs: what there is, starting the work of one, ending all.

use std::path::PathBuf;
use std::sync::{Arc, MutexGuard};

use block::{BlockError, ErrorKind, Result};
use driver::Kind;
use flow::{BackingName, NodeId, Role};
use graph::Graph;
use io::LocalFut;
use job::{House, Job, Jobs, Work};
use serde_json::{Map, Value};

use crate::engine::Engine;

impl Engine {
    /// The jobs.
    pub fn jobs(&self) -> &Jobs {
        &self.jobs
    }

    /// Has the work of a job done, on an I/O thread of the engine.
    pub(crate) fn employ(&self, job: Arc<Job>, work: impl Work + Send + 'static) -> Result<()> {
        // The last one: clients are handed out from the first on.
        let thread = self.threads.last();
        let thread =
            thread.ok_or_else(|| BlockError::new(ErrorKind::Invalid, "the engine has no I/O thread"))?;
        thread.run(Box::new(move || Box::pin(job::run(job, work))));
        Ok(())
    }
}

impl House for Engine {
    fn graph(&self) -> MutexGuard<'_, Graph> {
        Engine::graph(self)
    }

    fn backing_name(&self, node: NodeId, mask_protocol: bool) -> Result<BackingName> {
        let graph = Engine::graph(self);
        let node = unfiltered(&graph, node)?;
        let driver = kind_of(&graph, node)?;
        let format = match driver {
            Kind::Protocol if mask_protocol => "raw",
            _ => graph.node(node)?.node.driver(),
        };
        let name = match self.plain_file(&graph, node)? {
            // Whoever opens the image works in another directory.
            Some(path) if path.is_relative() => real(path).display().to_string(),
            Some(path) => path.display().to_string(),
            None => format!("json:{}", self.described(&graph, node)?),
        };
        Ok(BackingName { name, format: format.to_owned() })
    }

    fn set_read_only(&self, node: NodeId, read_only: bool) -> LocalFut<'_, Result<()>> {
        Box::pin(self.reopen_image(node, read_only))
    }
}

impl Engine {
    /// The path that says all about an image: of a file, or of a format on one, over nothing but what it names itself.
    fn plain_file(&self, graph: &Graph, node: NodeId) -> Result<Option<PathBuf>> {
        let info = graph.node(node)?;
        let maps = kind_of(graph, node)? == Kind::Format;
        let below =
            info.children.iter().find(|edge| maps && matches!(edge.role, Role::File | Role::Filtered));
        let file = below.map_or(node, |edge| edge.child);
        let on_file = graph.node(file)?.node.driver() == "file";
        let more = info.children.iter().any(|edge| edge.role == Role::DataFile);
        if !on_file || more || !self.names_its_own(graph, node)? {
            return Ok(None);
        }
        Ok(self.known(node).file)
    }

    /// Whether what an image stands on is what it names.
    fn names_its_own(&self, graph: &Graph, node: NodeId) -> Result<bool> {
        let info = graph.node(node)?;
        let named = info.node.powers().naming.and_then(|power| power.backing());
        let below = info.children.iter().find(|edge| edge.role == Role::Backing);
        Ok(match (named, below) {
            (None, None) => true,
            (Some(named), Some(edge)) => {
                self.plain_file(graph, unfiltered(graph, edge.child)?)?.map(real) == Some(real(named))
            }
            _ => false,
        })
    }

    /// Options that open a node, with what lies below it.
    fn described(&self, graph: &Graph, node: NodeId) -> Result<Value> {
        let info = graph.node(node)?;
        let mut options = Map::from_iter([("driver".to_owned(), info.node.driver().into())]);
        options.extend(self.known(node).own.as_ref().clone());
        if info.node.powers().naming.is_some() {
            options.insert(Role::Backing.name().to_owned(), Value::Null);
        }
        for edge in info.children {
            options.insert(edge.role.name().to_owned(), self.described(graph, edge.child)?);
        }
        Ok(Value::Object(options))
    }
}

/// With symbolic links followed, where that can be.
fn real(path: PathBuf) -> PathBuf {
    path.canonicalize().unwrap_or(path)
}

/// The first node from `node` down that is no filter.
pub(crate) fn unfiltered(graph: &Graph, mut node: NodeId) -> Result<NodeId> {
    loop {
        let below = graph.node(node)?.children.iter().find(|edge| edge.role == Role::Filtered);
        match below {
            Some(edge) if kind_of(graph, node)? == Kind::Filter => node = edge.child,
            _ => return Ok(node),
        }
    }
}

/// What kind of node it is.
pub(crate) fn kind_of(graph: &Graph, node: NodeId) -> Result<Kind> {
    let name = graph.node(node)?.node.driver();
    driver::find(name)
        .map(|driver| driver.kind)
        .ok_or_else(|| BlockError::new(ErrorKind::Invalid, format!("Unknown driver '{name}'")))
}
