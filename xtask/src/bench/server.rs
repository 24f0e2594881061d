//! One running server.
//!
//! Invariant: it ends with this value, and, should this program be killed, with this program.

use super::fio::Test;
use super::images::Image;
use super::rows::{self, Row, Task};
use std::fs::{self, File};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

/// How long a server may take until it listens.
const START_MAX: Duration = Duration::from_secs(10);
/// How long the CPU time of what served a client that has left may take to be accounted.
const SETTLE: Duration = Duration::from_millis(50);

/// Starts a daemon with its pid file as `$0`, and ends it when our end of its input is closed, however we end.
const SUPERVISOR: &str = r#"trap '' INT; "$@" -p "$0" && read -r _; kill "$(cat "$0")""#;

/// A process that serves an image.
pub(super) struct Server {
    /// The server, or the supervisor of a daemon.
    child: Child,
    /// Written by a daemon.
    pid_file: Option<PathBuf>,
    socket: PathBuf,
    export: &'static str,
}

impl Server {
    /// Starts `row` on `image` as `test` wants it, and waits until it listens.
    pub(super) fn start(root: &Path, row: &Row, image: &Image, test: &Test) -> Result<Self, String> {
        let in_folder = |ending: &str| image.folder().join(format!("{}.{ending}", row.name));
        let [socket, configuration, log, pid_file] = ["sock", "conf", "log", "pid"].map(in_folder);
        let task = Task {
            file: &if row.wants_raw() { &image.raw } else { &image.path }.to_string_lossy(),
            format: image.kind.format,
            socket: &socket.to_string_lossy(),
            read_only: image.is_read_only(test),
            configuration: &configuration.to_string_lossy(),
        };
        fs::write(&configuration, rows::nbd_server_configuration(&task))
            .map_err(|error| error.to_string())?;
        let pid_file = row.daemonises.then_some(pid_file);
        let child = tied_to_us(test.pinned, pid_file.as_deref())
            .arg(row.is_here(root)?)
            .args(row.arguments(&task))
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(File::create(&log).map_err(|error| error.to_string())?)
            .spawn()
            .map_err(|error| format!("{}: {error}", row.name))?;
        let mut server = Self { child, pid_file, socket, export: row.export };
        server.wait_until_it_listens(&log)?;
        Ok(server)
    }

    /// The process whose CPU time counts.
    pub(super) fn pid(&self) -> u32 {
        let written =
            self.pid_file.as_ref().and_then(|path| fs::read_to_string(path).ok()?.trim().parse().ok());
        written.unwrap_or_else(|| self.child.id())
    }

    /// Where clients find it.
    pub(super) fn uri(&self) -> String {
        format!("nbd+unix:///{}?socket={}", self.export, self.socket.display())
    }

    /// Lets it account for the client that has just left.
    pub(super) fn settle(&self) {
        thread::sleep(SETTLE);
    }

    fn wait_until_it_listens(&mut self, log: &Path) -> Result<(), String> {
        let start = Instant::now();
        while UnixStream::connect(&self.socket).is_err() {
            let ended = self.child.try_wait().is_ok_and(|status| status.is_some());
            if ended || start.elapsed() > START_MAX {
                let said = fs::read_to_string(log).unwrap_or_default();
                let reason = said.lines().last().unwrap_or("it said nothing").to_owned();
                return Err(format!("does not listen: {reason}"));
            }
            thread::sleep(Duration::from_millis(5));
        }
        Ok(())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        drop(self.child.stdin.take());
        if self.pid_file.is_none() {
            let _ = self.child.kill();
        }
        let _ = self.child.wait();
        let _ = fs::remove_file(&self.socket);
    }
}

/// What starts a program, given as first argument, so that it ends when we do: on the one CPU of pinned tests if
/// `pinned`, supervised if it writes a pid file.
fn tied_to_us(pinned: bool, pid_file: Option<&Path>) -> Command {
    let starter = if pid_file.is_some() { "sh" } else { "setpriv" };
    let mut command = if pinned { super::fio::on_one_cpu(starter) } else { Command::new(starter) };
    match pid_file {
        Some(pid_file) => command.args(["-c", SUPERVISOR]).arg(pid_file),
        None => command.args(["--pdeathsig", "KILL", "--"]),
    };
    command
}
