//! What a test says that has to do without a peer.

use std::collections::BTreeSet;
use std::fs::OpenOptions;
use std::io::Write;
use std::sync::{Mutex, PoisonError};

static SAID: Mutex<BTreeSet<String>> = Mutex::new(BTreeSet::new());

/// Says, once, that `test` (the package's name in front) does not run, or does not ask `peer`, because it is not here:
/// on standard error, past the test harness, and in the file that `MILLPOND_SKIP_LOG` names, for the closing summary.
///
/// Panics when that file cannot be written.
pub fn skip(test: &str, peer: &str) {
    let line = format!("{test}: no {peer}");
    if !SAID.lock().unwrap_or_else(PoisonError::into_inner).insert(line.clone()) {
        return;
    }
    // A closed standard error is nobody's failure.
    let _ = writeln!(std::io::stderr(), "skipped: {line}");
    if let Some(log) = std::env::var_os("MILLPOND_SKIP_LOG") {
        let log = OpenOptions::new().create(true).append(true).open(&log);
        let written = log.and_then(|mut log| log.write_all(format!("{line}\n").as_bytes()));
        written.expect("the file that MILLPOND_SKIP_LOG names can be written");
    }
}
