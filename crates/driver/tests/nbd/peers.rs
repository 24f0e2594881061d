//! The `nbd` driver against the servers of others, on the real machine.

use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use block::{ByteRange, Extent, ExtentState, Priority};
use driver::protocols::nbd::{Config, NbdClient, Use};
use flow::{Body, Flags, Node, NodeId, NodeState, Op, Request, View, ViewBuilder, seam};
use futures_util::future::join_all;
use io::real::RealWorld;
use io::{Address, Lease};
use serde_json::Value;
use tempfile::TempDir;

const SIZE: u64 = 24 << 20;
const USE_ALL: Use = Use { writable: true, no_flush: false, unmap: true };

/// A server process and the directory with its disk and its socket.
struct Server {
    dir: TempDir,
    program: &'static str,
    arguments: Vec<String>,
    process: Child,
}

impl Server {
    /// Starts `program`, whose arguments say `DIR` for the directory with the file `disk` and the socket `sock`.
    /// `None`, said on standard error and in the skip log, where it is missing.
    fn start(test: &str, program: &'static str, arguments: &[&str]) -> Option<Self> {
        for tool in [program, "qemu-img"] {
            if Command::new(tool).arg("--version").output().is_err() {
                sim::skip(&format!("driver nbd peers {test}"), tool);
                return None;
            }
        }
        let dir = TempDir::new().unwrap();
        std::fs::write(dir.path().join("disk"), patterned()).unwrap();
        // Holes in the file, as fill has them in mind.
        let dug = Command::new("fallocate").args(["--dig-holes", "disk"]).current_dir(dir.path()).output();
        drop(dug);
        let place = dir.path().display().to_string();
        let arguments: Vec<_> = arguments.iter().map(|argument| argument.replace("DIR", &place)).collect();
        let process = launch(program, &arguments);
        let server = Self { dir, program, arguments, process };
        server.await_socket();
        Some(server)
    }

