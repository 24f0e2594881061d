//! Users of the graph from outside: exports, jobs and named users, each with a root of its own.

use std::fmt;
use std::sync::Arc;

/// Identity of a root within its graph; never reused.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, PartialOrd, Ord)]
pub struct RootId(pub u64);

/// What kind of user holds a root.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum UserKind {
    /// An export. It goes along when its node is replaced.
    Export,
    /// Somebody else with a name (a command, a test). Goes along as well.
    Named,
    /// A job of this type (`stream`).
    Job(Arc<str>),
}

/// Who holds a root, in the words of messages.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct User {
    kind: UserKind,
    description: Arc<str>,
    edge: &'static str,
    pins: bool,
}

impl User {
    /// The export `id`.
    pub fn export(id: &str) -> Self {
        Self::new(UserKind::Export, format!("export '{id}'"), "root")
    }

    /// A user called `name`.
    pub fn named(name: &str) -> Self {
        Self::new(UserKind::Named, format!("block device '{name}'"), "root")
    }

    /// The job `id` of type `job_type`, to which the node is `edge` ("main node", "active node"). Its root stays at
    /// its node when something is put there, and the node's links stay as they are while it runs.
    pub fn job(job_type: &str, id: &str, edge: &'static str) -> Self {
        let words = format!("{job_type} job '{id}'");
        Self { pins: true, ..Self::new(UserKind::Job(job_type.into()), words, edge) }
    }

    /// A job to which it does not matter what its node stands on, and which goes along when the node is replaced.
    #[must_use]
    pub fn movable(self) -> Self {
        Self { pins: false, ..self }
    }

    fn new(kind: UserKind, description: String, edge: &'static str) -> Self {
        Self { kind, description: description.into(), edge, pins: false }
    }

    /// Its kind.
    pub fn kind(&self) -> &UserKind {
        &self.kind
    }

    pub(crate) fn job_type(&self) -> Option<Arc<str>> {
        match &self.kind {
            UserKind::Job(job_type) => Some(job_type.clone()),
            UserKind::Export | UserKind::Named => None,
        }
    }

    /// What its node is to it: the name of the edge in messages and queries.
    pub fn edge(&self) -> &'static str {
        self.edge
    }

    /// Whether its root moves along when something is put in the place of its node.
    pub fn follows(&self) -> bool {
        !self.pins
    }
}

impl fmt::Display for User {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.description)
    }
}
