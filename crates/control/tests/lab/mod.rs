//! Two servers for one script: QEMU's storage daemon and ours, each on a unix socket, and a client for either.
//!
//! Invariants: a server ends with its test, also by a panic; nothing is waited for longer than [`PATIENCE`].
#![allow(dead_code, reason = "each test binary uses what it needs")]

use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::rc::Rc;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use control::{Control, commands};
use engine::{Engine, EngineOptions};
use io::Address;
use io::real::RealWorld;
use serde_json::{Value, json};
use tempfile::TempDir;

/// After this, whatever has not happened will not happen.
const PATIENCE: Duration = Duration::from_secs(60);

/// A server under test.
pub(crate) struct Server {
    pub(crate) dir: Rc<TempDir>,
    kind: Kind,
}

enum Kind {
    Qsd(Child),
    Ours(Option<JoinHandle<()>>),
}

impl Server {
    /// The installed QSD, or `None`, said aloud.
    pub(crate) fn qsd(test: &str) -> Option<Self> {
        // Whoever connects while it starts may be greeted twice, be forgotten, or meet its end by SIGSEGV: clients whom
        // nobody misses find out when that is over, and whether it has to be started once more.
        let begun = Instant::now();
        loop {
            let Some(server) = Self::start_qsd() else {
                skip(test, "qemu-storage-daemon");
                return None;
            };
            if server.answers_somebody() && server.answers_somebody() {
                return Some(server);
            }
            assert!(begun.elapsed() < PATIENCE, "qemu-storage-daemon does not answer");
        }
    }

    fn start_qsd() -> Option<Self> {
        let dir = Rc::new(TempDir::new().unwrap());
        let chardev = format!("socket,id=c,path={},server=on,wait=off", dir.path().join("qmp").display());
        let mut command = Command::new("qemu-storage-daemon");
        command.args(["--chardev", &chardev, "--monitor", "chardev=c", "--pidfile", "started"]);
        let mut child = command.current_dir(dir.path()).stdin(Stdio::null()).spawn().ok()?;
        while !dir.path().join("started").exists() {
            assert!(child.try_wait().unwrap().is_none(), "qemu-storage-daemon does not start");
            std::thread::sleep(Duration::from_millis(5));
        }
        Some(Self { dir, kind: Kind::Qsd(child) })
    }

    fn answers_somebody(&self) -> bool {
        let Ok(mut stream) = UnixStream::connect(self.dir.path().join("qmp")) else { return false };
        stream.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        let asked = stream.write_all(b"{'execute':'qmp_capabilities'}");
        asked.is_ok()
            && BufReader::new(stream).lines().map_while(Result::ok).any(|line| line.contains("return"))
    }

    /// Ours, in this process.
    pub(crate) fn ours() -> Self {
        let dir = Rc::new(TempDir::new().unwrap());
        let path = dir.path().join("qmp");
        let thread = std::thread::spawn(move || serve(&path));
        Self { dir, kind: Kind::Ours(Some(thread)) }
    }

    /// Ends it by `quit`, if it has not ended already; answers its directory.
    pub(crate) fn end(mut self) -> Rc<TempDir> {
        let dir = self.dir.clone();
        // It may have ended.
        let _ = self.ask_to_quit();
        match &mut self.kind {
            Kind::Qsd(child) => drop(child.wait().unwrap()),
            Kind::Ours(thread) => thread.take().into_iter().for_each(|thread| thread.join().unwrap()),
        }
        dir
    }

    fn ask_to_quit(&self) -> std::io::Result<u64> {
        let mut stream = UnixStream::connect(self.dir.path().join("qmp"))?;
        stream.write_all(b"{'execute':'qmp_capabilities'}{'execute':'quit'}")?;
        stream.set_read_timeout(Some(PATIENCE))?;
        // It closes when it has answered.
        std::io::copy(&mut stream, &mut std::io::sink())
    }

