//! Programs and powers that a test needs and a machine may lack.
#![allow(dead_code, reason = "each test uses what it needs")]

use std::io::Write;
use std::process::{Command, Stdio};

/// Says, for people and for the closing summary, that `test` did not run.
pub(crate) fn skip(test: &str, lack: &str) {
    println!("skipped: {test}: no {lack}");
    if let Some(log) = std::env::var_os("MILLPOND_SKIP_LOG") {
        let mut log = std::fs::OpenOptions::new().append(true).create(true).open(log).unwrap();
        writeln!(log, "{test}: no {lack}").unwrap();
    }
}

/// Whether `program` is there; says so when it is not.
pub(crate) fn has(test: &str, program: &str) -> bool {
    let there = Command::new(program).arg("--version").stdout(Stdio::null()).status().is_ok();
    if !there {
        skip(test, program);
    }
    there
}
