//! The verb that starts a stream: names to nodes, what must not be, and the filter.

use std::path::Path;
use std::sync::Arc;

use block::{BlockError, ErrorKind, Result};
use driver::Kind;
use flow::{NodeId, Role};
use graph::{Edit, Graph, Operation};
use job::stream::{self, Plan, Stream};
use job::{House, JobOptions};
use serde_json::{Map, Value, json};

use crate::engine::{Engine, Known};
use crate::kinds::{kind_of, unfiltered};
use crate::opening::{Inherited, Opening, unknown};

/// What is to stay below the image.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub enum StreamBase {
    /// Nothing.
    #[default]
    Nothing,
    /// The image of this file name, and what is below it.
    File(String),
    /// This node, and what is below it.
    Node(String),
    /// What is below this node.
    Bottom(String),
}

/// A stream that is to be started.
#[derive(Clone, Debug, Default)]
pub struct StreamRequest {
    /// Id of the job.
    pub id: String,
    /// Node-name of what is streamed into.
    pub node: String,
    /// What stays below it.
    pub base: StreamBase,
    /// What the image shall call what stays, unvalidated; its own name without one.
    pub backing_file: Option<String>,
    /// A protocol that stays is called `raw` in the image.
    pub mask_protocol: bool,
    /// Node-name of the filter; made up without one.
    pub filter_node_name: Option<String>,
    /// Bytes per second at most; 0 for no limit.
    pub speed: i64,
    /// How the job is treated.
    pub options: JobOptions,
}

/// A filter that is open, and not in the graph yet.
struct Filter {
    node: NodeId,
    edits: Vec<Edit>,
    known: Vec<(NodeId, Known)>,
}

/// The layers of a request.
struct Layers {
    chain: Vec<NodeId>,
    image: NodeId,
    bottom: Option<NodeId>,
}

impl Engine {
    /// Begins to copy what the layers below an image hold into it (`block-stream`); in the end it stands on what stays.
    pub async fn stream(self: &Arc<Self>, request: StreamRequest) -> Result<()> {
        let layers = self.layers(&request)?;
        stream::check_name(request.backing_file.as_deref(), layers.bottom.is_some())?;
        let filter = self.filter(&request, &layers).await?;
        let reopened = self.graph().node(layers.image)?.read_only;
        if reopened {
            self.reopen_image(layers.image, false).await?;
        }
        let begun = self.begin(&request, &layers, filter, reopened);
        if begun.is_err() && reopened {
            // What went wrong first is what counts.
            let _ = self.reopen_image(layers.image, true).await;
        }
        begun
    }

    fn begin(
        self: &Arc<Self>,
        request: &StreamRequest,
        layers: &Layers,
        filter: Filter,
        reopened: bool,
    ) -> Result<()> {
        let job = self.jobs.create(&request.id, stream::KIND, request.options, &self.events)?;
        let Filter { node, edits, known } = filter;
        let plan = Plan {
            chain: layers.chain.clone(),
            image: layers.image,
            bottom: layers.bottom,
            filter: node,
            add_filter: edits,
            name: request.backing_file.clone(),
            mask_protocol: request.mask_protocol,
            reopened,
        };
        let begun = job.set_speed(request.speed).and_then(|()| {
            let house: Arc<dyn House> = self.clone();
            Stream::begin(house, &job, plan)
        });
        match begun {
            Ok(work) => {
                self.remember(known);
                job.begin();
                self.employ(job, work)
            }
            Err(error) => {
                job.discard();
                Err(error)
            }
        }
    }

    /// The nodes that a request is about; fails where a job must not touch them.
    fn layers(&self, request: &StreamRequest) -> Result<Layers> {
        let graph = self.graph();
        let top = graph.find(&request.node).map_err(|_| unknown(&request.node))?;
        let whole = chain(&graph, top)?;
        let end = self.end(&graph, request, &whole)?;
        let chain = whole[..end].to_vec();
        for node in &chain {
            graph.permitted(Operation::StartJob, *node)?;
        }
        let bottom = chain.last().copied().filter(|_| end < whole.len());
        Ok(Layers { chain, image: unfiltered(&graph, top)?, bottom })
    }