    /// A client that has the greeting and may send commands.
    pub(crate) fn client(&self) -> Client {
        let mut client = self.connect();
        assert_eq!(client.ask(json!({"execute": "qmp_capabilities"})), json!({"return": {}}));
        client
    }

    /// A client that has the greeting.
    pub(crate) fn connect(&self) -> Client {
        let mut client = self.raw();
        let greeting = client.line();
        assert!(greeting.get("QMP").is_some(), "{greeting}");
        client
    }

    /// A client that has nothing yet.
    pub(crate) fn raw(&self) -> Client {
        let path = self.dir.path().join("qmp");
        let begun = Instant::now();
        loop {
            match UnixStream::connect(&path) {
                Ok(stream) => return Client::new(stream),
                Err(error) => assert!(begun.elapsed() < PATIENCE, "{}: {error}", path.display()),
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let asked = match self.kind {
            Kind::Ours(Some(_)) => self.ask_to_quit(),
            _ => Ok(0),
        };
        match &mut self.kind {
            Kind::Qsd(child) => {
                // It may have ended by itself.
                let _ = child.kill();
                let _ = child.wait();
            }
            Kind::Ours(thread) => {
                // It ends by `quit`, which the test may have sent.
                if let (Ok(_), Some(thread)) = (asked, thread.take()) {
                    let _ = thread.join();
                }
            }
        }
    }
}

fn serve(path: &Path) {
    let world = RealWorld::new();
    let shared = Arc::new(world.clone());
    let threads = world.block_on(async {
        let options = EngineOptions { threads: 1, ..EngineOptions::default() };
        let engine = Engine::new(shared, options).unwrap();
        let threads = engine.threads().to_vec();
        let (table, ending) = commands::standard(&engine);
        let control = Control::new(engine, table, ending);
        let address = Address::Unix { path: path.to_owned() };
        let listening = control.listen(&address, |_| {});
        // Listening ends only by an error.
        match io::select::race(listening, control.ended()).await {
            io::select::Either::First(failed) => panic!("{failed:?}"),
            io::select::Either::Second(()) => threads,
        }
    });
    // A process would end now, and all locks on its files with it.
    threads.iter().for_each(|thread| thread.stop());
    world.settle();
}

/// A QMP client.
pub(crate) struct Client {
    stream: UnixStream,
    reader: BufReader<UnixStream>,
    /// Events that came before the last reply.
    pub(crate) events: Vec<Value>,
}

impl Client {
    fn new(stream: UnixStream) -> Self {
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let reader = BufReader::new(stream.try_clone().unwrap());
        Self { stream, reader, events: Vec::new() }
    }

    /// Sends bytes.
    pub(crate) fn send(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).unwrap();
    }

    /// The next line.
    pub(crate) fn line(&mut self) -> Value {
        let line = self.text().unwrap_or_else(|| panic!("the server closed the connection"));
        serde_json::from_str(&line).unwrap()
    }

    /// The next line as it came; `None` at the end.
    pub(crate) fn text(&mut self) -> Option<String> {
        let mut line = String::new();
        let len = self.reader.read_line(&mut line).unwrap();
        (len > 0).then_some(line)
    }

    /// Sends a command; answers its reply, and keeps the events that came before.
    pub(crate) fn ask(&mut self, command: Value) -> Value {
        self.send(format!("{command}\n").as_bytes());
        self.reply()
    }

    /// The next line that is no event.
    pub(crate) fn reply(&mut self) -> Value {
        self.events.clear();
        loop {
            let line = self.line();
            if line.get("event").is_none() {
                return line;
            }
            self.events.push(line);
        }
    }
}

/// Says that a test could not run, and why.
pub(crate) fn skip(test: &str, peer: &str) {
    eprintln!("skipped: {test}: no {peer}");
    if let Some(log) = std::env::var_os("MILLPOND_SKIP_LOG") {
        let mut log = std::fs::OpenOptions::new().create(true).append(true).open(PathBuf::from(log)).unwrap();
        writeln!(log, "{test}: no {peer}").unwrap();
    }
}
