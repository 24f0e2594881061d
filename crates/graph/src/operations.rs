//! The second table: which classes of operations are refused in which condition of the node, and in which words.
//!
//! Invariants: the rows of an operation stand in the order in which they are tried; what no row refuses is allowed
//! as far as the permission table goes.

use block::{BlockError, ErrorKind};

/// A class of operations on a node.
#[derive(Clone, Copy, PartialEq, Eq, Debug, PartialOrd, Ord)]
pub enum Operation {
    /// Deleting the node.
    Delete,
    /// Changing its size.
    Resize,
    /// Starting a job on it.
    StartJob,
    /// Replacing or cutting one of its links to children; inserting a filter into one.
    ChangeLink,
    /// Putting another node in its place.
    Replace,
    /// Taking it, a filter, out.
    RemoveFilter,
    /// Attaching a writable export to it.
    ExportWritable,
}

impl Operation {
    /// All of them.
    pub const ALL: [Self; 7] = [
        Self::Delete,
        Self::Resize,
        Self::StartJob,
        Self::ChangeLink,
        Self::Replace,
        Self::RemoveFilter,
        Self::ExportWritable,
    ];

    /// In words, for people.
    pub const fn words(self) -> &'static str {
        match self {
            Self::Delete => "delete the node",
            Self::Resize => "change its size",
            Self::StartJob => "start a job on it",
            Self::ChangeLink => "replace or cut a link to a child, insert a filter into one",
            Self::Replace => "put another node in its place",
            Self::RemoveFilter => "take it, a filter, out",
            Self::ExportWritable => "export it writable",
        }
    }
}

/// A condition that a node may be in.
#[derive(Clone, Copy, PartialEq, Eq, Debug, PartialOrd, Ord)]
pub enum Condition {
    /// An export or named user is attached to it.
    UsedByExport,
    /// A job is attached to it.
    UsedByJob,
    /// A job is attached to it that needs its links as they are.
    PinnedByJob,
    /// It is the backing child of a node.
    UsedAsBacking,
    /// The user holds no reference to it.
    NotOwned,
    /// It is the child of a node.
    HasParents,
    /// It refuses writes.
    ReadOnly,
}

impl Condition {
    /// All of them.
    pub const ALL: [Self; 7] = [
        Self::UsedByExport,
        Self::UsedByJob,
        Self::PinnedByJob,
        Self::UsedAsBacking,
        Self::NotOwned,
        Self::HasParents,
        Self::ReadOnly,
    ];

    /// In words, for people.
    pub const fn words(self) -> &'static str {
        match self {
            Self::UsedByExport => "used by an export or a named user",
            Self::UsedByJob => "used by a job",
            Self::PinnedByJob => "used by a job that needs its links as they are",
            Self::UsedAsBacking => "backing child of a node",
            Self::NotOwned => "not added by the user",
            Self::HasParents => "child of a node",
            Self::ReadOnly => "read-only",
        }
    }
}

/// An operation that is refused in a condition.
pub struct Rule {
    /// What is refused.
    pub operation: Operation,
    /// When.
    pub condition: Condition,
    /// The kind of the error.
    pub kind: ErrorKind,
    /// Its words. `{node}` is the node, `{by}` who brings about the condition, `{role}` and `{child}` the link.
    pub message: &'static str,
}

const BUSY_JOB: &str = "Node '{node}' is busy: block device is in use by block job: {by}";
const BUSY_BACKING: &str = "Node '{node}' is busy: node is used as backing hd of '{by}'";

/// The table. The words are QEMU 10.0.2's.
pub const RULES: &[Rule] = &[
    rule(Operation::Delete, Condition::UsedByExport, ErrorKind::Busy, "Node {node} is in use"),
    rule(Operation::Delete, Condition::UsedByJob, ErrorKind::Busy, BUSY_JOB),
    rule(Operation::Delete, Condition::UsedAsBacking, ErrorKind::Busy, BUSY_BACKING),
    rule(Operation::Delete, Condition::NotOwned, ErrorKind::Busy, "Node {node} is not owned by the monitor"),
    rule(Operation::Delete, Condition::HasParents, ErrorKind::Busy, "Block device {node} is in use"),
    rule(Operation::Resize, Condition::UsedByJob, ErrorKind::Busy, BUSY_JOB),
    rule(Operation::Resize, Condition::UsedAsBacking, ErrorKind::Busy, BUSY_BACKING),
    rule(Operation::Resize, Condition::ReadOnly, ErrorKind::ReadOnly, "Image is read-only"),
    rule(Operation::StartJob, Condition::UsedByJob, ErrorKind::Busy, BUSY_JOB),
    rule(
        Operation::ChangeLink,
        Condition::PinnedByJob,
        ErrorKind::Busy,
        "Cannot change frozen '{role}' link from '{node}' to '{child}'",
    ),
    rule(Operation::Replace, Condition::PinnedByJob, ErrorKind::Busy, BUSY_JOB),
    rule(Operation::RemoveFilter, Condition::PinnedByJob, ErrorKind::Busy, BUSY_JOB),
    rule(
        Operation::ExportWritable,
        Condition::ReadOnly,
        ErrorKind::ReadOnly,
        "Cannot export read-only node as writable",
    ),
];

const fn rule(operation: Operation, condition: Condition, kind: ErrorKind, message: &'static str) -> Rule {
    Rule { operation, condition, kind, message }
}

/// The words that fill in a message.
#[derive(Clone, Copy, Default)]
pub(crate) struct Words<'a> {
    pub(crate) node: &'a str,
    pub(crate) by: &'a str,
    pub(crate) role: &'a str,
    pub(crate) child: &'a str,
}

impl Rule {
    pub(crate) fn refusal(&self, words: Words<'_>) -> BlockError {
        let fields =
            [("{node}", words.node), ("{by}", words.by), ("{role}", words.role), ("{child}", words.child)];
        let mut text = String::new();
        let mut rest = self.message;
        // Piece by piece, so that braces inside names stay what they are.
        while let Some((at, (field, value))) =
            fields.iter().filter_map(|f| Some((rest.find(f.0)?, f))).min_by_key(|(at, _)| *at)
        {
            text += &rest[..at];
            text += value;
            rest = &rest[at + field.len()..];
        }
        BlockError::new(self.kind, text + rest)
    }
}

/// The rules for `operation`, in order.
pub(crate) fn rules(operation: Operation) -> impl Iterator<Item = &'static Rule> {
    RULES.iter().filter(move |rule| rule.operation == operation)
}
