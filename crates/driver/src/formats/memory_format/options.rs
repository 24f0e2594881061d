//! The options of `memory-format`.

use block::{Alignment, BlockError, ErrorKind, Result};
use serde::Deserialize;

use super::table::SIZE_MAX;

const CLUSTER_MIN: u64 = 512;
const CLUSTER_MAX: u64 = 2 << 20;
/// With more, hardly any request would come to an end.
const PROBABILITY_MAX: f64 = 0.95;

/// What `blockdev-add` takes besides the children.
#[derive(Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub(crate) struct Options {
    /// Virtual size in bytes.
    pub(super) size: u64,
    /// Unit of allocation in bytes.
    #[serde(default = "default_cluster")]
    pub(super) cluster_size: u64,
    /// Most bytes of clusters that are held at a time.
    pub(super) quota: Option<u64>,
    /// Makes look-ups pretend that their table is not in memory.
    pub(super) table_misses: Option<TableMisses>,
}

/// How often, and from which seed.
#[derive(Deserialize, Clone, Copy)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub(super) struct TableMisses {
    /// Share of look-ups that miss.
    pub(super) probability: f64,
    /// Where the sequence begins.
    #[serde(default)]
    pub(super) seed: u64,
}

const fn default_cluster() -> u64 {
    64 << 10
}

impl Options {
    /// Refuses what makes no sense; answers the cluster size.
    pub(super) fn check(&self, node: &str) -> Result<Alignment> {
        let refuse =
            |what: String| Err(BlockError::new(ErrorKind::Invalid, format!("node '{node}': {what}")));
        if self.size > SIZE_MAX {
            return refuse(format!("'size' is {}, at most {SIZE_MAX} is possible", self.size));
        }
        if let Some(misses) = self.table_misses
            && !(0.0..=PROBABILITY_MAX).contains(&misses.probability)
        {
            return refuse(format!("'table-misses.probability' must be from 0 to {PROBABILITY_MAX}"));
        }
        match Alignment::new(self.cluster_size) {
            Some(cluster) if (CLUSTER_MIN..=CLUSTER_MAX).contains(&self.cluster_size) => Ok(cluster),
            _ => refuse(format!(
                "'cluster-size' is {}, it must be a power of two from {CLUSTER_MIN} to {CLUSTER_MAX}",
                self.cluster_size
            )),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(options: serde_json::Value) -> Result<u64> {
        let options: Options = serde_json::from_value(options).expect("well-typed");
        options.check("n").map(Alignment::bytes)
    }

    #[test]
    fn defaults_and_bounds() {
        use serde_json::json;
        assert_eq!(check(json!({"size": 1000})).expect("small"), 65536);
        for bad in [
            json!({"size": 1u64 << 50}),
            json!({"size": 1, "cluster-size": 0}),
            json!({"size": 1, "cluster-size": 256}),
            json!({"size": 1, "cluster-size": 65537}),
            json!({"size": 1, "cluster-size": 4 << 20}),
            json!({"size": 1, "table-misses": {"probability": 1.0}}),
            json!({"size": 1, "table-misses": {"probability": -0.1}}),
        ] {
            let error = check(bad.clone()).expect_err("accepted");
            assert!(error.to_string().starts_with("node 'n': '"), "{bad}: {error}");
        }
    }
}
