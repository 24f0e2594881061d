//! Options of a node as a tree: what every driver has is taken out here, the rest is the driver's own.

use block::{BlockError, ErrorKind, Result};
use driver::{Driver, Kind};
use flow::{DetectZeroes, Role};
use serde_json::{Map, Value};

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
    /// Explicitly none (`backing: null`).
    Nothing,
}

impl NodeOptions {
    /// Reads the arguments of `blockdev-add`.
    pub fn parse(map: Map<String, Value>) -> Result<Self> {
        Self::parse_at(crate::keyval::nest(map)?, 0)
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

    fn parse_at(mut map: Map<String, Value>, depth: usize) -> Result<Self> {
        if depth > DEPTH_MAX {
            return Err(invalid(format!("nodes are nested deeper than {DEPTH_MAX}")));
        }
        let name = take_text(&mut map, "driver")?
            .ok_or_else(|| invalid("Parameter 'driver' is missing".to_owned()))?;
        let driver = driver::find(&name).ok_or_else(|| invalid(format!("Unknown driver '{name}'")))?;
        let node_name = take_text(&mut map, "node-name")?;
        let mut cache = match map.remove("cache") {
            Some(Value::Object(cache)) => cache,
            None => Map::new(),
            Some(_) => {
                return Err(invalid("Invalid parameter type for 'cache', expected: object".to_owned()));
            }
        };
        let options = Self {
            driver,
            node_name,
            read_only: take_bool(&mut map, "read-only")?,
            auto_read_only: take_bool(&mut map, "auto-read-only")?.unwrap_or(false),
            direct: take_bool(&mut cache, "direct")?,
            transient: take_bool(&mut cache, "transient")?,
            no_flush: take_bool(&mut cache, "no-flush")?,
            unmap: take_choice(
                &mut map,
                "discard",
                &[("ignore", false), ("off", false), ("unmap", true), ("on", true)],
            )?,
            force_share: take_bool(&mut map, "force-share")?,
            detect_zeroes: take_choice(&mut map, "detect-zeroes", &DETECT_ZEROES)?.unwrap_or_default(),
            children: take_children(&mut map, driver, depth)?,
            own: map,
        };
        match cache.keys().next() {
            Some(key) => Err(invalid(format!("Parameter 'cache.{key}' is unexpected"))),
            None => Ok(options),
        }
    }
}

const DETECT_ZEROES: [(&str, DetectZeroes); 3] =
    [("off", DetectZeroes::Off), ("on", DetectZeroes::On), ("unmap", DetectZeroes::Unmap)];

fn take_children(
    map: &mut Map<String, Value>,
    driver: &Driver,
    depth: usize,
) -> Result<Vec<(Role, ChildOptions)>> {
    let mut children = Vec::new();
    for (at, role) in driver.children.iter().enumerate() {
        let child = match map.remove(role.name()) {
            Some(Value::String(name)) => ChildOptions::Existing(name),
            Some(Value::Object(inner)) => {
                ChildOptions::Inline(Box::new(NodeOptions::parse_at(inner, depth + 1)?))
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

fn take_text(map: &mut Map<String, Value>, key: &str) -> Result<Option<String>> {
    match map.remove(key) {
        None => Ok(None),
        Some(Value::String(text)) => Ok(Some(text)),
        Some(_) => Err(invalid(format!("Invalid parameter type for '{key}', expected: string"))),
    }
}

fn take_bool(map: &mut Map<String, Value>, key: &str) -> Result<Option<bool>> {
    let words =
        [("on", true), ("off", false), ("true", true), ("false", false), ("yes", true), ("no", false)];
    match map.get(key) {
        Some(Value::Bool(value)) => {
            let value = *value;
            map.remove(key);
            Ok(Some(value))
        }
        Some(Value::String(_)) | None => take_choice(map, key, &words),
        Some(_) => Err(invalid(format!("Invalid parameter type for '{key}', expected: boolean"))),
    }
}

fn take_choice<T: Copy>(map: &mut Map<String, Value>, key: &str, choices: &[(&str, T)]) -> Result<Option<T>> {
    let Some(text) = take_text(map, key)? else { return Ok(None) };
    match choices.iter().find(|(name, _)| *name == text) {
        Some((_, value)) => Ok(Some(*value)),
        None => {
            let names: Vec<_> = choices.iter().map(|(name, _)| *name).collect();
            Err(invalid(format!(
                "Parameter '{key}' does not accept value '{text}' (one of {})",
                names.join(", ")
            )))
        }
    }
}

fn invalid(context: String) -> BlockError {
    BlockError::new(ErrorKind::Invalid, context)
}
