//! Verbs on nodes: add, delete, query, insert and remove filters, replace children, reopen.

use std::path::PathBuf;

use block::{BlockError, ByteRange, ErrorKind, Result};
use driver::Kind;
use flow::events::Event;
use flow::{CheckReport, DetectZeroes, ImageFacts, NodeId, Preallocation, Repair, Request, Role, Tell, seam};
use graph::{Demand, Drained, Edit, Graph, Operation, Place, Reopen, User};
use io::Lease;
use serde_json::{Map, Value, json};

use crate::engine::Engine;
use crate::exports::flush_tables;
use crate::facts::AllFacts;
use crate::full_name::Names;
use crate::kinds::{kind_of, unfiltered};
use crate::opening::{Inherited, Opening};
use crate::options::NodeOptions;

/// What is known about a node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeInfo {
    /// Its node-name.
    pub name: String,
    /// Its driver.
    pub driver: &'static str,
    /// Whether it shows what lies below it.
    pub is_filter: bool,
    /// Its children, by role and name.
    pub children: Vec<(&'static str, String)>,
    /// Whether it refuses writes.
    pub read_only: bool,
    /// Virtual size in bytes.
    pub size: u64,
    /// The file that it lies on, where it lies on one.
    pub filename: Option<PathBuf>,
    /// How it is named to whoever would open it: [`crate::FullName::text`].
    pub full_name: String,
    /// What becomes of writes of zeros.
    pub detect_zeroes: DetectZeroes,
    /// Whether the host's page cache is bypassed.
    pub direct: bool,
    /// Whether flushes are ignored.
    pub no_flush: bool,
    /// What kind of image it is, with what it has from the nodes that it lies on.
    pub facts: ImageFacts,
}

impl NodeInfo {
    /// Its child of that role, by name.
    pub fn child(&self, role: &str) -> Option<&str> {
        self.children.iter().find(|(of, _)| *of == role).map(|(_, name)| name.as_str())
    }
}

impl Engine {
    /// Opens a node with all its children and puts them into the graph (`blockdev-add`). Answers its name.
    pub async fn add_node(&self, options: Map<String, Value>) -> Result<String> {
        let options = self.options(options)?;
        let mut opening = Opening::new(self);
        let node = opening.open(options, Inherited::default(), true).await?;
        self.add_opened(opening, |_| Vec::new())?.await;
        self.name_of(node)
    }

    /// Opens a filter and puts it above the node that it filters, for all who use that node (`blockdev-insert`).
    pub async fn insert_filter(&self, options: Map<String, Value>) -> Result<String> {
        let options = self.options(options)?;
        let mut opening = Opening::new(self);
        let filter = opening.open(options, Inherited::default(), true).await?;
        self.add_opened(opening, |_| vec![Edit::InsertFilter { filter, at: Place::Above }])?.await;
        self.name_of(filter)
    }

    /// Takes a filter out and deletes it. Requests that wait in it go on. Ready when nobody is in it any more.
    pub async fn remove_filter(&self, name: &str) -> Result<()> {
        let drained = {
            let mut graph = self.graph();
            let filter = graph.find(name)?;
            graph.edit(&[Edit::RemoveFilter(filter), Edit::DeleteNode(filter)])?
        };
        drained.await;
        Ok(())
    }

    /// Gives up a node that nobody uses (`blockdev-del`). Ready when it is closed; what was written to it is made
    /// durable before, if that is possible: flush it yourself to know.
    pub async fn delete_node(&self, name: &str) -> Result<()> {
        let (id, view) = {
            let graph = self.graph();
            let node = graph.find(name)?;
            (node, graph.view(node)?)
        };
        // It can be given up with a file that fails: its bitmaps stay marked as in use, which is told.
        let flushed = flush_tables(&view).await;
        drop(view);
        if let Err(error) = flushed.and(self.rest_all_below(id).await) {
            let event = Event::NodeGivenUp { node: name.to_owned(), error: error.to_string() };
            self.events.tell(event);
        }
        let drained = {
            let mut graph = self.graph();
            let node = graph.find(name)?;
            graph.edit(&[Edit::DeleteNode(node)])?
        };
        drained.await;
        Ok(())
    }

