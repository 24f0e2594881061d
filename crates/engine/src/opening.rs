//! Opening a tree of nodes: children first, then the driver, then the children it learnt of. Nothing is in the graph
//! before all of it is open; what was opened for nothing is closed again by being dropped.
//!
//! Invariants: a format reads its tables only while its files are locked as it will need them; what images name is
//! opened where the policy allows it, read-only below a backing link, and never in a circle.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use block::{BlockError, ErrorKind, Permissions, Result};
use driver::{Kind, OpenContext, Reference, Wanted};
use flow::{DetectZeroes, NodeId, Role, View};
use graph::{Child, Demand, EdgeDemand, Edit, NewNode, permissions};
use io::LocalFut;
use serde_json::{Map, Value};

use crate::engine::{Engine, Known};
use crate::options::{ChildOptions, NodeOptions, of_child};
use crate::partial;

/// Longest chain of images that name one another.
const CHAIN_MAX: usize = 256;

/// What children take over from their parent where they say nothing themselves.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Inherited {
    pub(crate) read_only: bool,
    pub(crate) direct: bool,
    pub(crate) transient: bool,
    pub(crate) no_flush: bool,
    pub(crate) unmap: bool,
    pub(crate) force_share: bool,
}

/// Nodes that are open and not yet in the graph.
pub(crate) struct Opening<'e> {
    engine: &'e Engine,
    edits: Vec<Edit>,
    known: Vec<(NodeId, Known)>,
    /// Nodes that are being opened now, one within the other.
    depth: usize,
    /// What the body of the node that is being reopened keeps.
    kept: Option<driver::Kept>,
    /// The images whose names led here, the outermost first.
    trail: Vec<Named>,
    /// Whether the error under way says already which image named the one that failed.
    blamed: bool,
}

/// An image that names another one.
#[derive(PartialEq)]
struct Named {
    driver: &'static str,
    /// Its file, where it lies on one by itself.
    file: Option<PathBuf>,
}

/// A child that is open.
struct OpenChild {
    role: Role,
    node: NodeId,
}

/// What a node's own children say about it.
struct Below {
    children: Vec<OpenChild>,
    modes: Inherited,
    file: Option<PathBuf>,
    /// What the driver asks of all but backing ones.
    asks: EdgeDemand,
    /// The one that was opened as the backing image that the image names.
    led: Option<NodeId>,
}

impl<'e> Opening<'e> {
    pub(crate) fn new(engine: &'e Engine) -> Self {
        let (trail, blamed) = (Vec::new(), false);
        Self { engine, edits: Vec::new(), known: Vec::new(), depth: 0, kept: None, trail, blamed }
    }

    /// To reopen a node whose body keeps `kept`.
    pub(crate) fn again(engine: &'e Engine, kept: Option<driver::Kept>) -> Self {
        Self { kept, ..Self::new(engine) }
    }

