//! A directory with images made by QEMU's tools, from one fixed seed. Tests of other crates include this file, too.

use std::fmt::Write as _;
use std::fs::OpenOptions;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use tempfile::TempDir;

pub(crate) struct Images {
    dir: TempDir,
    random: u64,
}

impl Images {
    /// A fresh directory.
    pub(crate) fn new() -> Self {
        Self { dir: tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap(), random: 42 }
    }

    /// A fresh directory; `None`, said on standard error and in the skip log, where one of `tools` is missing.
    pub(crate) fn with_tools(test: &str, tools: &[&str]) -> Option<Self> {
        for tool in tools {
            if Command::new(tool).arg("--version").output().is_err() {
                skip(test, tool);
                return None;
            }
        }
        Some(Self::new())
    }

    pub(crate) fn dir(&self) -> &Path {
        self.dir.path()
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Runs qemu-img in the directory; panics with what it said when it fails.
    pub(crate) fn img(&self, args: &[&str]) -> String {
        let output = self.run("qemu-img", args);
        assert!(output.status.success(), "qemu-img {args:?}: {}", said(&output));
        String::from_utf8(output.stdout).unwrap()
    }

    /// Runs qemu-io commands on an image; panics when one fails.
    pub(crate) fn io(&self, image: &str, commands: &[String]) {
        let mut args = vec!["-f", "qcow2", "-d", "unmap"];
        args.extend(commands.iter().flat_map(|command| ["-c", command.as_str()]));
        args.push(image);
        let output = self.run("qemu-io", &args);
        assert!(output.status.success() && !said(&output).contains("rror"), "{args:?}: {}", said(&output));
    }

    pub(crate) fn run(&self, tool: &str, args: &[&str]) -> Output {
        Command::new(tool).args(args).current_dir(self.dir.path()).output().unwrap()
    }

    /// What `qemu-img convert` makes of an image.
    pub(crate) fn raw_copy(&self, image: &str) -> Vec<u8> {
        self.img(&["convert", "-f", "qcow2", "-O", "raw", image, "expected.raw"]);
        std::fs::read(self.path("expected.raw")).unwrap()
    }

    /// A number below `bound` from a fixed seed.
    pub(crate) fn below(&mut self, bound: u64) -> u64 {
        self.random = self.random.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (self.random >> 33) % bound
    }

    /// Writes a raw file of `len` bytes: runs of text, noise and zeros.
    pub(crate) fn raw(&mut self, name: &str, len: u64) {
        let mut bytes = Vec::new();
        while (bytes.len() as u64) < len {
            let run = 512 + self.below(len / 16 + 1) as usize;
            match self.below(4) {
                0 => bytes.resize(bytes.len() + run, 0),
                1 => bytes.extend((0..run).map(|_| self.below(256) as u8).collect::<Vec<_>>()),
                _ => {
                    let mut text = String::new();
                    while text.len() < run {
                        writeln!(text, "line {} of file {name}", self.below(1 << 20)).unwrap();
                    }
                    bytes.extend(&text.as_bytes()[..run]);
                }
            }
        }
        bytes.truncate(len as usize);
        std::fs::write(self.path(name), bytes).unwrap();
    }

    /// Random writes, zero writes (with and without unmapping) and discards over `size` bytes, in sectors.
    pub(crate) fn scribble(&mut self, image: &str, size: u64, cluster: u64, count: usize) {
        let sectors = size / 512;
        let longest = (4 * cluster / 512).clamp(2, sectors / 2);
        let commands: Vec<_> = (0..count)
            .map(|_| {
                let at = self.below(sectors);
                let len = (1 + self.below(longest)).min(sectors - at);
                let verb = match self.below(6) {
                    0 => "write -q -z".to_owned(),
                    1 => "write -q -z -u".to_owned(),
                    2 => "discard -q".to_owned(),
                    _ => format!("write -q -P {}", 1 + self.below(255)),
                };
                format!("{verb} {} {}", at * 512, len * 512)
            })
            .collect();
        self.io(image, &commands);
    }
}

pub(crate) fn said(output: &Output) -> String {
    String::from_utf8_lossy(&[&output.stdout[..], &output.stderr[..]].concat()).into_owned()
}

/// Says past the test harness that `test` did not run.
fn skip(test: &str, tool: &str) {
    let line = format!("{test}: no {tool}");
    let _ = writeln!(std::io::stderr(), "skipped: {line}");
    if let Some(log) = std::env::var_os("MILLPOND_SKIP_LOG") {
        let mut log = OpenOptions::new().create(true).append(true).open(log).unwrap();
        log.write_all(format!("{line}\n").as_bytes()).unwrap();
    }
}
