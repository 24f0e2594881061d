//! What a bench did not measure, and why; and the file of its results.

use std::path::{Path, PathBuf};

use serde_json::{Map, Value, json};

/// Names and reasons, each pair once.
#[derive(Default)]
pub(super) struct Skipped(Vec<(String, String)>);

impl Skipped {
    /// Notes that `name` was not measured.
    pub(super) fn note(&mut self, name: &str, reason: &str) {
        let skipped = (name.to_owned(), reason.to_owned());
        if !self.0.contains(&skipped) {
            eprintln!("skipped: {name}: {reason}");
            self.0.push(skipped);
        }
    }

    /// Whether what `name` needs is there; notes it otherwise.
    pub(super) fn keep_if(&mut self, name: &str, needed: Result<PathBuf, String>) -> bool {
        needed.map_err(|reason| self.note(name, &reason)).is_ok()
    }

    /// Whether anything of `name` was skipped.
    pub(super) fn lacks(&self, name: &str) -> bool {
        self.0.iter().any(|(skipped, _)| skipped == name)
    }

    /// Prints them.
    pub(super) fn print(&self) {
        self.0.iter().for_each(|(name, reason)| println!("skipped: {name}: {reason}"));
    }

    /// Writes `results` to `path`, with them and what machine it was.
    pub(super) fn write_json(&self, path: &Path, mut results: Map<String, Value>) -> Result<(), String> {
        let kernel = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
        let skipped = self.0.iter().map(|(name, reason)| json!({"name": name, "reason": reason}));
        results.insert("kernel".to_owned(), json!(kernel.trim()));
        let cpus = std::thread::available_parallelism().map_or(0, usize::from);
        results.insert("cpus".to_owned(), json!(cpus));
        results.insert("skipped".to_owned(), skipped.collect());
        let report = Value::Object(results);
        std::fs::write(path, format!("{report:#}\n")).map_err(|error| format!("{}: {error}", path.display()))
    }
}