    /// The edits that add what was opened, and how the nodes were opened.
    pub(crate) fn finish(self) -> (Vec<Edit>, Vec<(NodeId, Known)>) {
        (self.edits, self.known)
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
            let before = (self.edits.len(), self.known.len(), self.trail.len());
            let mut opened = self.open_as(&options, inherited, owned).await;
            if may_fall_back(&options, inherited) && opened.as_ref().is_err_and(only_writing_failed) {
                self.edits.truncate(before.0);
                self.known.truncate(before.1);
                self.trail.truncate(before.2);
                self.blamed = false;
                let options = NodeOptions { read_only: Some(true), ..options };
                opened = self.open_as(&options, inherited, owned).await;
            }
            self.depth -= 1;
            opened
        })
    }

    async fn open_as(&mut self, options: &NodeOptions, inherited: Inherited, owned: bool) -> Result<NodeId> {
        let modes = modes(options, inherited)?;
        // Before a file is opened that whoever has the name may have locked.
        let wanted = options.node_name.as_deref();
        let named = wanted.map(|wanted| self.engine.graph().name(Some(wanted))).transpose()?;
        let children = self.open_children(options, modes).await?;
        let file = match children.iter().find(|child| matches!(child.role, Role::File | Role::Filtered)) {
            Some(child) => self.file_of(child.node),
            None => (options.driver.filename)(&options.own).map(PathBuf::from),
        };
        let mut below = Below { children, modes, file, asks: asks(options), led: None };
        let name = named.map_or_else(|| self.engine.graph().name(None), Ok)?;
        let context = self.context(options, name.text().clone(), &below)?;
        let opened = (options.driver.open)(context).await?;
        below.asks.unshares = opened.unshares;
        self.open_wants(options, &mut below, &opened.wants).await?;
        let node = self.engine.graph().new_node(&name, options.driver.name, opened.body);
        Ok(self.add(node, options, below, owned))
    }

    fn add(&mut self, node: Arc<flow::Node>, options: &NodeOptions, below: Below, owned: bool) -> NodeId {
        let id = node.id();
        let extra = |role| if role == Role::Backing { EdgeDemand::default() } else { below.asks };
        let child = |c: OpenChild| Child { role: c.role, node: c.node, extra: extra(c.role) };
        let named = node.powers().naming.and_then(|power| power.backing());
        let led = named.zip(below.led);
        let mut children: Vec<Child> = below.children.into_iter().map(child).collect();
        children.sort_by_key(|child| child.role);
        self.edits.push(Edit::AddNode(NewNode {
            node,
            children,
            read_only: below.modes.read_only,
            detect_zeroes: options.detect_zeroes,
            owned,
        }));
        let Inherited { direct, transient, no_flush, unmap, .. } = below.modes;
        let own = Arc::new(options.own.clone());
        self.known.push((id, Known { file: below.file, direct, transient, no_flush, unmap, own, led }));
        id
    }

    async fn open_children(&mut self, options: &NodeOptions, modes: Inherited) -> Result<Vec<OpenChild>> {
        let mut children = Vec::new();
        for (role, child) in &options.children {
            let node = match child {
                // Once its parent has said what it is.
                ChildOptions::Partial(_) | ChildOptions::Nothing => continue,
                ChildOptions::Existing(name) => {
                    let found = self.engine.graph().find(name);
                    found.map_err(|_| of_child(*role, unknown(name)))?
                }
                ChildOptions::Inline(inner) => {
                    let opened = self.open((**inner).clone(), modes.for_child(*role), false).await;
                    let node = opened.map_err(|error| of_child(*role, error))?;
                    self.lock(node, *role, options, modes)?;
                    node
                }
            };
            children.push(OpenChild { role: *role, node });
        }
        Ok(children)
    }

    /// Takes the locks that the node will need for its child at the least, before the driver reads any of it: what
    /// it remembers must not change in between. The graph takes them over.
    fn lock(&self, child: NodeId, role: Role, options: &NodeOptions, modes: Inherited) -> Result<()> {
        if options.driver.kind != Kind::Format {
            return Ok(());
        }
        let demand = permissions::edge(role, Demand::NOTHING, !modes.read_only, asks(options));
        let view = self.view(child)?;
        let permit = view.root().powers().permit;
        permit.map_or(Ok(()), |permit| permit.permit(demand.uses, demand.shares))
    }

    fn context(&self, options: &NodeOptions, node_name: Arc<str>, below: &Below) -> Result<OpenContext> {
        let view = |child: &OpenChild| Ok((child.role, self.view(child.node)?));
        let no_backing = |(role, child): &_| *role == Role::Backing && matches!(child, ChildOptions::Nothing);
        Ok(OpenContext {
            // Children are opened on the way and are new.
            kept: self.kept.clone().filter(|_| self.depth == 1),
            events: self.engine.events.of(&node_name),
            node_name,
            options: options.own.clone(),
            read_only: below.modes.read_only,
            direct: below.modes.direct,
            transient: below.modes.transient,
            no_flush: below.modes.no_flush,
            unmap: below.modes.unmap,
            force_share: below.modes.force_share,
            keeps_still: self.engine.keeps_still,
            children: below.children.iter().map(view).collect::<Result<_>>()?,
            no_backing: options.children.iter().any(no_backing),
            base: below.file.clone(),
            world: self.engine.world.clone(),
            objects: self.engine.objects.clone(),
        })
    }

    fn view(&self, node: NodeId) -> Result<Arc<View>> {
        self.engine.graph().preview(&self.edits, node)
    }

    fn file_of(&self, node: NodeId) -> Option<PathBuf> {
        let fresh = self.known.iter().find(|(id, _)| *id == node).map(|(_, known)| known.clone());
        fresh.unwrap_or_else(|| self.engine.known(node)).file
    }

    /// Opens the images that an image names.
    async fn open_wants(&mut self, options: &NodeOptions, below: &mut Below, wants: &[Wanted]) -> Result<()> {
        let partial = partial_of(options);
        let is_said = wants.iter().any(|wanted| wanted.role == Role::Backing);
        if let Some(given) = partial.filter(|_| !is_said) {
            let opened = self.open_partial(given, below.modes).await;
            let node = opened.map_err(|error| of_child(Role::Backing, error))?;
            below.children.push(OpenChild { role: Role::Backing, node });
        }
        if wants.is_empty() {
            return Ok(());
        }
        self.enter(options, below)?;
        for wanted in wants {
            let given = partial.filter(|_| wanted.role == Role::Backing);
            let node = match self.open_wanted(wanted, given, below.modes).await {
                Ok(node) => node,
                Err(error) => return Err(self.blame(error, wanted.role, below)),
            };
            if wanted.role == Role::Backing && given.is_none() {
                below.led = Some(node);
            }
            below.children.push(OpenChild { role: wanted.role, node });
        }
        self.trail.pop();
        Ok(())
    }

    /// Says which image named the one that could not be opened.
    fn blame(&mut self, error: BlockError, role: Role, below: &Below) -> BlockError {
        match &below.file {
            Some(file) if !self.blamed => {
                self.blamed = true;
                error.within(format_args!("{} of image '{}'", what(role), file.display()))
            }
            _ => error,
        }
    }

    /// Notes an image that names others; fails where it is among those whose names led to it.
    fn enter(&mut self, options: &NodeOptions, below: &Below) -> Result<()> {
        let on_file = below.children.iter().any(|c| c.role == Role::File && self.is_file(c.node));
        let file = below.file.as_ref().filter(|_| on_file);
        // One that cannot be followed is as good as its name here: it was opened by it.
        let real = |path: &PathBuf| path.canonicalize().unwrap_or_else(|_| path.clone());
        let named = Named { driver: options.driver.name, file: file.map(real) };
        let again = named.file.is_some() && self.trail.contains(&named);
        if again || self.trail.len() == CHAIN_MAX {
            let name = below.file.as_ref().map(|file| format!(" '{}'", file.display())).unwrap_or_default();
            let context = match again {
                true => {
                    format!("image{name} is among its own backing files: name another one with 'backing'")
                }
                false => format!(
                    "image{name} is below {CHAIN_MAX} others that name one another, which is too deep"
                ),
            };
            self.blamed = true;
            return Err(BlockError::new(ErrorKind::Invalid, context));
        }
        self.trail.push(named);
        Ok(())
    }

    fn is_file(&self, node: NodeId) -> bool {
        self.view(node).is_ok_and(|view| view.root().driver() == "file")
    }

    /// Opens what an image names, where the policy allows it.
    async fn open_wanted(
        &mut self,
        wanted: &Wanted,
        given: Option<&Map<String, Value>>,
        modes: Inherited,
    ) -> Result<NodeId> {
        let said = self.said(wanted, given)?;
        let map = match given {
            Some(given) => partial::filled(given, Some(said))?,
            None => said,
        };
        let mut options = self.engine.options(map)?;
        options.forget_names();
        if wanted.role == Role::Backing {
            options.refuse_writes();
        }
        self.open(options, modes.for_child(wanted.role), false).await
    }

    /// What an image says of another one, as far as nothing else was `given`; fails where the policy does not allow it.
    fn said(&self, wanted: &Wanted, given: Option<&Map<String, Value>>) -> Result<Map<String, Value>> {
        let policy = &self.engine.policy;
        let driver = given.and_then(|given| given.get("driver")).and_then(Value::as_str);
        let names_file = given.is_some_and(partial::names_file);
        match &wanted.reference {
            Reference::File { path, format } => {
                if !names_file {
                    policy.allow_file(path)?;
                }
                image_options(driver.or(format.as_deref()), &file_options(path), wanted)
            }
            Reference::Protocol { name, format } => {
                if !names_file {
                    policy.allow_network(name)?;
                }
                image_options(driver.or(format.as_deref()), &protocol_options(name), wanted)
            }
            Reference::Options(map) => {
                policy.allow_nodes(&self.engine.options(map.clone())?)?;
                Ok(map.clone())
            }
        }
    }

    /// Opens a backing image that the image itself does not name.
    async fn open_partial(&mut self, given: &Map<String, Value>, modes: Inherited) -> Result<NodeId> {
        let options = self.engine.options(partial::filled(given, None)?)?;
        self.open(options, modes.for_child(Role::Backing), false).await
    }
}

