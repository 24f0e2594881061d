//! How a node is named to whoever would open it again: by a name, or by options behind `json:`. QEMU's rules.
//!
//! Invariant: a name by itself is told only where a node that is opened by it, and by its format, reads the same.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use block::{BlockError, ErrorKind, Result};
use driver::{Driver, Kind};
use flow::{NodeId, Role};
use graph::{Graph, NodeInfo};
use serde_json::{Map, Value, json};

use crate::engine::Engine;
use crate::kinds::{driver_of, unfiltered};

/// The name of a node.
#[derive(Clone, Debug)]
pub struct FullName {
    plain: Option<String>,
    options: Map<String, Value>,
    /// How deep the options lie in one another.
    depth: usize,
    is_protocol: bool,
}

/// Most nodes that a name is made of, one below the other: nobody could open it by more.
const DEPTH_MAX: usize = 128;

impl FullName {
    /// The name of a node of `driver` that was opened with these options of its own, over `children`. What lies below
    /// an overlay is among them only where it is not what the overlay itself names; `cut` says that it names one and
    /// stands on none.
    pub fn of(driver: &Driver, own: &Map<String, Value>, children: Vec<(Role, Self)>, cut: bool) -> Self {
        let mut options = Map::from_iter([("driver".to_owned(), driver.name.into())]);
        for (key, value) in own {
            show(driver.shows, key, value, &mut options);
        }
        let is_as_named = !cut && !children.iter().any(|(role, _)| *role == Role::Backing);
        let is_usual = options.len() == 1 && is_as_named;
        let below = children.iter().find(|(role, _)| matches!(role, Role::File | Role::Filtered));
        let plain = match driver.kind {
            Kind::Protocol => (driver.filename)(own),
            Kind::Format if is_usual => {
                below.filter(|(_, below)| below.is_protocol).and_then(|(_, below)| below.plain.clone())
            }
            Kind::Format | Kind::Filter => None,
        };
        let depth = 1 + children.iter().map(|(_, child)| child.depth).max().unwrap_or(0);
        let named = children.into_iter().map(|(role, child)| (role.name().to_owned(), child.options.into()));
        options.extend(named);
        if cut {
            options.insert(Role::Backing.name().to_owned(), Value::Null);
        }
        Self { plain, options, depth, is_protocol: driver.kind == Kind::Protocol }
    }

    /// The name by itself, where there is one.
    pub fn plain(&self) -> Option<&str> {
        self.plain.as_deref()
    }

    /// The name by itself, or the options.
    pub fn text(&self) -> String {
        self.plain.clone().unwrap_or_else(|| of_options(self.options.clone()))
    }

    /// The options, for whoever opens them from another folder.
    pub(crate) fn options_from_anywhere(&self) -> String {
        let mut options = self.options.clone();
        absolute(&mut options);
        of_options(options)
    }
}

fn of_options(options: Map<String, Value>) -> String {
    format!("json:{}", ::json::to_ascii(&::json::in_order(Value::Object(options))))
}

/// Adds an option of its own to those that make the name, flat, if it says what a node `shows`.
fn show(shows: &[&str], key: &str, value: &Value, options: &mut Map<String, Value>) {
    if let Value::Object(members) = value {
        for (inner, value) in members {
            show(shows, &format!("{key}.{inner}"), value, options);
        }
    } else if shows.iter().any(|shown| *shown == key || shown.ends_with('.') && key.starts_with(shown)) {
        options.insert(key.to_owned(), value.clone());
    }
}

/// Files are named by paths that lead there from any folder.
fn absolute(options: &mut Map<String, Value>) {
    if options.get("driver").is_some_and(|driver| driver == "file")
        && let Some(Value::String(name)) = options.get("filename")
        && Path::new(name).is_relative()
    {
        let path = real(Path::new(name));
        options.insert("filename".to_owned(), json!(path.display().to_string()));
    }
    options.values_mut().filter_map(Value::as_object_mut).for_each(absolute);
}

#[cold]
fn too_deep() -> BlockError {
    let context = format!("its name would be of more than {DEPTH_MAX} nodes, one below the other");
    BlockError::new(ErrorKind::Unsupported, context)
}

/// With symbolic links followed, where that can be.
pub(crate) fn real(path: &Path) -> PathBuf {
    path.canonicalize().unwrap_or_else(|_| path.to_owned())
}

impl Engine {
    /// The name of a node.
    pub fn full_name(&self, node: &str) -> Result<FullName> {
        let graph = self.graph();
        Names::new(self, &graph).of(graph.find(node)?)
    }
}

/// Names in a graph, each found out once: those of a chain are made of one another.
pub(crate) struct Names<'g> {
    engine: &'g Engine,
    graph: &'g Graph,
    found: HashMap<NodeId, FullName>,
    depth: usize,
}

impl<'g> Names<'g> {
    pub(crate) fn new(engine: &'g Engine, graph: &'g Graph) -> Self {
        Self { engine, graph, found: HashMap::new(), depth: 0 }
    }

    pub(crate) fn of(&mut self, node: NodeId) -> Result<FullName> {
        if let Some(name) = self.found.get(&node) {
            return Ok(name.clone());
        }
        self.depth += 1;
        let name = if self.depth > DEPTH_MAX { Err(too_deep()) } else { self.make(node) };
        self.depth -= 1;
        let name = name?;
        if name.depth > DEPTH_MAX {
            return Err(too_deep());
        }
        self.found.insert(node, name.clone());
        Ok(name)
    }

    fn make(&mut self, node: NodeId) -> Result<FullName> {
        let info = self.graph.node(node)?;
        let named = self.is_as_named(node, &info)?;
        let mut children = Vec::new();
        for edge in info.children {
            match edge.role {
                Role::Backing if named => {}
                // Filters between images change nothing that they show, and who opens it may not have them.
                Role::Backing => children.push((edge.role, self.of(unfiltered(self.graph, edge.child)?)?)),
                role => children.push((role, self.of(edge.child)?)),
            }
        }
        let cut = !named && !info.children.iter().any(|edge| edge.role == Role::Backing);
        Ok(FullName::of(driver_of(self.graph, node)?, &self.engine.known(node).own, children, cut))
    }

    /// Whether what an image stands on is what it names.
    fn is_as_named(&mut self, node: NodeId, info: &NodeInfo<'_>) -> Result<bool> {
        let said = info.node.powers().naming.and_then(|power| power.backing());
        let below = info.children.iter().find(|edge| edge.role == Role::Backing);
        let (Some(said), Some(edge)) = (&said, below) else { return Ok(said.is_none() && below.is_none()) };
        let below = unfiltered(self.graph, edge.child)?;
        if self.engine.known(node).led.is_some_and(|led| led == (said.clone(), below)) {
            return Ok(true);
        }
        let name = self.of(below)?;
        Ok(name.plain().is_some_and(|plain| real(Path::new(plain)) == real(said))
            || [name.text(), name.options_from_anywhere()].iter().any(|text| *said == Path::new(text)))
    }
}
