//! One running `millpond nbd` (or a peer with the same command line).

use std::io::{BufRead as _, BufReader, Read as _};
use std::os::unix::net::UnixStream;
use std::process::{Child, Command, ExitStatus, Stdio};
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

    /// QEMU's server with the same options.
    pub(crate) fn qemu(lab: &Lab, options: &[&str]) -> Self {
        let mut command = lab.command("qemu-nbd");
        command.arg("-t");
        Self::spawn(lab, command, options)
    }

    /// Whatever `command` starts, with these options behind it.
    pub(crate) fn spawn(lab: &Lab, mut command: Command, options: &[&str]) -> Self {
        static NUMBER: std::sync::atomic::AtomicUsize = std::sync::atomic::AtomicUsize::new(0);
        // Looking whether it answers would make a server that ends with its last client end.
        let peer = command.get_program() == "qemu-nbd";
        let number = NUMBER.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let socket = lab.name(&format!("s{number}"));
        command.args(["-v", "-k", &socket]).args(options).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let told = Arc::new(Mutex::new(String::new()));
        let (pipe, heard) = (child.stderr.take().unwrap(), told.clone());
        std::thread::spawn(move || {
            for line in BufReader::new(pipe).lines().map_while(Result::ok) {
                *heard.lock().unwrap() += &format!("{line}\n");
            }
        });
        let mut server = Self { child, socket, told };
        wait_for(&format!("{command:?} listens"), || {
            let ended = server.child.try_wait().unwrap();
            assert!(ended.is_none(), "{command:?} has ended: {}", server.told());
            server.told().contains("listening at")
                || peer && UnixStream::connect(&server.socket).is_ok_and(greets)
        });
        server
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
        format!("nbd+unix:///{export}?socket={}", self.socket)
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
