//! One cargo command of the test run: shown while it runs, its summary kept.

use std::io::{BufRead, BufReader, IsTerminal, Read, Write};
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread;

/// What a step left.
#[derive(Default)]
pub(super) struct Output {
    pub(super) passed: bool,
    /// The test runner's closing lines, from its summary on.
    pub(super) summary: Vec<String>,
}

impl Output {
    /// Of a step without a test runner.
    pub(super) fn of(passed: bool) -> Self {
        Self { passed, summary: Vec::new() }
    }
}

/// Runs `cargo` with `arguments` split at spaces; an empty value in `env` sets nothing.
pub(super) fn cargo(root: &Path, arguments: &str, env: &[(&str, &str)]) -> Result<Output, String> {
    println!("    cargo {arguments}");
    let mut command = Command::new(program());
    command.args(arguments.split(' ')).current_dir(root);
    command.envs(env.iter().copied().filter(|(_, value)| !value.is_empty()));
    if std::io::stderr().is_terminal() {
        command.env("CARGO_TERM_COLOR", "always");
    }
    let mut child = command
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|error| format!("cannot run cargo {arguments}: {error}"))?;
    let (out, err) = (child.stdout.take(), child.stderr.take());
    let summary = thread::scope(|scope| {
        let err = scope.spawn(|| err.map_or_else(Vec::new, |from| pass_on(from, std::io::stderr())));
        let mut summary = out.map_or_else(Vec::new, |from| pass_on(from, std::io::stdout()));
        summary.extend(err.join().unwrap_or_default());
        summary
    });
    let status = child.wait().map_err(|error| format!("cargo {arguments}: {error}"))?;
    Ok(Output { passed: status.success(), summary })
}

/// Whether the machine has the runner we prefer: it runs tests in processes of their own and stops hung ones.
pub(super) fn has_nextest(root: &Path) -> bool {
    let mut command = Command::new(program());
    command.args(["nextest", "--version"]).current_dir(root).stdout(Stdio::null()).stderr(Stdio::null());
    command.status().is_ok_and(|status| status.success())
}

/// The cargo that runs us.
pub(crate) fn program() -> String {
    std::env::var("CARGO").unwrap_or_else(|_| "cargo".to_owned())
}

/// Copies line by line and keeps what belongs to a summary: nextest's from its heading to the end, each
/// `test result` of the built-in runner.
fn pass_on(from: impl Read, mut to: impl Write) -> Vec<String> {
    let mut summary: Vec<String> = Vec::new();
    for line in BufReader::new(from).split(b'\n').map_while(Result::ok) {
        let line = String::from_utf8_lossy(&line).into_owned();
        // A closed terminal is no reason to fail the step.
        let _ = writeln!(to, "{line}");
        let after_heading = summary.first().is_some_and(|first| first.contains("Summary"));
        if after_heading || line.contains("Summary [") || line.starts_with("test result:") {
            summary.push(line);
        }
    }
    summary
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_summary_is_kept_and_all_is_shown() {
        let text = "running 2 tests\ntest result: ok. 2 passed\nnoise\n     Summary [ 1s] 3 tests run\n        FAIL a::b\n";
        let mut shown = Vec::new();
        let kept = pass_on(text.as_bytes(), &mut shown);
        assert_eq!(String::from_utf8_lossy(&shown), text);
        assert_eq!(kept, ["test result: ok. 2 passed", "     Summary [ 1s] 3 tests run"]);
        let nextest = pass_on(&text.as_bytes()[48..], Vec::new());
        assert_eq!(nextest, ["     Summary [ 1s] 3 tests run", "        FAIL a::b"]);
    }
}
