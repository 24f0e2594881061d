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
    /// A job of this type (`stream`). Its root stays at its node, and the node's links stay as they are.
    Job(Arc<str>),
}

/// Who holds a root, in the words of messages.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct User {
    kind: UserKind,
    description: Arc<str>,
    edge: &'static str,
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

    /// The job `id` of type `job_type`, to which the node is `edge` ("main node", "active node").
    pub fn job(job_type: &str, id: &str, edge: &'static str) -> Self {
        Self::new(UserKind::Job(job_type.into()), format!("{job_type} job '{id}'"), edge)
    }

    fn new(kind: UserKind, description: String, edge: &'static str) -> Self {
        Self { kind, description: description.into(), edge }
    }

    /// Its kind.
    pub fn kind(&self) -> &UserKind {
        &self.kind
    }

    /// What its node is to it: the name of the edge in messages and queries.
    pub fn edge(&self) -> &'static str {
        self.edge
    }

    /// Whether its root moves along when something is put in the place of its node.
    pub fn follows(&self) -> bool {
        !matches!(self.kind, UserKind::Job(_))
    }
}

impl fmt::Display for User {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.description)
    }
}