    /// How many nodes of the chain are not to stay.
    fn end(&self, graph: &Graph, request: &StreamRequest, chain: &[NodeId]) -> Result<usize> {
        let found = |name: &str| graph.find(name).map_err(|_| unknown_node(name));
        let place = |node: NodeId| chain.iter().position(|its| *its == node);
        let is_filter = |node: &NodeId| kind_of(graph, *node).is_ok_and(|kind| kind == Kind::Filter);
        let of = &request.node;
        let base = match &request.base {
            StreamBase::Nothing => return Ok(chain.len()),
            StreamBase::Bottom(name) => {
                let node = found(name)?;
                if is_filter(&node) {
                    let why = format!("Node '{name}' is a filter, use a non-filter node as 'bottom'");
                    return Err(invalid(why));
                }
                let at = place(node);
                return at
                    .map(|at| at + 1)
                    .ok_or_else(|| invalid(format!("Node '{name}' is not in a chain starting from '{of}'")));
            }
            StreamBase::Node(name) => place(found(name)?)
                .filter(|at| *at > 0)
                .ok_or_else(|| invalid(format!("Node '{name}' is not a backing image of '{of}'")))?,
            StreamBase::File(name) => self
                .named(graph, name, chain)?
                .ok_or_else(|| invalid(format!("Can't find '{name}' in the backing chain")))?,
        };
        // Filters above what stays do so as well.
        let above = chain[..base].iter().rposition(|node| !is_filter(node));
        above.map(|at| at + 1).ok_or_else(|| invalid(format!("Node '{of}' has no image above its base")))
    }

    /// The place of the image in the chain that the one above it could mean by `name`.
    fn named(&self, graph: &Graph, name: &str, chain: &[NodeId]) -> Result<Option<usize>> {
        let mut above = self.known(chain[0]).file;
        for (at, node) in chain.iter().enumerate().skip(1) {
            let (path, file) = (Path::new(name), self.known(*node).file);
            let beside = above.as_ref().and_then(|above| above.parent()).map(|dir| dir.join(path));
            let is = |named: &Path| {
                let real = |path: &Path| path.canonicalize().unwrap_or_else(|_| path.to_owned());
                file.as_ref().is_some_and(|file| file == named || real(file) == real(named))
            };
            let image = kind_of(graph, *node)? != Kind::Filter;
            if image && (is(path) || beside.is_some_and(|beside| is(&beside))) {
                return Ok(Some(at));
            }
            above = file.or(above);
        }
        Ok(None)
    }

    /// Opens the filter.
    async fn filter(&self, request: &StreamRequest, layers: &Layers) -> Result<Filter> {
        let mut options = json!({"driver": "copy-on-read", "file": request.node});
        if let Some(bottom) = layers.bottom {
            options["bottom"] = self.graph().node(bottom)?.node.name().to_string().into();
        }
        if let Some(name) = &request.filter_node_name {
            options["node-name"] = name.as_str().into();
        }
        let options: Map<String, Value> = options.as_object().cloned().unwrap_or_default();
        let mut opening = Opening::new(self);
        let opened = opening.open(self.options(options)?, Inherited::default(), false).await;
        let node = opened.map_err(|error| error.within("Could not create node"))?;
        let (edits, known) = opening.finish();
        Ok(Filter { node, edits, known })
    }
}

/// A node and all that lie below it by the links that data comes through, files left out.
fn chain(graph: &Graph, top: NodeId) -> Result<Vec<NodeId>> {
    let mut chain = vec![top];
    loop {
        let node = *chain.last().unwrap_or(&top);
        let below = graph.node(node)?.children.iter().find(|edge| match edge.role {
            Role::Backing => true,
            Role::Filtered => kind_of(graph, node).is_ok_and(|kind| kind == Kind::Filter),
            Role::File | Role::DataFile => false,
        });
        match below {
            Some(edge) => chain.push(edge.child),
            None => return Ok(chain),
        }
    }
}

fn unknown_node(name: &str) -> BlockError {
    BlockError::new(ErrorKind::NotFound, format!("Cannot find device='' nor node-name='{name}'"))
}

fn invalid(context: String) -> BlockError {
    BlockError::new(ErrorKind::Invalid, context)
}
