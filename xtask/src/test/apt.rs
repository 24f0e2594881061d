//! Installs Debian packages for root, QEMU's from the release's backports (the release's own is too old).
//!
//! Invariant: no host is named here; the backports suite is derived from the sources that the machine has.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The packages that interop needs newer than the release has them; of two versions one would remove the other.
const FROM_BACKPORTS: [&str; 2] = ["qemu-utils", "qemu-system-x86"];
const SOURCES: &str = "/etc/apt";
const ADDED: &str = "/etc/apt/sources.list.d/millpond-backports";

/// Installs `packages`, each on its own when they cannot all be had together.
pub(super) fn install(packages: &[&str]) -> Result<(), String> {
    let is_root = fs::metadata("/proc/self").is_ok_and(|process| process.uid() == 0);
    if !is_root || !Path::new("/usr/bin/apt-get").exists() {
        return Err("this needs root and apt-get; install them by hand".to_owned());
    }
    let backports = packages.iter().any(is_newer).then(add_backports).flatten();
    // An unreachable source must not keep us from those that answer.
    let _ = apt_get(&["update"]);
    let suite_of = |package: &str| backports.as_deref().filter(|_| is_newer(&package));
    let from_release: Vec<&str> =
        packages.iter().copied().filter(|package| suite_of(package).is_none()).collect();
    let together = !from_release.is_empty() && install_from(None, &from_release).is_ok();
    let single = packages.iter().filter(|package| suite_of(package).is_some() || !together);
    let failed: Vec<&str> =
        single.copied().filter(|package| install_from(suite_of(package), &[package]).is_err()).collect();
    if failed.is_empty() { Ok(()) } else { Err(format!("apt-get has no {}", failed.join(", "))) }
}

fn is_newer(package: &&str) -> bool {
    FROM_BACKPORTS.contains(package)
}

fn install_from(suite: Option<&str>, packages: &[&str]) -> Result<(), String> {
    let mut arguments = vec!["install", "--yes", "--no-install-recommends"];
    arguments.extend(suite.into_iter().flat_map(|suite| ["-t", suite]));
    arguments.extend(packages);
    apt_get(&arguments)
}

fn apt_get(arguments: &[&str]) -> Result<(), String> {
    println!("    apt-get {}", arguments.join(" "));
    let status = Command::new("apt-get")
        .args(["-qq", "-o", "DPkg::Lock::Timeout=120"])
        .args(arguments)
        .env("DEBIAN_FRONTEND", "noninteractive")
        .status()
        .map_err(|error| format!("apt-get: {error}"))?;
    if status.success() { Ok(()) } else { Err(format!("apt-get {} failed", arguments.join(" "))) }
}

/// Adds the backports of the machine's release to its sources; returns the suite, or `None` where the release
/// or its sources cannot be told.
fn add_backports() -> Option<String> {
    let release = fs::read_to_string("/etc/os-release").ok()?;
    let codename = release.lines().find_map(|line| line.strip_prefix("VERSION_CODENAME="))?;
    let suite = format!("{codename}-backports");
    let texts: Vec<(PathBuf, String)> = source_files()
        .into_iter()
        .filter_map(|path| Some((path.clone(), fs::read_to_string(path).ok()?)))
        .collect();
    if texts.iter().any(|(_, text)| text.split_whitespace().any(|word| word == suite)) {
        return Some(suite);
    }
    let (ending, source) = texts.iter().find_map(|(path, text)| {
        let ending = path.extension()?.to_str()?.to_owned();
        let derived = if ending == "sources" {
            stanza_for(text, codename, &suite)
        } else {
            line_for(text, codename, &suite)
        };
        Some((ending, derived?))
    })?;
    fs::write(format!("{ADDED}.{ending}"), source).ok()?;
    Some(suite)
}

fn source_files() -> Vec<PathBuf> {
    let mut files = vec![Path::new(SOURCES).join("sources.list")];
    let parts = fs::read_dir(Path::new(SOURCES).join("sources.list.d"));
    files.extend(parts.into_iter().flatten().flatten().map(|entry| entry.path()));
    files
}

/// The paragraph of `text` that offers the main part of `codename`, asking for `suite` instead.
fn stanza_for(text: &str, codename: &str, suite: &str) -> Option<String> {
    let stanzas = text.split("\n\n");
    let offers = |stanza: &&str, field: &str, value: &str| {
        let mut lines = stanza.lines().filter_map(|line| line.strip_prefix(field));
        lines.any(|values| values.split_whitespace().any(|word| word == value))
    };
    let stanza = stanzas
        .into_iter()
        .find(|stanza| offers(stanza, "Suites:", codename) && offers(stanza, "Components:", "main"))?;
    let lines = stanza.lines().filter(|line| !line.starts_with('#') && !line.is_empty()).map(|line| {
        if line.starts_with("Suites:") { format!("Suites: {suite}\n") } else { format!("{line}\n") }
    });
    Some(lines.collect())
}

/// The line of `text` that offers the main part of `codename`, asking for `suite` instead.
fn line_for(text: &str, codename: &str, suite: &str) -> Option<String> {
    let wanted = format!(" {codename} ");
    let line = text.lines().find(|line| {
        let is_binary = line.starts_with("deb ");
        is_binary && line.contains(&wanted) && line.split_whitespace().any(|word| word == "main")
    })?;
    Some(format!("{}\n", line.replace(&wanted, &format!(" {suite} "))))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stanza_is_derived_from_the_release() {
        let text = "Types: deb\nURIs: http://a/security\nSuites: bookworm-security\nComponents: main\n\n\
                    Types: deb\n# note\nURIs: http://a/debian\nSuites: bookworm bookworm-updates\nComponents: main contrib\nSigned-By: /k\n";
        let expected = "Types: deb\nURIs: http://a/debian\nSuites: bookworm-backports\nComponents: main contrib\nSigned-By: /k\n";
        assert_eq!(stanza_for(text, "bookworm", "bookworm-backports").as_deref(), Some(expected));
        assert_eq!(stanza_for(text, "trixie", "trixie-backports"), None);
    }

    #[test]
    fn a_line_is_derived_from_the_release() {
        let text = "# deb http://a bookworm main\ndeb-src http://a bookworm main\ndeb [signed-by=/k] http://a bookworm main\n";
        let expected = "deb [signed-by=/k] http://a bookworm-backports main\n";
        assert_eq!(line_for(text, "bookworm", "bookworm-backports").as_deref(), Some(expected));
    }
}
