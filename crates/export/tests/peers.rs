//! The NBD server and other people's clients, over unix sockets and TCP.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod lab;

use std::process::Command;
use std::sync::Arc;

use export::nbd::{ExportOptions, ServerOptions};
use io::Address;
use io::real::RealWorld;
use io::sync::oneshot;
use tempfile::TempDir;

use lab::player::some_bytes;
use lab::stage::{Stage, options};
use lab::store::{Mood, Store, StoreNode};

const LEN: usize = 16 << 20;

/// What a client process is told: where the export is, and where it may put files.
struct Place {
    uri: String,
    folder: TempDir,
}

impl Place {
    /// Runs a program in the folder and answers what it says; `URI` among its arguments stands for the export's.
    fn run(&self, program: &str, arguments: &[&str]) -> String {
        let arguments: Vec<_> = arguments.iter().map(|argument| argument.replace("URI", &self.uri)).collect();
        let output = command(program).args(&arguments).current_dir(self.folder.path()).output().unwrap();
        let text = [output.stdout, output.stderr].map(|text| String::from_utf8_lossy(&text).into_owned());
        assert!(output.status.success(), "{program} {arguments:?}: {}\n{}", text[0], text[1]);
        text.concat()
    }

    fn file(&self, name: &str) -> Vec<u8> {
        std::fs::read(self.folder.path().join(name)).unwrap()
    }
}

/// A program, with the system's own interpreters before others: nbdsh runs on the python that it was packaged for.
fn command(program: &str) -> Command {
    let mut command = Command::new(program);
    command.env("PATH", format!("/usr/bin:{}", std::env::var("PATH").unwrap_or_default()));
    command
}

/// Whether a program can be run at all.
fn is_there(program: &str, argument: &str) -> bool {
    command(program).arg(argument).output().is_ok_and(|output| output.status.success())
}

/// Serves `store` as "disk" and has `peer` use it on a thread of its own, first at a unix socket, then on TCP.
fn serve(store: &Arc<Store>, writable: bool, peer: impl Fn(&Place, &Store) + Send + Copy + 'static) {
    for tcp in [false, true] {
        let folder = TempDir::new().unwrap();
        let path = folder.path().join("socket");
        let address = match tcp {
            true => Address::Tcp { host: "127.0.0.1".to_owned(), port: 0 },
            false => Address::Unix { path: path.clone() },
        };
        let world = RealWorld::new();
        world.block_on(async {
            let stage = Stage::start(world.clone(), ServerOptions::default(), 2, address);
            let options = ExportOptions { writable, ..options("disk") };
            let export = stage.export_node(options, Arc::new(StoreNode(store.clone())));
            let uri = match &stage.address {
                Address::Tcp { port, .. } => format!("nbd://127.0.0.1:{port}/disk"),
                _ => format!("nbd+unix:///disk?socket={}", path.display()),
            };
            let (tell, told) = oneshot::channel();
            let (place, store) = (Place { uri, folder }, store.clone());
            std::thread::spawn(move || {
                peer(&place, &store);
                tell.send(()).unwrap();
            });
            told.await.expect("the peer's part has failed");
            stage.server.idle().await;
            assert_eq!(export.clients(), 0);
        });
    }
}

fn store(seed: u64) -> Arc<Store> {
    Store::new(some_bytes(seed, LEN), Mood { delay_us: 0..=100, ..Mood::MIXED })
}

#[test]
fn nbdinfo_understands_what_it_is_told() {
    if !is_there("nbdinfo", "--version") {
        return sim::skip("export nbdinfo_understands_what_it_is_told", "nbdinfo");
    }
    serve(&store(1), true, |place, _| {
        let told = place.run("nbdinfo", &["URI"]);
        let size = format!("export-size: {LEN}");
        for expected in [
            "newstyle-fixed without TLS, using structured packets",
            &size,
            "base:allocation",
            "is_read_only: false",
            "can_multi_conn: true",
            "can_df: true",
            "can_fast_zero: true",
            "block_size_maximum: 33554432",
        ] {
            assert!(told.contains(expected), "no '{expected}' in {told}");
        }
        assert!(place.run("nbdinfo", &["--list", "URI"]).contains("export=\"disk\""));
        assert!(place.run("nbdinfo", &["--map", "URI"]).contains("hole,zero"));
    });
    serve(&store(1), false, |place, _| {
        assert!(place.run("nbdinfo", &["URI"]).contains("is_read_only: true"));
    });
}

#[test]
fn nbdcopy_copies_both_ways() {
    if !is_there("nbdcopy", "--version") {
        return sim::skip("export nbdcopy_copies_both_ways", "nbdcopy");
    }
    serve(&store(2), true, |place, store| {
        place.run("nbdcopy", &["URI", "out"]);
        assert!(place.file("out") == store.bytes());
        let other = some_bytes(3 + u64::from(place.uri.contains("unix")), LEN);
        std::fs::write(place.folder.path().join("in"), &other).unwrap();
        place.run("nbdcopy", &["--flush", "--connections=4", "--requests=32", "in", "URI"]);
        assert!(store.bytes() == other);
        place.run("nbdcopy", &["--connections=2", "--request-size=4194304", "--synchronous", "URI", "again"]);
        assert!(place.file("again") == other);
        assert!(store.flushes.load(std::sync::atomic::Ordering::SeqCst) > 0);
    });
}