impl Inherited {
    fn for_child(self, role: Role) -> Self {
        Self { read_only: self.read_only || role == Role::Backing, ..self }
    }
}

/// What holds for a node: what its options say, else what it has from above. What excludes one another is refused.
fn modes(options: &NodeOptions, inherited: Inherited) -> Result<Inherited> {
    let modes = Inherited {
        read_only: options.read_only.unwrap_or(inherited.read_only),
        direct: options.direct.unwrap_or(inherited.direct),
        transient: options.transient.unwrap_or(inherited.transient),
        no_flush: options.no_flush.unwrap_or(inherited.no_flush),
        unmap: options.unmap.unwrap_or(inherited.unmap),
        force_share: options.force_share.unwrap_or(inherited.force_share),
    };
    let why = if modes.force_share && !modes.read_only {
        "force-share=on can only be used with read-only images"
    } else if options.detect_zeroes == DetectZeroes::Unmap && !modes.unmap {
        "setting detect-zeroes to unmap is not allowed without setting discard operation to unmap"
    } else {
        return Ok(modes);
    };
    Err(BlockError::new(ErrorKind::Invalid, why))
}

/// Whether the node may be opened read-only where it cannot be written.
fn may_fall_back(options: &NodeOptions, inherited: Inherited) -> bool {
    options.auto_read_only && !options.read_only.unwrap_or(inherited.read_only)
}

