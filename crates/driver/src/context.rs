//! What a driver gets when it is opened, and what it answers.

use std::any::Any;
use std::path::PathBuf;
use std::sync::Arc;

use block::{BlockError, ErrorKind, Permissions, Result};
use flow::events::NodeEvents;
use flow::{Body, Role, View};
use io::World;
use object::Objects;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use crate::options;

/// What a driver keeps over a reopen of its node (contents in memory, a file that holds locks); each knows its own.
pub type Kept = Arc<dyn Any + Send + Sync>;

/// What a driver gets when it is opened. Start from [`OpenContext::new`] and set what is asked for.
pub struct OpenContext {
    /// Its node-name, for messages.
    pub node_name: Arc<str>,
    /// Its own options: what is left of `blockdev-add`'s arguments when the options that every driver has
    /// (`driver`, `node-name`, `read-only`, `cache`, `discard`, `detect-zeroes`...) and its children are taken out.
    pub options: Map<String, Value>,
    /// Open for reading only.
    pub read_only: bool,
    /// Bypass the page cache (`cache.direct`).
    pub direct: bool,
    /// Leave the page cache as it is found (`cache.transient`).
    pub transient: bool,
    /// Take flushes for granted (`cache.no-flush`).
    pub no_flush: bool,
    /// Pass discards on (`discard=unmap`).
    pub unmap: bool,
    /// Read without locks, whatever other processes do meanwhile (`force-share`).
    pub force_share: bool,
    /// Keep others from changing what is only read, where nobody changes it already, so that it can be lent.
    pub keeps_still: bool,
    /// The children that the options named, in role order.
    pub children: Vec<(Role, Arc<View>)>,
    /// Whether the options said that there is no backing child (`backing: null`).
    pub no_backing: bool,
    /// File name of the `file` child, against which relative names inside the image are resolved.
    pub base: Option<PathBuf>,
    /// What [`flow::Node::keep`] answers of the present body, if the node is being reopened.
    pub kept: Option<Kept>,
    /// The outside.
    pub world: Arc<dyn World>,
    /// Named handles.
    pub objects: Arc<Objects>,
    /// Where the node tells what happens to it.
    pub events: NodeEvents,
}

impl OpenContext {
    /// A node that is opened for the first time, for reading and writing, without children.
    pub fn new(
        node_name: &str,
        options: Map<String, Value>,
        world: Arc<dyn World>,
        objects: Arc<Objects>,
    ) -> Self {
        Self {
            node_name: node_name.into(),
            options,
            read_only: false,
            direct: false,
            transient: false,
            no_flush: false,
            unmap: false,
            force_share: false,
            keeps_still: true,
            children: Vec::new(),
            no_backing: false,
            base: None,
            kept: None,
            world,
            objects,
            events: NodeEvents::default(),
        }
    }

    /// The driver's own options as its struct; unknown, missing and ill-typed ones are named.
    pub fn parse<T: DeserializeOwned>(&mut self) -> Result<T> {
        options::parse(std::mem::take(&mut self.options))
    }

    /// The child with `role`.
    pub fn child(&self, role: Role) -> Result<&Arc<View>> {
        let found = self.children.iter().find(|(r, _)| *r == role).map(|(_, view)| view);
        found.ok_or_else(|| {
            let context = format!("node '{}' needs the option '{}'", self.node_name, role.name());
            BlockError::new(ErrorKind::Invalid, context)
        })
    }
}

/// What opening a driver answers.
pub struct Opened {
    /// The body of the node.
    pub body: Body,
    /// Children that it needs besides those that the options named.
    pub wants: Vec<Wanted>,
    /// What it does not share of its children (but backing ones), whatever its own users share.
    pub unshares: Permissions,
}

impl Opened {
    /// A body that needs no more children.
    pub fn new(body: Body) -> Self {
        Self { body, wants: Vec::new(), unshares: Permissions::NONE }
    }
}

/// A child that a driver learnt of while it was opened.
#[derive(Clone, Debug, PartialEq)]
pub struct Wanted {
    /// What it is to the node.
    pub role: Role,
    /// How to find it. Opened only where the configuration allows it.
    pub reference: Reference,
}

/// How an image names another.
#[derive(Clone, Debug, PartialEq)]
pub enum Reference {
    /// A file, already resolved against the image's directory, and its format where the image says so.
    File {
        /// Path.
        path: PathBuf,
        /// Driver name of its format.
        format: Option<String>,
    },
    /// Something of a protocol, by its name with the prefix (`nbd://host/export`).
    Protocol {
        /// The whole name.
        name: String,
        /// Driver name of its format.
        format: Option<String>,
    },
    /// Full options, as of `blockdev-add`.
    Options(Map<String, Value>),
}
