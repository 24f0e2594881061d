//! A directory for one test, with everything that was started in it.
//!
//! Invariants: whatever a test started, in the background or not, is killed when its lab is dropped, also by a
//! panic; no command runs longer than its bound.
#![allow(dead_code, unused_imports, reason = "each test binary uses what it needs")]

mod server;

use std::ffi::OsStr;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use tempfile::TempDir;

pub(crate) use server::Server;

/// The program under test.
pub(crate) const MILLPOND: &str = env!("CARGO_BIN_EXE_millpond");
/// Debian's interpreter: it has libnbd's module, another one in PATH may not.
pub(crate) const PYTHON: &str = "/usr/bin/python3";
/// Marks the processes of one lab by their environment.
const MARK: &str = "MILLPOND_LAB";
/// After this, whatever has not happened will not happen.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// A directory, and the processes that were started for it.
pub(crate) struct Lab {
    dir: TempDir,
}

impl Lab {
    /// A lab for `test`, or `None`, said aloud, where one of the programs that it needs is missing.
    pub(crate) fn new(test: &str, programs: &[&str]) -> Option<Self> {
        let missing: Vec<_> = programs.iter().copied().filter(|program| !is_there(program)).collect();
        missing.iter().for_each(|program| skip(test, program));
        missing.is_empty().then(|| Self::on(Path::new(env!("CARGO_TARGET_TMPDIR"))))
    }

    /// A lab in a fresh directory below `parent`.
    pub(crate) fn on(parent: &Path) -> Self {
        // The name of a unix socket has room for 107 bytes.
        let dir = TempDir::with_prefix_in("lab", parent).unwrap();
        let bin = dir.path().join("bin");
        std::fs::create_dir(&bin).unwrap();
        std::os::unix::fs::symlink(MILLPOND, bin.join("millpond")).unwrap();
        Self { dir }
    }

