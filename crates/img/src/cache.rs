//! Cache modes of `-t` and `-T`.

use serde_json::{Map, Value, json};

use crate::failure::{Failure, Result};

/// How an image is opened as to the host's page cache and flushes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Cache {
    /// Past the page cache.
    pub(crate) direct: bool,
    /// Flushes are ignored.
    pub(crate) no_flush: bool,
    /// Durable when answered.
    pub(crate) writethrough: bool,
    /// The page cache is left as it is found.
    pub(crate) transient: bool,
}

const MODES: [(&str, Cache); 6] = [
    ("none", Cache::NONE),
    ("off", Cache::NONE),
    ("directsync", Cache { writethrough: true, ..Cache::NONE }),
    ("writeback", Cache::WRITEBACK),
    ("unsafe", Cache::UNSAFE),
    ("writethrough", Cache { writethrough: true, ..Cache::WRITEBACK }),
];

impl Cache {
    /// Through the page cache, durable after a flush.
    pub(crate) const WRITEBACK: Self =
        Self { direct: false, no_flush: false, writethrough: false, transient: false };
    /// Past the page cache, durable after a flush.
    const NONE: Self = Self { direct: true, ..Self::WRITEBACK };
    /// Through the page cache, and never flushed.
    pub(crate) const UNSAFE: Self = Self { no_flush: true, ..Self::WRITEBACK };

    /// The same, but the page cache is left as it is found.
    pub(crate) const fn transient(self) -> Self {
        Self { transient: true, ..self }
    }

    /// The mode of that name; `what` is what messages call it.
    pub(crate) fn named(name: Option<&str>, what: &str, default: Self) -> Result<Self> {
        let Some(name) = name else { return Ok(default) };
        let found = MODES.iter().find(|(mode, _)| *mode == name).map(|(_, cache)| *cache);
        found.ok_or_else(|| Failure::new(format!("Invalid {what} option: {name}")))
    }

    /// As options of a node.
    pub(crate) fn options(self) -> Map<String, Value> {
        let cache = json!({ "direct": self.direct, "no-flush": self.no_flush, "transient": self.transient });
        Map::from_iter([("cache".to_owned(), cache)])
    }
}
