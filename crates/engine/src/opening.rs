//! Opening a tree of nodes: children first, then the driver, then the children it learnt of. Nothing is in the graph
//! before all of it is open; what was opened for nothing is closed again by being dropped.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use block::{BlockError, ErrorKind, Permissions, Result};
use driver::{OpenContext, Reference, Wanted};
use flow::{NodeId, Role, View};
use graph::{Child, EdgeDemand, Edit, NewNode};
use io::LocalFut;
use serde_json::{Map, Value};

use crate::engine::Engine;
use crate::options::{ChildOptions, NodeOptions};

/// Longest chain of images that name one another.
const CHAIN_MAX: usize = 1024;

/// What children take over from their parent where they say nothing themselves.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Inherited {
    pub(crate) read_only: bool,
    pub(crate) direct: bool,
    pub(crate) no_flush: bool,
    pub(crate) unmap: bool,
}

/// Nodes that are open and not yet in the graph.
pub(crate) struct Opening<'e> {
    engine: &'e Engine,
    edits: Vec<Edit>,
    files: Vec<(NodeId, PathBuf)>,
    depth: usize,
}

/// A child that is open.
struct OpenChild {
    role: Role,
    node: NodeId,
}

impl<'e> Opening<'e> {
    pub(crate) fn new(engine: &'e Engine) -> Self {
        Self { engine, edits: Vec::new(), files: Vec::new(), depth: 0 }
    }

    /// The edits that add what was opened, and the files the nodes lie on.
    pub(crate) fn finish(self) -> (Vec<Edit>, Vec<(NodeId, PathBuf)>) {
        (self.edits, self.files)
    }

    /// Opens a node and everything below it. `owned`: the user asked for this node, not a parent.
    pub(crate) fn open<'a>(
        &'a mut self,
        options: NodeOptions,
        inherited: Inherited,
        owned: bool,
    ) -> LocalFut<'a, Result<NodeId>> {
        Box::pin(async move {
            self.depth += 1;
            if self.depth > CHAIN_MAX {
                let context =
                    format!("more than {CHAIN_MAX} images name one another: is the chain a circle?");
                return Err(BlockError::new(ErrorKind::Invalid, context));
            }
            let opened = self.open_as(&options, inherited, owned).await;
            let refused = matches!(&opened, Err(e) if matches!(e.kind(), ErrorKind::ReadOnly | ErrorKind::NotPermitted));
            let node = match opened {
                Err(_) if refused && options.auto_read_only && options.read_only != Some(true) => {
                    let again = NodeOptions { read_only: Some(true), ..options };
                    self.open_as(&again, inherited, owned).await?
                }
                other => other?,
            };
            self.depth -= 1;
            Ok(node)
        })
    }

    async fn open_as(&mut self, options: &NodeOptions, inherited: Inherited, owned: bool) -> Result<NodeId> {
        let modes = Inherited {
            read_only: options.read_only.unwrap_or(inherited.read_only),
            direct: options.direct.unwrap_or(inherited.direct),
            no_flush: options.no_flush.unwrap_or(inherited.no_flush),
            unmap: options.unmap.unwrap_or(inherited.unmap),
        };
        let mut children = self.open_children(options, modes).await?;
        let base = match children.iter().find(|child| matches!(child.role, Role::File | Role::Filtered)) {
            Some(child) => self.file_of(child.node),
            None => options.own.get("filename").and_then(Value::as_str).map(PathBuf::from),
        };
        let name = self.engine.graph().name(options.node_name.as_deref())?;
        let context = self.context(options, name.text().clone(), modes, &children, base.clone())?;
        let opened = (options.driver.open)(context).await?;
        for wanted in opened.wants {
            let node = self.open_wanted(&wanted, modes).await?;
            children.push(OpenChild { role: wanted.role, node });
        }
        children.sort_by_key(|child| child.role);
        let node = self.engine.graph().new_node(&name, options.driver.name, opened.body);
        let id = node.id();
        let asks = EdgeDemand { uses: options.driver.asks, unshares: Permissions::NONE };
        let extra = |role| if role == Role::Backing { EdgeDemand::default() } else { asks };
        self.edits.push(Edit::AddNode(NewNode {
            node,
            children: children
                .iter()
                .map(|c| Child { role: c.role, node: c.node, extra: extra(c.role) })
                .collect(),
            read_only: modes.read_only,
            detect_zeroes: options.detect_zeroes,
            owned,
        }));
        if let Some(path) = base {
            self.files.push((id, path));
        }
        Ok(id)
    }

    async fn open_children(&mut self, options: &NodeOptions, modes: Inherited) -> Result<Vec<OpenChild>> {
        let mut children = Vec::new();
        for (role, child) in &options.children {
            let node = match child {
                ChildOptions::Nothing => continue,
                ChildOptions::Existing(name) => self.engine.graph().find(name)?,
                ChildOptions::Inline(inner) => {
                    self.open((**inner).clone(), modes.for_child(*role), false).await?
                }
            };
            children.push(OpenChild { role: *role, node });
        }
        Ok(children)
    }

    fn context(
        &self,
        options: &NodeOptions,
        node_name: Arc<str>,
        modes: Inherited,
        children: &[OpenChild],
        base: Option<PathBuf>,
    ) -> Result<OpenContext> {
        let view = |child: &OpenChild| Ok((child.role, self.view(child.node)?));
        Ok(OpenContext {
            node_name,
            options: options.own.clone(),
            read_only: modes.read_only,
            direct: modes.direct,
            no_flush: modes.no_flush,
            unmap: modes.unmap,
            children: children.iter().map(view).collect::<Result<_>>()?,
            no_backing: options.children.iter().any(|(_, child)| matches!(child, ChildOptions::Nothing)),
            base,
            world: self.engine.world.clone(),
            objects: self.engine.objects.clone(),
        })
    }

    fn view(&self, node: NodeId) -> Result<Arc<View>> {
        self.engine.graph().preview(&self.edits, node)
    }

    fn file_of(&self, node: NodeId) -> Option<PathBuf> {
        let fresh = self.files.iter().find(|(id, _)| *id == node).map(|(_, path)| path.clone());
        fresh.or_else(|| self.engine.filename(node))
    }

    /// Opens what an image names, where the policy allows it.
    async fn open_wanted(&mut self, wanted: &Wanted, modes: Inherited) -> Result<NodeId> {
        let policy = &self.engine.policy;
        let map = match &wanted.reference {
            Reference::File { path, format } => {
                policy.allow_file(path)?;
                image_options(format.as_deref(), &file_options(path), wanted.role)?
            }
            Reference::Protocol { name, format } => {
                policy.allow_network(name)?;
                image_options(format.as_deref(), &protocol_options(name), wanted.role)?
            }
            Reference::Options(map) => {
                allow_options(policy, map)?;
                map.clone()
            }
        };
        let mut options = NodeOptions::parse(map)?;
        options.node_name = None;
        self.open(options, modes.for_child(wanted.role), false).await
    }
}

