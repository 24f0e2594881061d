//! `cargo xtask fuzz`: builds the targets of `fuzz/` and runs them, each for a while.
//!
//! Invariants: the list of targets is `fuzz/Cargo.toml`; the canary counts as passed when it is found. The
//! toolchain that is there is used: nightly brings the address sanitizer, which bounds what may be allocated.

mod build;
mod seeds;

use build::Build;
use std::fs;
use std::path::Path;
use std::process::Command;

/// Options of `cargo xtask fuzz`.
#[derive(clap::Args)]
pub(crate) struct Options {
    /// Which targets; all of them when none is named.
    targets: Vec<String>,
    /// How long each target runs.
    #[arg(long, default_value_t = 60)]
    seconds: u32,
}

/// The target that must fail.
const CANARY: &str = "canary";
/// Enough for the longest frame and for images with a few clusters.
const INPUT_MAX: &str = "65536";
/// No image, peer or frame may make us allocate more at once; held where there is a sanitizer.
const ALLOCATION_MAX_MIB: &str = "64";
/// One input may take this long, which is forever.
const INPUT_SECONDS_MAX: &str = "10";
/// libdeflate includes one file twice, each with statics of its own, which the sanitizer takes for a clash.
const SANITIZER_OPTIONS: &str = "detect_odr_violation=0";

/// Fuzzes; returns whether nothing was found, and the canary was.
pub(crate) fn run(root: &Path, options: &Options) -> Result<bool, String> {
    let folder = root.join("fuzz");
    let manifest =
        fs::read_to_string(folder.join("Cargo.toml")).map_err(|error| format!("fuzz/Cargo.toml: {error}"))?;
    let known = targets(&manifest);
    if let Some(unknown) = options.targets.iter().find(|target| !known.contains(&target.as_str())) {
        return Err(format!("no target `{unknown}`: there are {}", known.join(", ")));
    }
    let build = Build::make(&folder)?;
    println!("built with {build}");
    let is_wanted =
        |target: &&str| options.targets.is_empty() || options.targets.iter().any(|name| name == target);
    let mut failed = Vec::new();
    for target in known.into_iter().filter(is_wanted) {
        println!("\n==> {target}");
        let survived = fuzz(&folder, &build, target, options.seconds)?;
        if survived == (target == CANARY) {
            failed.push(target);
        }
    }
    match failed.as_slice() {
        [] => println!("\nfuzz: nothing found"),
        failed => println!("\nfuzz: FAILED: {}; the inputs are in fuzz/artifacts", failed.join(", ")),
    }
    Ok(failed.is_empty())
}

/// Names of the binaries of `manifest`.
fn targets(manifest: &str) -> Vec<&str> {
    let binaries = manifest.split("[[bin]]").skip(1);
    binaries.filter_map(|binary| binary.split("name = \"").nth(1)?.split('"').next()).collect()
}

/// Whether `target` survives; what it says when it does not is shown.
fn fuzz(folder: &Path, build: &Build, target: &str, seconds: u32) -> Result<bool, String> {
    let [corpus, artifacts] = ["corpus", "artifacts"].map(|name| folder.join(name).join(target));
    for folder in [&corpus, &artifacts] {
        fs::create_dir_all(folder).map_err(|error| format!("{}: {error}", folder.display()))?;
    }
    seeds::plant(target, &corpus)?;
    let output = Command::new(build.binary(folder, target))
        .arg(format!("-max_total_time={seconds}"))
        .arg(format!("-artifact_prefix={}/", artifacts.display()))
        .args([format!("-max_len={INPUT_MAX}"), format!("-timeout={INPUT_SECONDS_MAX}")])
        .args([format!("-malloc_limit_mb={ALLOCATION_MAX_MIB}"), "-print_final_stats=1".to_owned()])
        .arg(&corpus)
        .env("ASAN_OPTIONS", SANITIZER_OPTIONS)
        .output()
        .map_err(|error| format!("{target}: {error}"))?;
    let said = String::from_utf8_lossy(&output.stderr);
    let is_shown =
        |line: &&str| if output.status.success() { line.starts_with("stat::") } else { !is_progress(line) };
    said.lines().filter(is_shown).for_each(|line| println!("{line}"));
    Ok(output.status.success())
}

/// Whether a line only says how far libFuzzer has come.
fn is_progress(line: &str) -> bool {
    line.starts_with('#') || line.starts_with("INFO:")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_manifest_lists_the_targets() {
        let manifest = include_str!("../../../fuzz/Cargo.toml");
        let found = targets(manifest);
        assert!(found.contains(&CANARY) && found.contains(&"qcow2_tables"), "{found:?}");
        assert_eq!(targets("[package]\nname = \"p\"\n"), [""; 0]);
    }
}