    /// Gives a node another child, or (only for `backing`) none. Ready when no request uses the old one.
    pub async fn replace_child(&self, parent: &str, role: Role, child: Option<&str>) -> Result<()> {
        let drained = {
            let mut graph = self.graph();
            let parent = graph.find(parent)?;
            let driver = driver::find(graph.node(parent)?.node.driver());
            if role != Role::Backing && driver.is_some_and(|driver| driver.kind == Kind::Format) {
                // It may have read tables there, and goes on with them.
                let context =
                    format!("Cannot change the '{}' child of a format: reopen the node", role.name());
                return Err(BlockError::new(ErrorKind::Unsupported, context));
            }
            let child = child.map(|name| graph.find(name)).transpose()?;
            graph.edit(&[Edit::ReplaceChild { parent, role, child }])?
        };
        drained.await;
        Ok(())
    }

    /// Puts `with` in the place of `node`, for all who use it. Ready when no request uses the old one.
    pub async fn replace_node(&self, node: &str, with: &str) -> Result<()> {
        let drained = {
            let mut graph = self.graph();
            let (node, with) = (graph.find(node)?, graph.find(with)?);
            graph.edit(&[Edit::ReplaceNode { node, with }])?
        };
        drained.await;
        Ok(())
    }

    /// Opens a node anew with other options under the same name; children named by node-name are taken as they are
    /// (`blockdev-reopen`). Ready when no request uses the old body.
    pub async fn reopen_node(&self, options: Map<String, Value>) -> Result<()> {
        let options = self.options(options)?;
        let name = options.node_name.clone();
        let name = name.ok_or_else(|| BlockError::new(ErrorKind::Invalid, "node-name not specified"))?;
        let (old, kept) = {
            let graph = self.graph();
            let old = graph.find(&name)?;
            let info = graph.node(old)?;
            may_become(&info, &options)?;
            (old, info.node.keep())
        };
        if options.read_only == Some(true) {
            self.rest(&name).await?;
        }
        let mut opening = Opening::again(self, kept);
        let fresh =
            opening.open(NodeOptions { node_name: None, ..options }, Inherited::default(), false).await?;
        self.swap_body(opening, old, fresh)?.await;
        Ok(())
    }

    /// All nodes, by name.
    pub fn nodes(&self) -> Vec<NodeInfo> {
        let (nodes, mut facts) = {
            let graph = self.graph();
            (self.described(&graph), AllFacts::new(&graph))
        };
        let known = nodes.into_iter().map(|(id, node)| NodeInfo { facts: facts.of(id), ..node });
        let mut nodes: Vec<_> = known.collect();
        nodes.sort_by(|a, b| a.name.cmp(&b.name));
        nodes
    }

