//! Labels: names for kinds of requests, by which test filters choose and count them.

use std::sync::atomic::{AtomicU64, Ordering};

use block::{BlockError, ByteRange, ErrorKind, Priority, Result};
use flow::{Op, Request};
use serde::Deserialize;

/// Operations by the names that options have for them.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum OpName {
    /// Reads.
    Read,
    /// Writes.
    Write,
    /// Zeroing.
    WriteZeroes,
    /// Discards.
    Discard,
    /// Flushes.
    Flush,
    /// Requests to bring bytes near.
    Cache,
}

/// Priorities by the names that options have for them.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum PriorityName {
    /// A guest waits for it.
    Demand,
    /// Somebody will probably want it soon.
    Prefetch,
    /// Background copying.
    Fill,
}

/// Which requests bear a label: those for which all that is given is true.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct LabelOptions {
    /// The name, for counters.
    pub label: Option<String>,
    /// It does this.
    pub op: Option<OpName>,
    /// It touches a byte from here on.
    pub offset: Option<u64>,
    /// It touches one of so many bytes from `offset` (or 0) on.
    pub length: Option<u64>,
    /// It has this priority.
    pub priority: Option<PriorityName>,
}

/// A label and how often it was seen.
pub(crate) struct Label {
    name: String,
    op: Option<Op>,
    range: Option<ByteRange>,
    priority: Option<Priority>,
    seen: AtomicU64,
}

impl Label {
    /// The label that `options` describe; called `otherwise` when they do not name it.
    pub(crate) fn new(options: LabelOptions, otherwise: String) -> Result<Self> {
        let LabelOptions { label, op, offset, length, priority } = options;
        let name = label.unwrap_or(otherwise);
        let range = match (offset, length) {
            (None, None) => None,
            (offset, length) => {
                let start = offset.unwrap_or(0);
                let range = ByteRange::checked(start, length.unwrap_or(u64::MAX - start));
                Some(range.ok_or_else(|| {
                    let context = format!("label '{name}': offset and length reach beyond all bytes");
                    BlockError::new(ErrorKind::Invalid, context)
                })?)
            }
        };
        let (op, priority) = (op.map(OpName::op), priority.map(PriorityName::priority));
        Ok(Self { name, op, range, priority, seen: AtomicU64::new(0) })
    }

    /// Its name.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// Whether `rq` bears it.
    pub(crate) fn fits(&self, rq: &Request) -> bool {
        self.op.is_none_or(|op| op == rq.op)
            && self.range.is_none_or(|range| range.overlaps(rq.range))
            && self.priority.is_none_or(|priority| priority == rq.priority)
    }

    /// Counts a request that bears it; answers its number, from 1 on.
    pub(crate) fn count(&self) -> u64 {
        self.seen.fetch_add(1, Ordering::Relaxed) + 1
    }

    /// Requests counted so far.
    pub(crate) fn seen(&self) -> u64 {
        self.seen.load(Ordering::Relaxed)
    }
}

impl OpName {
    fn op(self) -> Op {
        match self {
            Self::Read => Op::Read,
            Self::Write => Op::Write,
            Self::WriteZeroes => Op::WriteZeroes,
            Self::Discard => Op::Discard,
            Self::Flush => Op::Flush,
            Self::Cache => Op::Cache,
        }
    }
}

impl PriorityName {
    fn priority(self) -> Priority {
        match self {
            Self::Demand => Priority::Demand,
            Self::Prefetch => Priority::Prefetch,
            Self::Fill => Priority::Fill,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn label(options: LabelOptions) -> Label {
        Label::new(options, "rule 1".to_owned()).unwrap()
    }

    #[test]
    fn all_that_is_given_must_be_true() {
        let read = |start, len| Request::new(Op::Read, ByteRange::new(start, len));
        let all = label(LabelOptions::default());
        assert!(all.fits(&read(0, 1)) && all.fits(&Request::flush()) && all.name() == "rule 1");
        let options =
            LabelOptions { op: Some(OpName::Read), offset: Some(10), length: Some(5), ..Default::default() };
        let some = label(options);
        for (start, len, expected) in
            [(0, 10, false), (0, 11, true), (14, 1, true), (15, 9, false), (12, 0, false)]
        {
            assert_eq!(some.fits(&read(start, len)), expected, "{start} {len}");
        }
        assert!(!some.fits(&Request::new(Op::Write, ByteRange::new(10, 5))));
        let from = label(LabelOptions { offset: Some(10), ..Default::default() });
        assert!(from.fits(&read(1 << 60, 1)) && !from.fits(&read(9, 1)) && !from.fits(&Request::flush()));
        let fill = label(LabelOptions { priority: Some(PriorityName::Fill), ..Default::default() });
        assert!(!fill.fits(&read(0, 1)) && fill.fits(&read(0, 1).with_priority(Priority::Fill)));
        let beyond = LabelOptions { offset: Some(2), length: Some(u64::MAX), ..Default::default() };
        assert!(Label::new(beyond, String::new()).is_err());
    }
}
