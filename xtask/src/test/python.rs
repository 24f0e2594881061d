//! Python libraries for interop tests, in a virtual environment of our own below `target`.
//!
//! Invariant: no host is named here, and nothing outside of that environment is changed.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// Where the environment is.
fn environment(root: &Path) -> PathBuf {
    let target =
        std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root.join("target"), |dir| root.join(dir));
    target.join("python")
}

/// Whether tests find a module there, or with the machine's own interpreter.
pub(super) fn knows(root: &Path, module: &str) -> bool {
    let own = environment(root).join("bin/python3");
    [own.as_path(), Path::new("python3")].into_iter().any(|python| {
        let mut import = Command::new(python);
        import.args(["-c", &format!("import {module}")]).stdout(Stdio::null()).stderr(Stdio::null());
        import.status().is_ok_and(|status| status.success())
    })
}

/// Installs packages of PyPI, as the machine's pip is set up.
pub(super) fn install(root: &Path, packages: &[&str]) -> Result<(), String> {
    let environment = environment(root);
    let python = environment.join("bin/python3");
    if !python.exists() {
        run(Command::new("python3").args(["-m", "venv"]).arg(&environment))?;
    }
    let pip = [
        "-m",
        "pip",
        "--quiet",
        "--disable-pip-version-check",
        "--no-input",
        "--timeout",
        "20",
        "--retries",
        "1",
    ];
    run(Command::new(&python).args(pip).arg("install").args(packages))
}

fn run(command: &mut Command) -> Result<(), String> {
    println!("    {} {}", command.get_program().display(), words(command));
    let status = command.stdin(Stdio::null()).status().map_err(|error| format!("python3: {error}"))?;
    if status.success() { Ok(()) } else { Err(format!("python3 {} failed", words(command))) }
}

fn words(command: &Command) -> String {
    command.get_args().map(|word| word.to_string_lossy()).collect::<Vec<_>>().join(" ")
}
