//! Options of a node as a tree: what every driver has is taken out here, the rest is the driver's own.

use block::{BlockError, ErrorKind, Result};
use driver::{Driver, Kind, Wording, options};
use flow::{DetectZeroes, Role};
use serde::Deserialize;
use serde_json::{Map, Value};

use crate::partial;

/// Deepest nesting of nodes in one set of options.
const DEPTH_MAX: usize = 256;

/// A node that is to be opened.
#[derive(Debug, Clone)]
pub struct NodeOptions {
    /// Its driver.
    pub driver: &'static Driver,
    /// Its node-name; made up when there is none.
    pub node_name: Option<String>,
    /// Refuse writes; `None`: as its parent does.
    pub read_only: Option<bool>,
    /// Fall back to read-only when it cannot be written.
    pub auto_read_only: bool,
    /// `cache.direct`; `None`: as its parent.
    pub direct: Option<bool>,
    /// `cache.transient`: the page cache is left as it is found; `None`: as its parent.
    pub transient: Option<bool>,
    /// `cache.no-flush`; `None`: as its parent.
    pub no_flush: Option<bool>,
    /// `discard=unmap`; `None`: as its parent.
    pub unmap: Option<bool>,
    /// Read without locks, whatever other processes do meanwhile; `None`: as its parent.
    pub force_share: Option<bool>,
    /// What becomes of writes of zeros.
    pub detect_zeroes: DetectZeroes,
    /// Its children.
    pub children: Vec<(Role, ChildOptions)>,
    /// What is the driver's own.
    pub own: Map<String, Value>,
}

/// How options name a child.
#[derive(Debug, Clone)]
pub enum ChildOptions {
    /// A node that is there already.
    Existing(String),
    /// A node to be opened along.
    Inline(Box<NodeOptions>),
    /// A node to be opened along, of which the parent's image says the rest ([`crate::partial`]).
    Partial(Map<String, Value>),
    /// Explicitly none (`backing: null`).
    Nothing,
}

impl NodeOptions {
    /// Reads the arguments of `blockdev-add`.
    pub fn parse(map: Map<String, Value>, wording: Wording) -> Result<Self> {
        Self::parse_at(crate::keyval::nest(map)?, 0, wording)
    }

    /// Takes the node-names away, of this node and of those inline below it: they are the user's to give.
    pub(crate) fn forget_names(&mut self) {
        self.visit(&mut |options| options.node_name = None);
    }

    /// Refuses writes to this node and to those inline below it.
    pub(crate) fn refuse_writes(&mut self) {
        self.visit(&mut |options| options.read_only = Some(true));
    }

    fn visit(&mut self, change: &mut impl FnMut(&mut Self)) {
        change(self);
        for (_, child) in &mut self.children {
            if let ChildOptions::Inline(inner) = child {
                inner.visit(change);
            }
        }
    }

    fn parse_at(mut map: Map<String, Value>, depth: usize, wording: Wording) -> Result<Self> {
        if depth > DEPTH_MAX {
            return Err(invalid(format!("nodes are nested deeper than {DEPTH_MAX}")));
        }
        let driver = take_driver(&mut map)?;
        let shared = Shared::take(&mut map, driver, wording)?;
        let children = take_children(&mut map, driver, depth, wording)?;
        driver.check(&map, wording)?;
        Ok(Self {
            driver,
            node_name: shared.node_name,
            read_only: shared.read_only,
            auto_read_only: shared.auto_read_only,
            direct: shared.cache.direct,
            transient: shared.cache.transient,
            no_flush: shared.cache.no_flush,
            unmap: shared.discard.map(|discard| matches!(discard, Discard::Unmap | Discard::On)),
            force_share: shared.force_share,
            detect_zeroes: shared.detect_zeroes.into(),
            children,
            own: map,
        })
    }
}

/// Names of the options that every driver has, besides `driver` itself.
const SHARED: [&str; 7] =
    ["node-name", "read-only", "auto-read-only", "cache", "discard", "force-share", "detect-zeroes"];

/// The options that every driver has.
#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
struct Shared {
    node_name: Option<String>,
    read_only: Option<bool>,
    auto_read_only: bool,
    cache: Cache,
    discard: Option<Discard>,
    force_share: Option<bool>,
    detect_zeroes: Zeroes,
}

#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
struct Cache {
    direct: Option<bool>,
    transient: Option<bool>,
    no_flush: Option<bool>,
}

#[derive(Deserialize)]
#[serde(rename_all = "lowercase")]
enum Discard {
    Ignore,
    Off,
    Unmap,
    On,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Zeroes {
    #[default]
    Off,
    On,
    Unmap,
}

impl Shared {
    /// Takes them out of what a node of that driver is given.
    fn take(map: &mut Map<String, Value>, driver: &Driver, wording: Wording) -> Result<Self> {
        let given: Map<_, _> = SHARED.iter().filter_map(|key| map.remove_entry(*key)).collect();
        options::read(given.clone()).map_err(|refusal| wording.refused(driver, &given, &refusal))
    }
}

impl From<Zeroes> for DetectZeroes {
    fn from(zeroes: Zeroes) -> Self {
        match zeroes {
            Zeroes::Off => Self::Off,
            Zeroes::On => Self::On,
            Zeroes::Unmap => Self::Unmap,
        }
    }
}

fn take_driver(map: &mut Map<String, Value>) -> Result<&'static Driver> {
    match map.remove("driver") {
        Some(Value::String(name)) => {
            driver::find(&name).ok_or_else(|| invalid(format!("Unknown driver '{name}'")))
        }
        Some(_) => Err(invalid("Invalid parameter type for 'driver', expected: string".to_owned())),
        None => Err(invalid("Parameter 'driver' is missing".to_owned())),
    }
}

fn take_children(
    map: &mut Map<String, Value>,
    driver: &Driver,
    depth: usize,
    wording: Wording,
) -> Result<Vec<(Role, ChildOptions)>> {
    let mut children = Vec::new();
    for (at, role) in driver.children.iter().enumerate() {
        let child = match map.remove(role.name()) {
            // As QEMU took it before there was `null`.
            Some(Value::String(name)) if name.is_empty() && *role == Role::Backing => ChildOptions::Nothing,
            Some(Value::String(name)) => ChildOptions::Existing(name),
            Some(Value::Object(inner))
                if wording == Wording::Opts && *role == Role::Backing && !partial::is_whole(&inner) =>
            {
                ChildOptions::Partial(inner)
            }
            Some(Value::Object(inner)) => {
                let inner = NodeOptions::parse_at(inner, depth + 1, wording);
                ChildOptions::Inline(Box::new(inner.map_err(|error| of_child(*role, error))?))
            }
            Some(Value::Null) if *role == Role::Backing => ChildOptions::Nothing,
            Some(_) => {
                return Err(invalid(format!(
                    "Invalid parameter type for '{}', expected: string",
                    role.name()
                )));
            }
            None if at == 0 && driver.kind != Kind::Protocol => {
                return Err(invalid(format!("A block device must be specified for \"{}\"", role.name())));
            }
            None => continue,
        };
        children.push((*role, child));
    }
    Ok(children)
}

/// Says of what child an option, or the node that it names, is wrong: in QEMU's words, which name backing images only.
pub(crate) fn of_child(role: Role, error: BlockError) -> BlockError {
    match role {
        Role::Backing => error.within("Could not open backing file"),
        Role::File | Role::Filtered | Role::DataFile => error,
    }
}

fn invalid(context: String) -> BlockError {
    BlockError::new(ErrorKind::Invalid, context)
}