    /// A lab that other users may enter.
    pub(crate) fn open_to_all(self) -> Self {
        use std::os::unix::fs::PermissionsExt as _;
        std::fs::set_permissions(self.dir.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
        self
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// The same as text, for options.
    pub(crate) fn name(&self, name: &str) -> String {
        self.path(name).to_str().unwrap().to_owned()
    }

    /// A command that runs in the lab, finds `millpond`, and dies with the lab.
    pub(crate) fn command(&self, program: impl AsRef<OsStr>) -> Command {
        let path = std::env::var("PATH").unwrap_or_default();
        let mut command = Command::new(program);
        command.current_dir(self.dir.path()).env(MARK, self.dir.path());
        command.env("PATH", format!("{}:{path}:/usr/sbin:/sbin", self.name("bin")));
        command.stdin(Stdio::null());
        command
    }

    /// The same, and signals mean to it what they mean by default, however the tests were started.
    pub(crate) fn command_with_signals(&self, program: &str) -> Command {
        let mut command = self.command("env");
        command.args(["--default-signal=INT,HUP", program]);
        command
    }

    /// Runs a program to its end, within bounds.
    pub(crate) fn run(&self, program: &str, args: &[&str]) -> Output {
        // What is played in full takes longer, so that a hang is told from work only later.
        let seconds = (PATIENCE * if is_full() { 10 } else { 1 }).as_secs().to_string();
        let mut command = self.command("timeout");
        command.args(["-k", "5", &seconds, program]).args(args).output().unwrap()
    }

    /// Runs a program that must succeed, and returns what it printed.
    pub(crate) fn ok(&self, program: &str, args: &[&str]) -> String {
        let output = self.run(program, args);
        assert!(output.status.success(), "{program} {args:?}: {}\n{}", output.status, said(&output));
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// Runs a program that must fail, and returns its complaint.
    pub(crate) fn fails(&self, program: &str, args: &[&str]) -> String {
        let output = self.run(program, args);
        assert_eq!(output.status.code(), Some(1), "{program} {args:?}: {}", said(&output));
        String::from_utf8_lossy(&output.stderr).into_owned()
    }

    /// Runs a Python script that libnbd's module is there for.
    pub(crate) fn python(&self, script: &str, args: &[&str]) -> String {
        std::fs::write(self.path("script.py"), script).unwrap();
        self.ok(PYTHON, &[&["script.py"], args].concat())
    }

    /// Makes a raw file of `len` bytes: a third each of holes, zeros and noise, by 64 KiB, from a fixed seed.
    pub(crate) fn image(&self, name: &str, len: usize) -> Vec<u8> {
        let bytes = noise(len);
        let file = std::fs::File::create(self.path(name)).unwrap();
        file.set_len(len as u64).unwrap();
        for (at, piece) in bytes.chunks(PIECE).enumerate() {
            if at % 3 != 0 {
                std::os::unix::fs::FileExt::write_all_at(&file, piece, (at * PIECE) as u64).unwrap();
            }
        }
        bytes
    }

    /// Makes the image `name` in qcow2 out of a raw one.
    pub(crate) fn qcow2(&self, raw: &str, name: &str) {
        self.ok("qemu-img", &["convert", "-f", "raw", "-O", "qcow2", raw, name]);
    }

    /// Processes of this lab that still run.
    pub(crate) fn processes(&self) -> Vec<u32> {
        let mark = format!("{MARK}={}", self.dir.path().display());
        let all = std::fs::read_dir("/proc").unwrap().flatten();
        let numbers = all.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
        numbers.filter(|pid| is_marked(*pid, &mark)).collect()
    }
}

const PIECE: usize = 64 << 10;

impl Drop for Lab {
    fn drop(&mut self) {
        for pid in self.processes() {
            signal(pid, "KILL");
        }
    }
}

/// Noise, but every third piece of 64 KiB is zero, and so is the first.
fn noise(len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    for (at, piece) in bytes.chunks_mut(PIECE).enumerate() {
        if at % 3 == 2 {
            for word in piece.chunks_mut(8) {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                word.copy_from_slice(&state.to_be_bytes()[..word.len()]);
            }
        }
    }
    bytes
}

fn is_marked(pid: u32, mark: &str) -> bool {
    // A process may end while it is looked at; a zombie has no environment.
    let environment = std::fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
    environment.split(|byte| *byte == 0).any(|variable| variable == mark.as_bytes())
}

/// Sends a signal to one process.
pub(crate) fn signal(pid: u32, name: &str) {
    // It may have ended by itself.
    let _ = Command::new("kill").args(["-s", name, &pid.to_string()]).stderr(Stdio::null()).status();
}

/// Both outputs of a program, for people.
pub(crate) fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}

/// Waits for a condition; the deadline only stops a hang.
pub(crate) fn wait_for(what: &str, mut happened: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !happened() {
        assert!(begun.elapsed() < PATIENCE, "this has not happened: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Whether more is asked than the quick run.
pub(crate) fn is_full() -> bool {
    std::env::var("MILLPOND_TEST_FULL").is_ok_and(|value| value == "1")
}

/// Says, for people and for the closing summary, that `test` did not run.
pub(crate) fn skip(test: &str, lack: &str) {
    println!("skipped: {test}: no {lack}");
    if let Some(log) = std::env::var_os("MILLPOND_SKIP_LOG") {
        let mut log = std::fs::OpenOptions::new().append(true).create(true).open(log).unwrap();
        writeln!(log, "{test}: no {lack}").unwrap();
    }
}

/// Whether a program can be run; `python3-libnbd` stands for the module.
pub(crate) fn is_there(program: &str) -> bool {
    if program == "python3-libnbd" {
        let mut import = Command::new(PYTHON);
        return import.args(["-c", "import nbd"]).output().is_ok_and(|output| output.status.success());
    }
    let path = std::env::var("PATH").unwrap_or_default();
    let mut folders = path.split(':').chain(["/usr/sbin", "/sbin"]);
    folders.any(|folder| Path::new(folder).join(program).is_file())
}
