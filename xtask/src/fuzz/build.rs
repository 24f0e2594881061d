//! Builds the fuzz targets with coverage, and with the address sanitizer where there is a nightly toolchain.

use std::fmt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// What libFuzzer needs of a program: counters and comparisons it can see.
const COVERAGE: &[&str] = &[
    "--cfg=fuzzing",
    "-Cpasses=sancov-module",
    "-Cllvm-args=-sanitizer-coverage-level=4",
    "-Cllvm-args=-sanitizer-coverage-inline-8bit-counters",
    "-Cllvm-args=-sanitizer-coverage-pc-table",
    "-Cllvm-args=-sanitizer-coverage-trace-compares",
    "-Cllvm-args=-simplifycfg-branch-fold-threshold=0",
    "-Ccodegen-units=1",
];
const SANITIZER: &str = "-Zsanitizer=address";
const NIGHTLY: &str = "nightly";

/// Finished targets.
pub(super) struct Build {
    /// The triple: with it named, build scripts get no coverage.
    host: String,
    is_nightly: bool,
}

impl Build {
    /// Builds all targets of the crate in `folder`.
    pub(super) fn make(folder: &Path) -> Result<Self, String> {
        let is_nightly = version_of(NIGHTLY).is_some();
        let toolchain = if is_nightly { NIGHTLY } else { "" };
        let version = version_of(toolchain).ok_or("no rustc in PATH")?;
        let host =
            version.lines().find_map(|line| line.strip_prefix("host: ")).ok_or("rustc names no host")?;
        let build = Self { host: host.to_owned(), is_nightly };
        let mut flags = COVERAGE.join(" ");
        if is_nightly {
            flags = format!("{flags} {SANITIZER}");
        }
        let mut command = with_toolchain(toolchain, "cargo");
        command.args(["build", "--release", "--target", host]).env("RUSTFLAGS", flags).current_dir(folder);
        let status = command.status().map_err(|error| format!("cargo: {error}"))?;
        if status.success() { Ok(build) } else { Err("the fuzz targets do not build".to_owned()) }
    }

    /// The program of `target`.
    pub(super) fn binary(&self, folder: &Path, target: &str) -> PathBuf {
        folder.join("target").join(&self.host).join("release").join(target)
    }
}

impl fmt::Display for Build {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.is_nightly {
            "nightly and its address sanitizer"
        } else {
            "the default toolchain, without a sanitizer: allocations are not bounded (rustup toolchain install nightly)"
        })
    }
}

fn version_of(toolchain: &str) -> Option<String> {
    let output = with_toolchain(toolchain, "rustc").arg("-vV").stderr(Stdio::null()).output().ok()?;
    output.status.success().then(|| String::from_utf8_lossy(&output.stdout).into_owned())
}

/// `program` of a rustup toolchain, the default one when it is not named.
fn with_toolchain(toolchain: &str, program: &str) -> Command {
    let mut command = Command::new(program);
    // Set by the cargo that runs us, for its own toolchain.
    command.env_remove("CARGO").env_remove("RUSTC").env_remove("RUSTUP_TOOLCHAIN");
    if !toolchain.is_empty() {
        command.env("RUSTUP_TOOLCHAIN", toolchain);
    }
    command
}