    fn await_socket(&self) {
        let begun = std::time::Instant::now();
        while std::os::unix::net::UnixStream::connect(self.socket()).is_err() {
            assert!(begun.elapsed() < Duration::from_secs(20), "{} does not listen", self.program);
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    fn kill(&mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
    }

    fn socket(&self) -> PathBuf {
        self.dir.path().join("sock")
    }

    fn config(&self, export: &str) -> Config {
        Config::new(Address::Unix { path: self.socket() }, export)
    }

    fn disk(&self) -> Vec<u8> {
        std::fs::read(self.dir.path().join("disk")).unwrap()
    }

    /// What qemu-img says about the extents of an export.
    fn map(&self, export: &str) -> Vec<Extent> {
        let uri = format!("nbd+unix:///{export}?socket={}", self.socket().display());
        let output =
            Command::new("qemu-img").args(["map", "--output=json", "-f", "raw", &uri]).output().unwrap();
        assert!(output.status.success(), "{output:?}");
        let told: Vec<Value> = serde_json::from_slice(&output.stdout).unwrap();
        let mut extents = Vec::new();
        for one in told {
            let range = ByteRange::new(one["start"].as_u64().unwrap(), one["length"].as_u64().unwrap());
            let state = match (one["data"].as_bool().unwrap(), one["zero"].as_bool().unwrap()) {
                (true, true) => ExtentState::AllocatedZero,
                (true, false) => ExtentState::Data,
                (false, _) => ExtentState::Hole,
            };
            block::push_extent(&mut extents, Extent { range, state });
        }
        extents
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // It may have ended by itself, or gone to the background.
        let _ = self.process.kill();
        let _ = self.process.wait();
        if let Ok(pid) = std::fs::read_to_string(self.dir.path().join("pid")) {
            let _ = Command::new("kill").arg(pid.trim()).status();
        }
    }
}

fn launch(program: &str, arguments: &[String]) -> Child {
    Command::new(program).args(arguments).stdin(Stdio::null()).stdout(Stdio::null()).spawn().unwrap()
}

fn patterned() -> Vec<u8> {
    let byte = |at: usize| if at >> 20 & 3 == 3 { 0 } else { (at * 7 + at / 251 + 1) as u8 };
    (0..SIZE as usize).map(byte).collect()
}

/// A client, in a graph of its own.
async fn open(config: Config, use_as: Use, world: &RealWorld) -> (Arc<NbdClient>, Arc<View>) {
    let client = Arc::new(NbdClient::connect(config, use_as, Arc::new(world.clone())).await.unwrap());
    let state = NodeState::new(Arc::default());
    let node = Node::new(NodeId(1), "remote".into(), "nbd", Body::Executes(client.clone()), state);
    let view = ViewBuilder::new().node(Arc::new(node), Vec::new()).build().unwrap();
    (client, view)
}

async fn read_all(view: &View, priority: Priority) -> Vec<u8> {
    let size = view.size();
    let reads = (0..size.div_ceil(300_000)).map(|at| async move {
        let range = ByteRange::new(at * 300_000, 300_000.min(size - at * 300_000));
        let rq = Request::new(Op::Read, range).with_priority(priority);
        let (result, lease) = seam::execute(view, rq, Lease::new(range.len() as usize)).await;
        result.unwrap();
        lease
    });
    join_all(reads).await.iter().flat_map(|lease| lease.to_vec()).collect()
}

async fn all_extents(view: &View) -> Vec<Extent> {
    let (mut extents, mut rest) = (Vec::new(), ByteRange::new(0, view.size()));
    while !rest.is_empty() {
        for extent in seam::extents(view, rest).await.unwrap() {
            rest = ByteRange::between(extent.range.end(), view.size());
            block::push_extent(&mut extents, extent);
        }
    }
    extents
}

/// Reads everything over either connection, and compares extents with what qemu-img is told by the same server.
fn reads_agree(server: &Server, export: &str) {
    let world = RealWorld::new();
    world.block_on(async {
        let (_client, view) = open(server.config(export), Use::READ, &world).await;
        assert_eq!(view.size(), SIZE);
        let expected = patterned();
        for priority in [Priority::Demand, Priority::Fill, Priority::Prefetch] {
            assert!(read_all(&view, priority).await == expected, "{priority:?}");
        }
        assert_eq!(all_extents(&view).await, server.map(export));
    });
}

/// Writes, zeroes and discards, and compares the server's file with a model.
fn changes_arrive(server: &Server, export: &str) {
    let world = RealWorld::new();
    let mut model = patterned();
    world.block_on(async {
        let (_client, view) = open(server.config(export), USE_ALL, &world).await;
        let writes = (0..20u64).map(|at| {
            let bytes: Vec<u8> = (0..100_000).map(|i| (i as u64 * 3 + at) as u8).collect();
            let start = at * 1_000_123;
            model[start as usize..][..bytes.len()].copy_from_slice(&bytes);
            let view = view.clone();
            async move { seam::write(&view, start, &bytes).await }
        });
        for result in join_all(writes.collect::<Vec<_>>()).await {
            result.unwrap();
        }
        for (flags, start) in [(Flags::NONE, 5_000_001), (Flags::MAY_UNMAP, 7 << 20)] {
            let range = ByteRange::new(start, 700_000);
            let rq = Request::new(Op::WriteZeroes, range).with_flags(flags);
            seam::execute(&view, rq, Lease::empty()).await.0.unwrap();
            model[start as usize..][..700_000].fill(0);
        }
        // What a discarded range reads as is the server's choice.
        let discard = Request::new(Op::Discard, ByteRange::new(12 << 20, 1 << 20));
        seam::execute(&view, discard, Lease::empty()).await.0.unwrap();
        let again = vec![5; 1 << 20];
        seam::write(&view, 12 << 20, &again).await.unwrap();
        model[12 << 20..][..1 << 20].fill(5);
        seam::execute(&view, Request::flush(), Lease::empty()).await.0.unwrap();
        assert!(read_all(&view, Priority::Demand).await == model);
    });
    assert!(server.disk() == model);
}

#[test]
fn qemu_nbd_is_read() {
    let arguments = ["-r", "-t", "-e", "4", "-x", "disk", "-k", "DIR/sock", "-f", "raw", "DIR/disk"];
    let Some(server) = Server::start("qemu_nbd_is_read", "qemu-nbd", &arguments) else { return };
    reads_agree(&server, "disk");
}

#[test]
fn qemu_nbd_for_one_client_is_read() {
    let arguments = ["-r", "-t", "-x", "disk", "-k", "DIR/sock", "-f", "raw", "DIR/disk"];
    let Some(server) = Server::start("qemu_nbd_for_one_client_is_read", "qemu-nbd", &arguments) else {
        return;
    };
    let world = RealWorld::new();
    world.block_on(async {
        let (client, view) = open(server.config("disk"), Use::READ, &world).await;
        assert!(read_all(&view, Priority::Fill).await == patterned());
        assert_eq!(client.counters().connections(), 1);
    });
}

#[test]
fn qemu_nbd_is_written() {
    let arguments =
        ["-t", "-e", "4", "-x", "disk", "-k", "DIR/sock", "-f", "raw", "--discard=unmap", "DIR/disk"];
    let Some(server) = Server::start("qemu_nbd_is_written", "qemu-nbd", &arguments) else { return };
    changes_arrive(&server, "disk");
}

#[test]
fn nbdkit_is_read() {
    let arguments = ["-f", "-r", "-U", "DIR/sock", "file", "DIR/disk"];
    let Some(server) = Server::start("nbdkit_is_read", "nbdkit", &arguments) else { return };
    reads_agree(&server, "");
}

#[test]
fn nbdkit_with_block_sizes_is_written() {
    let policy = ["blocksize-minimum=4096", "blocksize-preferred=4096", "blocksize-maximum=64K"];
    let mut arguments = vec!["-f", "-U", "DIR/sock", "--filter=blocksize-policy", "file", "DIR/disk"];
    arguments.extend(policy);
    arguments.push("blocksize-error-policy=error");
    let Some(server) = Server::start("nbdkit_with_block_sizes_is_written", "nbdkit", &arguments) else {
        return;
    };
    changes_arrive(&server, "");
}

#[test]
fn nbdkit_without_structured_replies_is_read() {
    let arguments = ["-f", "-r", "--no-sr", "-U", "DIR/sock", "file", "DIR/disk"];
    let Some(server) = Server::start("nbdkit_without_structured_replies_is_read", "nbdkit", &arguments)
    else {
        return;
    };
    reads_agree(&server, "");
}

#[test]
fn nbd_server_is_read_and_written() {
    let Some(server) = start_nbd_server("nbd_server_is_read_and_written") else { return };
    reads_agree(&server, "disk");
    changes_arrive(&server, "disk");
}

/// It takes a configuration file instead of arguments, and goes to the background.
fn start_nbd_server(test: &str) -> Option<Server> {
    let script = "cat > DIR/conf <<END\n[generic]\nunixsock=DIR/sock\nallowlist=true\n\
                  [disk]\nexportname=DIR/disk\nflush=true\nfua=true\ntrim=true\nEND\n\
                  exec nbd-server -C DIR/conf -p DIR/pid";
    if Command::new("nbd-server").arg("--version").output().is_err() {
        sim::skip(&format!("driver nbd peers {test}"), "nbd-server");
        return None;
    }
    Server::start(test, "sh", &["-c", script])
}

#[test]
fn a_killed_server_that_comes_back_is_not_noticed() {
    let arguments = ["-t", "-e", "4", "-x", "disk", "-k", "DIR/sock", "-f", "raw", "DIR/disk"];
    let Some(mut server) =
        Server::start("a_killed_server_that_comes_back_is_not_noticed", "qemu-nbd", &arguments)
    else {
        return;
    };
    let world = RealWorld::new();
    world.block_on(async {
        let patient = Config { reconnect_delay: Duration::from_secs(60), ..server.config("disk") };
        let (client, view) = open(patient, USE_ALL, &world).await;
        for round in 1..=3u8 {
            let reader = view.clone();
            let (done, is_done) = io::sync::oneshot::channel();
            io::spawn(async move {
                let bytes = read_all(&reader, Priority::Demand).await;
                seam::write(&reader, 3 << 20, &[round; 70_000]).await.unwrap();
                done.send(bytes).unwrap();
            });
            io::sleep(Duration::from_millis(u64::from(round) * 3)).await;
            server.kill();
            io::sleep(Duration::from_millis(300)).await;
            std::fs::remove_file(server.socket()).unwrap();
            server.process = launch(server.program, &server.arguments);
            let mut expected = patterned();
            expected[3 << 20..][..70_000].fill(round - 1);
            let bytes = is_done.await.unwrap();
            assert!(bytes[..3 << 20] == expected[..3 << 20] && bytes[4 << 20..] == expected[4 << 20..]);
            let end = seam::read(&view, ByteRange::new(3 << 20, 70_000)).await.unwrap();
            assert!(end[..] == [round; 70_000]);
        }
        assert!(client.counters().reconnects() >= 1);
    });
}
