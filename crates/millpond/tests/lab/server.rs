//! One running `millpond nbd` (or a peer with the same command line).

use std::io::{BufRead as _, BufReader, Read as _};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use super::{Lab, MILLPOND, signal, wait_for};

/// A server at a unix socket, killed when dropped.
pub(crate) struct Server {
    child: Child,
    socket: String,
    told: Arc<Mutex<String>>,
}

impl Server {
    /// `millpond nbd` with these options after its own (`-t`, `-v` and the socket), listening.
    pub(crate) fn start(lab: &Lab, options: &[&str]) -> Self {
        let mut all = vec!["-t"];
        all.extend(options);
        Self::once(lab, &all)
    }

    /// The same without `-t`: it ends when its last client has left.
    pub(crate) fn once(lab: &Lab, options: &[&str]) -> Self {
        let mut command = lab.command(MILLPOND);
        command.arg("nbd");
        Self::spawn(lab, command, options)
    }

    /// `millpond serve` of a folder, listening at a unix socket.
    pub(crate) fn folder(lab: &Lab, folder: &str, options: &[&str]) -> Self {
        let socket = lab.name("serve.sock");
        let mut command = lab.command(MILLPOND);
        command.args(["serve", "-v", "--listen", &format!("unix:{socket}"), folder]).args(options);
        Self::run(command, socket).comes_up(Self::is_listening)
    }

    /// `millpond nbd` at this socket.
    pub(crate) fn at(lab: &Lab, socket: &str, options: &[&str]) -> Self {
        let mut command = lab.command(MILLPOND);
        command.args(["nbd", "-v", "-k", socket]).args(options);
        Self::run(command, socket.to_owned()).comes_up(Self::is_listening)
    }

    /// Whatever `command` starts that writes its process id to `file` when it is up, and has a socket.
    pub(crate) fn announced(mut command: Command, file: &Path, socket: String) -> Self {
        command.stdout(Stdio::null());
        Self::run(command, socket).comes_up(|_| file.exists())
    }

    /// The same, whose clients are to come in at this socket.
    pub(crate) fn seen_at(mut self, socket: &str) -> Self {
        socket.clone_into(&mut self.socket);
        self
    }

    /// QEMU's server with the same options.
    pub(crate) fn qemu(lab: &Lab, options: &[&str]) -> Self {
        let mut command = lab.command("qemu-nbd");
        command.arg("-t");
        Self::spawn(lab, command, options)
    }

    /// Whatever `command` starts, at a unix socket, with these options behind it.
    pub(crate) fn spawn(lab: &Lab, mut command: Command, options: &[&str]) -> Self {
        static NUMBER: AtomicUsize = AtomicUsize::new(0);
        let socket = lab.name(&format!("s{}", NUMBER.fetch_add(1, Ordering::Relaxed)));
        command.args(["-v", "-k", &socket]).args(options);
        // Looking whether it answers would make a server that ends with its last client end.
        let peer = command.get_program() == "qemu-nbd";
        let server = Self::run(command, socket);
        server.comes_up(|server| {
            server.is_listening() || peer && UnixStream::connect(&server.socket).is_ok_and(greets)
        })
    }

    /// `millpond nbd -t` at a free port of this machine.
    pub(crate) fn tcp(lab: &Lab, options: &[&str]) -> Self {
        let mut command = lab.command(MILLPOND);
        command.args(["nbd", "-t", "-v", "-p", "0", "-b", "127.0.0.1"]).args(options);
        Self::run(command, String::new()).comes_up(Self::is_listening)
    }

    /// A server that has its socket from `command`: `socket`, which listens already.
    pub(crate) fn activated(command: Command, socket: String) -> Self {
        Self::run(command, socket).comes_up(Self::is_listening)
    }

    fn run(mut command: Command, socket: String) -> Self {
        let mut child = command.stderr(Stdio::piped()).spawn().unwrap();
        let told = Arc::new(Mutex::new(String::new()));
        let (pipe, heard) = (child.stderr.take().unwrap(), told.clone());
        std::thread::spawn(move || {
            for line in BufReader::new(pipe).lines().map_while(Result::ok) {
                *heard.lock().unwrap() += &format!("{line}\n");
            }
        });
        Self { child, socket, told }
    }

    fn comes_up(mut self, is_up: impl Fn(&Self) -> bool) -> Self {
        wait_for("the server listens", || {
            assert!(self.is_running(), "it has ended: {}", self.told());
            is_up(&self)
        });
        self
    }

    fn is_listening(&self) -> bool {
        self.told().contains("listening at")
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    pub(crate) fn socket(&self) -> &str {
        &self.socket
    }

    /// Where clients find it.
    pub(crate) fn uri(&self) -> String {
        self.uri_of("")
    }

    /// Where clients find the export of this name.
    pub(crate) fn uri_of(&self, export: &str) -> String {
        if !self.socket.is_empty() {
            return format!("nbd+unix:///{export}?socket={}", self.socket);
        }
        let told = self.told();
        let address = told.lines().find_map(|line| line.strip_prefix("listening at "));
        format!("nbd://{}/{export}", address.unwrap())
    }

    /// What it has written to standard error so far.
    pub(crate) fn told(&self) -> String {
        self.told.lock().unwrap().clone()
    }

    pub(crate) fn is_running(&mut self) -> bool {
        self.child.try_wait().unwrap().is_none()
    }

    /// Waits until it ends by itself.
    pub(crate) fn ends(&mut self) -> ExitStatus {
        wait_for("the server ends", || !self.is_running());
        self.child.wait().unwrap()
    }

    /// Tells it to end, and waits until it has.
    pub(crate) fn stop(&mut self) -> ExitStatus {
        signal(self.pid(), "TERM");
        self.ends()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // Ended already: fine.
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            println!("the server said:\n{}", self.told());
        }
    }
}

/// Whether a server says hello.
fn greets(mut stream: UnixStream) -> bool {
    let mut magic = [0; 8];
    stream.read_exact(&mut magic).is_ok() && &magic == b"NBDMAGIC"
}