impl Inherited {
    fn for_child(self, role: Role) -> Self {
        Self { read_only: self.read_only || role == Role::Backing, ..self }
    }
}

/// Options of an image that another one names; its format is never guessed.
fn image_options(format: Option<&str>, file: &Map<String, Value>, role: Role) -> Result<Map<String, Value>> {
    let Some(format) = format else {
        let context = format!(
            "the image names a {} image without its format: say it with '{}.driver=...'",
            role.name(),
            role.name()
        );
        return Err(BlockError::new(ErrorKind::Invalid, context));
    };
    Ok(Map::from_iter([
        ("driver".to_owned(), Value::String(format.to_owned())),
        ("file".to_owned(), Value::Object(file.clone())),
    ]))
}

fn file_options(path: &Path) -> Map<String, Value> {
    options_of("file", "filename", &path.to_string_lossy())
}

fn protocol_options(name: &str) -> Map<String, Value> {
    let scheme = name.split([':', '+']).next().unwrap_or_default();
    options_of(scheme, "uri", name)
}

fn options_of(driver: &str, key: &str, value: &str) -> Map<String, Value> {
    Map::from_iter([
        ("driver".to_owned(), Value::String(driver.to_owned())),
        (key.to_owned(), Value::String(value.to_owned())),
    ])
}

/// Every file name and every server inside options that an image holds.
fn allow_options(policy: &crate::ImagePolicy, map: &Map<String, Value>) -> Result<()> {
    for (key, value) in map {
        match (key.as_str(), value) {
            (_, Value::Object(inner)) if key != "server" => allow_options(policy, inner)?,
            ("filename", Value::String(path)) => policy.allow_file(Path::new(path))?,
            ("server", _) | ("uri" | "url" | "host", _) => policy.allow_network(&value.to_string())?,
            _ => {}
        }
    }
    Ok(())
}
