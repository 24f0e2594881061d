//! A program that runs while something is measured.
//!
//! Invariant: it ends with this value, and, should we be killed, with us.

use std::fs::{self, File};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

/// How long a program may take until it listens.
const PATIENCE: Duration = Duration::from_secs(10);
const PAUSE: Duration = Duration::from_millis(5);

/// A running program.
pub(super) struct Process {
    child: Child,
    log: PathBuf,
}

impl Process {
    /// Starts `program`; what it says goes to a file in `folder`.
    pub(super) fn start(program: &Path, arguments: &[String], folder: &Path) -> Result<Self, String> {
        let name = program.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let log = folder.join(format!("{name}.log"));
        let naming = |error| format!("{name}: {error}");
        let said = File::create(&log).map_err(naming)?;
        let child = Command::new("setpriv")
            .args(["--pdeathsig", "KILL", "--"])
            .arg(program)
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(said.try_clone().map_err(naming)?)
            .stderr(said)
            .spawn()
            .map_err(naming)?;
        Ok(Self { child, log })
    }

    /// Waits until it listens on `socket`.
    pub(super) fn until_it_listens(mut self, socket: &Path) -> Result<Self, String> {
        let start = Instant::now();
        while UnixStream::connect(socket).is_err() {
            let ended = self.child.try_wait().is_ok_and(|status| status.is_some());
            if ended || start.elapsed() > PATIENCE {
                return Err(format!("does not listen: {}", self.last_words()));
            }
            thread::sleep(PAUSE);
        }
        Ok(self)
    }

    /// Its process.
    pub(super) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Waits until it ends by itself.
    pub(super) fn finished(mut self) -> Result<(), String> {
        match self.child.wait() {
            Ok(status) if status.success() => Ok(()),
            Ok(status) => Err(format!("{status}: {}", self.last_words())),
            Err(error) => Err(error.to_string()),
        }
    }

    fn last_words(&self) -> String {
        let said = fs::read_to_string(&self.log).unwrap_or_default();
        said.lines().last().unwrap_or("it said nothing").to_owned()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