fn only_writing_failed(error: &BlockError) -> bool {
    matches!(error.kind(), ErrorKind::ReadOnly | ErrorKind::NotPermitted)
}

/// In QEMU's words: there a name may also be a device's.
pub(crate) fn unknown(name: &str) -> BlockError {
    let context = format!("Cannot find device='{name}' nor node-name='{name}'");
    BlockError::new(ErrorKind::NotFound, context)
}

/// What is given of a backing image the rest of which the image above says.
fn partial_of(options: &NodeOptions) -> Option<&Map<String, Value>> {
    options.children.iter().find_map(|(_, child)| match child {
        ChildOptions::Partial(given) => Some(given),
        _ => None,
    })
}

fn asks(options: &NodeOptions) -> EdgeDemand {
    EdgeDemand { uses: options.driver.asks, unshares: Permissions::NONE }
}

fn what(role: Role) -> &'static str {
    match role {
        Role::Backing => "backing file",
        Role::DataFile => "data file",
        Role::File | Role::Filtered => "file",
    }
}

/// Options of an image that another one names; its format is never guessed.
fn image_options(
    format: Option<&str>,
    file: &Map<String, Value>,
    wanted: &Wanted,
) -> Result<Map<String, Value>> {
    let Some(format) = format else {
        let role = wanted.role.name();
        let context = format!(
            "the image does not say its format, which is never guessed: name it yourself with '{role}.driver=...,{role}.file.driver=...'"
        );
        return Err(BlockError::new(ErrorKind::Invalid, context));
    };
    if file.get("driver").is_some_and(|driver| driver == format) {
        return Ok(file.clone());
    }
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
    options_of(scheme, "filename", name)
}

fn options_of(driver: &str, key: &str, value: &str) -> Map<String, Value> {
    Map::from_iter([
        ("driver".to_owned(), Value::String(driver.to_owned())),
        (key.to_owned(), Value::String(value.to_owned())),
    ])
}
