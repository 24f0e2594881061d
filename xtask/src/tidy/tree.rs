//! The repository as the rules see it: its paths, its texts and what cargo says of its crates.
//!
//! Invariant: paths are relative to the root, with `/`, and sorted, so that findings come in a stable order.

use super::source::Views;
use serde_json::Value;
use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;
use std::{fs, io};

/// Folders that hold no source of ours.
const SKIPPED: &[&str] = &["target", "corpus", "artifacts", "coverage"];
/// Hidden folders that do.
const SHOWN: &[&str] = &[".ci", ".config", ".cargo"];
/// Endings of the files whose text the rules read.
const TEXTS: &[&str] = &["rs", "md", "toml", "txt"];

/// One file whose text is read.
pub(crate) struct TextFile {
    pub(crate) path: String,
    pub(crate) text: String,
    /// Empty unless it is Rust.
    pub(crate) views: Views,
}

/// Everything the rules may look at.
#[derive(Default)]
pub(crate) struct Tree {
    pub(crate) files: Vec<TextFile>,
    /// Files and folders.
    paths: BTreeSet<String>,
    /// `cargo metadata --no-deps`, or null.
    pub(crate) metadata: Value,
}

impl Tree {
    /// Reads the repository at `root`.
    pub(crate) fn read(root: &Path) -> io::Result<Self> {
        let mut tree = Self { metadata: metadata(root)?, ..Self::default() };
        tree.walk(root, "")?;
        tree.files.sort_by(|a, b| a.path.cmp(&b.path));
        Ok(tree)
    }

    fn walk(&mut self, root: &Path, folder: &str) -> io::Result<()> {
        for entry in fs::read_dir(root.join(folder))? {
            let entry = entry?;
            let name = entry.file_name().to_string_lossy().into_owned();
            let path = if folder.is_empty() { name.clone() } else { format!("{folder}/{name}") };
            if !entry.file_type()?.is_dir() {
                self.add(&path, || fs::read_to_string(entry.path()))?;
            } else if !SKIPPED.contains(&&*name) && (!name.starts_with('.') || SHOWN.contains(&&*name)) {
                self.walk(root, &path)?;
                self.paths.insert(path);
            }
        }
        Ok(())
    }

    fn add(&mut self, path: &str, text: impl FnOnce() -> io::Result<String>) -> io::Result<()> {
        self.paths.insert(path.to_owned());
        let ending = path.rsplit_once('.').map_or("", |(_, ending)| ending);
        if TEXTS.contains(&ending) {
            let text = text().map_err(|error| io::Error::new(error.kind(), format!("{path}: {error}")))?;
            let views = if ending == "rs" { Views::of(&text) } else { Views::default() };
            self.files.push(TextFile { path: path.to_owned(), text, views });
        }
        Ok(())
    }

    /// Whether a file or folder is there; a closing `/` asks for the same.
    pub(crate) fn has(&self, path: &str) -> bool {
        self.paths.contains(path.trim_end_matches('/'))
    }

    /// The file at `path`, if its text is read.
    pub(crate) fn file(&self, path: &str) -> Option<&TextFile> {
        self.files.iter().find(|file| file.path == path)
    }

    /// Rust files, in the order of their paths.
    pub(crate) fn rust(&self) -> impl Iterator<Item = &TextFile> {
        self.files.iter().filter(|file| file.path.ends_with(".rs"))
    }

    /// Names of files and folders at the root.
    pub(crate) fn at_root(&self) -> impl Iterator<Item = &str> {
        self.paths.iter().map(String::as_str).filter(|path| !path.contains('/'))
    }

    /// Names directly inside `folder`.
    pub(crate) fn entries<'a>(&'a self, folder: &'a str) -> impl Iterator<Item = &'a str> {
        self.paths
            .iter()
            .filter_map(move |path| path.strip_prefix(folder)?.strip_prefix('/'))
            .filter(|name| !name.contains('/'))
    }

    /// A tree made of texts, for the tests of the rules.
    #[cfg(test)]
    pub(crate) fn sample(files: &[(&str, &str)]) -> Self {
        let mut tree = Self::default();
        for (path, text) in files {
            tree.add(path, || Ok((*text).to_owned())).expect("a text given is read");
            let folders = path.match_indices('/').map(|(at, _)| path[..at].to_owned());
            tree.paths.extend(folders);
        }
        tree
    }
}

fn metadata(root: &Path) -> io::Result<Value> {
    let output = Command::new(env!("CARGO"))
        .args(["metadata", "--format-version", "1", "--no-deps", "--offline"])
        .current_dir(root)
        .output()?;
    if !output.status.success() {
        return Err(io::Error::other(String::from_utf8_lossy(&output.stderr).into_owned()));
    }
    Ok(serde_json::from_slice(&output.stdout)?)
}