    /// All that is known of nodes but the facts.
    fn described(&self, graph: &Graph) -> Vec<(NodeId, NodeInfo)> {
        let mut names = Names::new(self, graph);
        let describe = |info: graph::NodeInfo<'_>| {
            let (id, driver) = (info.node.id(), info.node.driver());
            let known = self.known(id);
            let child = |c: &graph::Edge| {
                (c.role.name(), graph.node(c.child).map_or(String::new(), |n| n.node.name().to_string()))
            };
            let node = NodeInfo {
                name: info.node.name().to_string(),
                driver,
                is_filter: matches!(kind_of(graph, id), Ok(Kind::Filter)),
                children: info.children.iter().map(child).collect(),
                read_only: info.read_only,
                size: graph.view(id).map_or(0, |view| view.size()),
                filename: known.file,
                full_name: match names.of(id) {
                    Ok(name) => name.text(),
                    // As much as can be said.
                    Err(_) => format!("json:{}", json!({ "driver": driver })),
                },
                direct: known.direct,
                no_flush: known.no_flush,
                detect_zeroes: info.detect_zeroes,
                facts: ImageFacts::default(),
            };
            (id, node)
        };
        graph.nodes().map(describe).collect()
    }

    /// What a node's driver has counted since it was opened, by name; empty when it counts nothing.
    pub fn stats(&self, node: &str) -> Result<Vec<(String, u64)>> {
        let graph = self.graph();
        let node = graph.node(graph.find(node)?)?.node.clone();
        drop(graph);
        Ok(node.powers().stats.map_or_else(Vec::new, flow::Stats::stats))
    }

    /// Makes a node `size` bytes long (`block_resize`). Refused while somebody relies on its size, as exports do.
    pub async fn resize(&self, node: &str, size: u64) -> Result<()> {
        {
            let graph = self.graph();
            graph.permitted(Operation::Resize, graph.find(node)?)?;
        }
        let (root, entry) = self.attach(node, User::named("resize"), Demand::RESIZE)?;
        let resized = seam::resize(&entry.view(), size).await;
        self.detach(root).await?;
        resized
    }

    /// Makes room for `range` of a node, which reads as zeros and was never written to.
    pub async fn preallocate(&self, node: &str, range: ByteRange, how: Preallocation) -> Result<()> {
        let (root, entry) = self.attach(node, User::named("preallocate"), Demand::CHANGE)?;
        let made = seam::preallocate(&entry.view(), range, how).await;
        self.detach(root).await?;
        made
    }

    /// Drops all that a node holds itself, durably. What lies below has the same bytes, durably (a commit has seen to
    /// it).
    pub async fn make_empty(&self, node: &str) -> Result<()> {
        let (root, entry) = self.attach(node, User::named("make-empty"), Demand::WRITE)?;
        let emptied = seam::make_empty(&entry.view()).await;
        self.detach(root).await?;
        emptied
    }

    /// Checks a node's own tables, and mends what `repair` says of a node that was opened for that; `tell` hears of
    /// each thing that is wrong. An error where its driver has none.
    pub async fn check(&self, node: &str, repair: Repair, tell: Tell<'_>) -> Result<CheckReport> {
        let demand = if repair == Repair::Nothing { Demand::READ } else { Demand::WRITE };
        let (root, entry) = self.attach(node, User::named("check"), demand)?;
        let report = seam::check_tables(&entry.view(), repair, tell).await;
        self.detach(root).await?;
        report
    }

    /// Makes an image one of another kind: a node that was opened to be changed as a whole (`check-only`). An error
    /// where its driver cannot.
    pub async fn amend(&self, node: &str, change: &flow::Amendment) -> Result<()> {
        let (root, entry) = self.attach(node, User::named("amend"), Demand::WRITE)?;
        let view = entry.view();
        let amended = match view.root().powers().amend {
            Some(power) => power.amend(change, view.next()).await,
            None => {
                let context =
                    format!("node '{node}' cannot become an image of another kind as it was opened");
                Err(BlockError::new(ErrorKind::Unsupported, context))
            }
        };
        drop(view);
        self.detach(root).await?;
        amended
    }

    /// Ready when every request that was under way in a node when this was called has ended. New ones go on.
    pub async fn drain(&self, node: &str) -> Result<()> {
        let drained = {
            let graph = self.graph();
            graph.drain_node(graph.find(node)?)?
        };
        drained.await;
        Ok(())
    }

    /// Makes everything that was acknowledged durable.
    pub async fn flush(&self, node: &str) -> Result<()> {
        let view = {
            let graph = self.graph();
            graph.view(graph.find(node)?)?
        };
        seam::execute(&view, Request::flush(), Lease::empty()).await.0
    }

    /// Virtual size of a node in bytes.
    pub fn size(&self, node: &str) -> Result<u64> {
        let graph = self.graph();
        Ok(graph.view(graph.find(node)?)?.size())
    }

    /// Has an image name another backing image, or none, durably. The children of the node stay what they are.
    pub async fn set_backing(&self, node: &str, backing: Option<flow::BackingName>) -> Result<()> {
        let (root, entry) = self.attach(node, User::named("set-backing"), Demand::WRITE)?;
        let view = entry.view();
        let changed = match view.root().powers().backing {
            Some(power) => power.set_backing(backing, view.next()).await,
            None => {
                let context = format!("node '{node}' stores no backing image");
                Err(BlockError::new(ErrorKind::Unsupported, context))
            }
        };
        drop(view);
        self.detach(root).await?;
        changed
    }

    /// Virtual size in bytes of the image below a node; 0 without one.
    pub fn backing_size(&self, node: &str) -> Result<u64> {
        let graph = self.graph();
        let node = graph.node(graph.find(node)?)?;
        let backing = node.children.iter().find(|edge| edge.role == Role::Backing);
        Ok(backing.map(|edge| graph.view(edge.child)).transpose()?.map_or(0, |view| view.size()))
    }

    /// What a node's driver knows its image by, and what is stated of the image's version. `None` where the driver
    /// cannot tell.
    pub fn identity(&self, node: &str) -> Result<Option<(String, Option<String>)>> {
        let graph = self.graph();
        let node = graph.node(graph.find(node)?)?.node.clone();
        drop(graph);
        Ok(node.powers().identity.map(|known| (known.identity(), known.version())))
    }

    /// Whether there is a node called `name`.
    pub fn has_node(&self, name: &str) -> bool {
        self.graph().find(name).is_ok()
    }

    /// Whether a node refuses writes.
    pub fn is_read_only(&self, node: &str) -> Result<bool> {
        let graph = self.graph();
        Ok(graph.node(graph.find(node)?)?.read_only)
    }

    fn add_opened(&self, opening: Opening<'_>, more: impl FnOnce(()) -> Vec<Edit>) -> Result<Drained> {
        let (mut edits, known) = opening.finish();
        edits.extend(more(()));
        let drained = self.graph().edit(&edits)?;
        self.remember(known);
        Ok(drained)
    }

    /// Adds what was opened below `fresh`, and gives its body and children to `old`.
    pub(crate) fn swap_body(&self, opening: Opening<'_>, old: NodeId, fresh: NodeId) -> Result<Drained> {
        let (mut edits, mut known) = opening.finish();
        let added = edits.pop();
        let Some(Edit::AddNode(new)) =
            added.filter(|edit| matches!(edit, Edit::AddNode(n) if n.node.id() == fresh))
        else {
            return Err(BlockError::new(ErrorKind::Invalid, "the node to be reopened was not opened"));
        };
        edits.push(Edit::Reopen(Reopen {
            node: old,
            body: Some(new.node.body().clone()),
            children: Some(new.children),
            read_only: Some(new.read_only),
            detect_zeroes: Some(new.detect_zeroes),
        }));
        let drained = self.graph().edit(&edits)?;
        for (node, known) in known.iter_mut().filter(|(node, _)| *node == fresh) {
            // Its children are those that it had, if it was not told to open any.
            known.led = known.led.take().or_else(|| self.known(old).led);
            *node = old;
        }
        self.remember(known);
        Ok(drained)
    }

    /// The first node from `node` down that is no filter.
    pub fn unfiltered(&self, node: &str) -> Result<String> {
        let found = {
            let graph = self.graph();
            unfiltered(&graph, graph.find(node)?)?
        };
        self.name_of(found)
    }

    fn name_of(&self, node: NodeId) -> Result<String> {
        Ok(self.graph().node(node)?.node.name().to_string())
    }
}

/// Whether a node can be reopened so: what it is stays, and what becomes of its backing child is said.
fn may_become(node: &graph::NodeInfo<'_>, options: &NodeOptions) -> Result<()> {
    let says_backing = options.children.iter().any(|(role, _)| *role == Role::Backing);
    let refusal = if node.node.driver() != options.driver.name {
        "Cannot change the option 'driver'".to_owned()
    } else if node.children.iter().any(|edge| edge.role == Role::Backing) && !says_backing {
        format!("backing is missing for '{}'", node.node.name())
    } else {
        return Ok(());
    };
    Err(BlockError::new(ErrorKind::Invalid, refusal))
}