const NBDSH: &str = r#"
import errno, os
h.set_strict_mode(0)
size = h.get_size()
h.pwrite(b"abc" * 1000, 5000, nbd.CMD_FLAG_FUA)
assert h.pread(3000, 5000) == b"abc" * 1000
assert h.pread(3000, 5000, nbd.CMD_FLAG_DF) == b"abc" * 1000
h.zero(100, 5000, nbd.CMD_FLAG_NO_HOLE)
h.zero(4096, 1 << 20, nbd.CMD_FLAG_FAST_ZERO)
h.trim(4096, 2 << 20)
h.cache(4096, 0)
h.flush()
assert h.pread(101, 5000) == bytes(100) + b"b"
assert h.pread(4096, 1 << 20) == bytes(4096)
found = []
h.block_status(8192, 1 << 20, lambda c, o, e, err: found.append((c, o, e)) or 0, nbd.CMD_FLAG_REQ_ONE)
assert found[0][:2] == ("base:allocation", 1 << 20) and len(found[0][2]) == 2 and found[0][2][1] == 3, found
def fails(number, what):
    try:
        what()
    except nbd.Error as error:
        assert error.errno == number, error
        return
    raise AssertionError("it did not fail")
fails("EINVAL", lambda: h.pread(2, size - 1))
fails("ENOSPC", lambda: h.pwrite(b"xx", size - 1))
fails("EINVAL", lambda: h.pread(0, size + 1))
fails("EINVAL", lambda: h.block_status(0, 0, lambda *a: 0))
assert h.pread(1, size - 1) is not None
# Many at once, each into its own place.
buffers = [nbd.Buffer(100 + i) for i in range(200)]
cookies = [h.aio_pread(b, 7 * i) for i, b in enumerate(buffers)]
while h.aio_in_flight() > 0:
    h.poll(-1)
for cookie in cookies:
    assert h.aio_command_completed(cookie)
whole = h.pread(7 * 200 + 300, 0)
for i, b in enumerate(buffers):
    assert b.to_bytearray() == whole[7 * i:7 * i + 100 + i], i
h.shutdown()
"#;

#[test]
fn nbdsh_finds_every_command_as_the_protocol_has_it() {
    if !is_there("nbdsh", "--version") {
        return sim::skip("export nbdsh_finds_every_command_as_the_protocol_has_it", "nbdsh");
    }
    serve(&store(4), true, |place, _| {
        place.run("nbdsh", &["--base-allocation", "-u", "URI", "-c", NBDSH]);
    });
}

const NBDSH_SIMPLE: &str = r#"
h.set_request_structured_replies(False)
h.connect_uri("URI")
assert not h.get_structured_replies_negotiated()
h.pwrite(b"xyz" * 50000, 123)
assert h.pread(150000, 123) == b"xyz" * 50000
h.shutdown()
"#;

#[test]
fn nbdsh_without_structured_replies() {
    if !is_there("nbdsh", "--version") {
        return sim::skip("export nbdsh_without_structured_replies", "nbdsh");
    }
    serve(&store(5), true, |place, _| {
        place.run("nbdsh", &["-c", NBDSH_SIMPLE]);
    });
}

#[test]
fn fio_verifies_what_it_has_written() {
    let test = "fio_verifies_what_it_has_written";
    if !Command::new("fio")
        .arg("--enghelp")
        .output()
        .is_ok_and(|o| String::from_utf8_lossy(&o.stdout).contains("nbd"))
    {
        return sim::skip(&format!("export {test}"), "fio with its nbd engine");
    }
    serve(&store(6), true, |place, _| {
        let job = [
            "--name=verify",
            "--ioengine=nbd",
            "--uri=URI",
            "--rw=randrw",
            "--bsrange=512-200k",
            "--blockalign=512",
            "--iodepth=16",
            "--size=16M",
            "--verify=crc32c",
            "--verify_backlog=64",
            "--verify_fatal=1",
            "--fsync=50",
        ];
        place.run("fio", &job);
    });
}

#[test]
fn qemu_io_and_qemu_img_agree() {
    for tool in ["qemu-io", "qemu-img"] {
        if !is_there(tool, "--version") {
            return sim::skip("export qemu_io_and_qemu_img_agree", tool);
        }
    }
    serve(&store(7), true, |place, store| {
        let io = |commands: &[&str]| {
            let commands = commands.iter().flat_map(|command| ["-c", command]);
            let arguments: Vec<_> = ["-f", "raw", "URI"].into_iter().chain(commands).collect();
            let told = place.run("qemu-io", &arguments);
            assert!(!told.contains("failed") && !told.contains("error"), "{told}");
        };
        io(&["write -P 7 64k 300k", "read -P 7 64k 300k", "write -z 100k 8k", "read -P 0 100k 8k"]);
        io(&["write -z -u 1M 1M", "discard 3M 1M", "flush", "read -P 0 1M 1M", "write -f -P 9 12345 1111"]);
        io(&[
            "aio_write -P 1 5M 1M",
            "aio_write -P 2 6M 1M",
            "aio_flush",
            "read -P 1 5M 1M",
            "read -P 2 6M 1M",
        ]);
        let bytes = store.bytes();
        assert!(
            bytes[12345..13456] == [9; 1111] && bytes[100 << 10..108 << 10].iter().all(|byte| *byte == 0)
        );
        std::fs::write(place.folder.path().join("same"), bytes).unwrap();
        place.run("qemu-img", &["compare", "-f", "raw", "-F", "raw", "URI", "same"]);
        place.run("qemu-img", &["convert", "-f", "raw", "-O", "raw", "-m", "16", "-W", "URI", "out"]);
        assert!(place.file("out") == store.bytes());
        place.run("qemu-img", &["convert", "-n", "-f", "raw", "-O", "raw", "same", "URI"]);
        assert!(place.file("same") == store.bytes());
        assert!(place.run("qemu-img", &["map", "-f", "raw", "URI"]).contains("Offset"));
    });
}
