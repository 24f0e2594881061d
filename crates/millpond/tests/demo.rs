//! The demo as a program: it passes, it notices what is broken, and it leaves nothing behind.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::fs::{self, File};
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;
use tempfile::TempDir;

const PROGRAM: &str = env!("CARGO_BIN_EXE_millpond");
/// Slow enough for a kill in the middle.
const QUICK: [&str; 4] = ["--rtt", "1ms", "--rate", "100M"];
const GRANULE: usize = 64 << 10;

/// A place for an image, and one for the demo's own files, which must be empty again in the end.
struct Place {
    top: TempDir,
}

impl Place {
    fn new() -> Self {
        let top = tempfile::tempdir().unwrap();
        fs::create_dir(top.path().join("scratch")).unwrap();
        Self { top }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.top.path().join(name)
    }

    fn demo(&self, args: &[&str]) -> Command {
        let mut command = Command::new(PROGRAM);
        command.arg("demo").args(["--readers", "3"]).arg("--dir").arg(self.path("scratch")).args(args);
        command
    }

    fn run(&self, args: &[&str]) -> Output {
        let output = self.demo(args).args(QUICK).output().unwrap();
        self.is_clean();
        output
    }

    /// Runs a demo that has to pass; answers its results.
    fn pass(&self, args: &[&str]) -> Value {
        let output = self.run(&[args, &["--json"]].concat());
        let (out, err) = (text(&output.stdout), text(&output.stderr));
        assert!(output.status.success(), "{args:?}\n{out}\n{err}");
        let result: Value = serde_json::from_str(&out).unwrap();
        assert_eq!((&result["ok"], &result["problems"]), (&true.into(), &Value::Array(Vec::new())));
        result
    }

    /// Nothing of the demo is left: no file, and soon no process.
    fn is_clean(&self) {
        let left: Vec<_> = fs::read_dir(self.path("scratch")).unwrap().collect();
        assert!(left.is_empty(), "{left:?}");
        self.is_quiet();
    }

    fn is_quiet(&self) {
        let deadline = Instant::now() + Duration::from_secs(60);
        while self.processes() > 0 {
            assert!(Instant::now() < deadline, "{} processes are left", self.processes());
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Processes that were started with a path in here.
    fn processes(&self) -> usize {
        let here = self.top.path().to_str().unwrap().as_bytes().to_vec();
        let all = fs::read_dir("/proc").unwrap().flatten();
        let with_us = |line: &Vec<u8>| line.windows(here.len()).any(|window| window == here);
        all.filter_map(|process| fs::read(process.path().join("cmdline")).ok()).filter(with_us).count()
    }

    /// A sparse image with data in about half of its granules; answers its path.
    fn image(&self) -> String {
        let path = self.path("image");
        let file = File::create_new(&path).unwrap();
        file.set_len((24 << 20) + 512).unwrap();
        for granule in (0..300).filter(|granule| granule % 7 < 3) {
            let bytes: Vec<u8> =
                (0..GRANULE).map(|at| (at * 31 + at / 256 + granule * 7) as u8 | 1).collect();
            file.write_all_at(&bytes, (granule * GRANULE) as u64).unwrap();
        }
        path.to_str().unwrap().to_owned()
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn number(result: &Value, pointer: &str) -> u64 {
    result.pointer(pointer).and_then(Value::as_u64).unwrap_or_else(|| panic!("{pointer} of {result:#}"))
}

/// What must hold of any demo that passes.
fn check(result: &Value) {
    let [size, granules] = ["/image/size", "/image/allocated-granule-bytes"].map(|p| number(result, p));
    for verified in ["/verified/bytes", "/verified/pivoted-bytes"] {
        assert_eq!(number(result, verified), 3 * size, "{verified}");
    }
    assert_eq!(number(result, "/verified/wrong-bytes"), 0);
    let [link, cost] = ["/fetched/link-bytes", "/restart/cost-bytes"].map(|p| number(result, p));
    // What the kill cost had left before it; some more was on the line then.
    assert!(cost <= number(result, "/restart/link-bytes-before"), "{result:#}");
    // Of a granule that is data only in part, only that part has to come.
    assert!(link >= number(result, "/image/allocated-bytes"), "{result:#}");
    assert!(link <= granules + cost + (granules + cost) / 100 + (4 << 20), "{result:#}");
    assert_eq!(number(result, "/fetched/hole-bytes"), 0);
    assert!(result["first-byte-seconds"].as_f64().unwrap() > 0.001, "faster than the link: {result:#}");
    assert!(result["restart"]["served-again-seconds"].as_f64().unwrap() > 0.0, "{result:#}");
}

fn skipped(test: &str, peer: &str) {
    println!("skipped: {test}: no {peer}");
    if let Some(log) = std::env::var_os("MILLPOND_SKIP_LOG") {
        let mut log = File::options().append(true).create(true).open(log).unwrap();
        writeln!(log, "{test}: no {peer}").unwrap();
    }
}

fn is_there(program: &str) -> bool {
    Command::new(program).arg("-V").stdout(Stdio::null()).stderr(Stdio::null()).status().is_ok()
}

#[test]
fn a_sparse_image_is_fetched_once_and_whole() {
    let place = Place::new();
    let image = place.image();
    let result = place.pass(&["--image", &image]);
    check(&result);
    // Every granule of data is full of it, so that all of it has to come.
    let data = (0..300).filter(|granule| granule % 7 < 3).count() * GRANULE;
    assert_eq!(number(&result, "/image/allocated-bytes"), data as u64);
}

#[test]
fn an_image_can_be_made_as_fat() {
    check(&Place::new().pass(&["--filesystem", "fat", "--data", "6"]));
}

#[test]
fn an_image_can_be_made_as_ext4() {
    if !["mke2fs", "/usr/sbin/mke2fs", "/sbin/mke2fs"].into_iter().any(is_there) {
        return skipped("an_image_can_be_made_as_ext4", "mke2fs");
    }
    check(&Place::new().pass(&["--filesystem", "ext4", "--data", "6"]));
}

#[test]
fn an_image_can_come_from_a_server() {
    let place = Place::new();
    let image = place.image();
    let (socket, pid_file) = (place.path("nbd.sock"), place.path("nbd.pid"));
    let mut server = Command::new(PROGRAM);
    server.args(["nbd", "--fork", "-r", "-t", "-e", "0", "-f", "raw", "-k"]).arg(&socket);
    let served = server.arg("--pid-file").arg(&pid_file).arg(&image).status().unwrap();
    assert!(served.success());
    let uri = format!("nbd+unix:///?socket={}", socket.display());
    let output = place.demo(&["--image", &uri, "--json"]).args(QUICK).output().unwrap();
    let pid = fs::read_to_string(pid_file).unwrap();
    assert!(Command::new("kill").arg(pid.trim()).status().unwrap().success());
    assert!(output.status.success(), "{}", text(&output.stderr));
    check(&serde_json::from_slice(&output.stdout).unwrap());
    place.is_clean();
}

#[test]
fn an_image_can_be_qcow2() {
    if !is_there("qemu-img") {
        return skipped("an_image_can_be_qcow2", "qemu-img");
    }
    let place = Place::new();
    let (raw, image) = (place.image(), place.path("image.qcow2"));
    let mut convert = Command::new("qemu-img");
    convert.args(["convert", "-c", "-f", "raw", "-O", "qcow2", &raw]).arg(&image);
    assert!(convert.status().unwrap().success());
    check(&place.pass(&["-f", "qcow2", "--image", image.to_str().unwrap()]));
}

#[test]
fn the_readers_can_be_guests() {
    if !is_there("qemu-system-x86_64") {
        return skipped("the_readers_can_be_guests", "qemu-system-x86_64");
    }
    let place = Place::new();
    for filesystem in ["auto", "fat"] {
        let result = place.pass(&["--boot", "--data", "6", "--filesystem", filesystem]);
        check(&result);
        // Each has written a granule.
        assert_eq!(number(&result, "/machines/written-bytes"), 3 * GRANULE as u64);
    }
    let output = place.run(&["--boot", "--data", "6", "--sabotage", "cache"]);
    let said = text(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{said}");
    // Of a granule no more is known than that its checksum is wrong.
    assert!(said.contains(&format!("{} wrong bytes without the host", 3 * GRANULE)), "{said}");
}

/// Whatever else may be missing where nothing is.
#[test]
fn without_qemu_there_are_no_guests() {
    let place = Place::new();
    let mut demo = place.demo(&["--boot", "--data", "1"]);
    let output = demo.env("PATH", place.path("")).output().unwrap();
    let said = text(&output.stderr);
    let last = said.lines().last().unwrap();
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(last.starts_with("millpond: 'qemu-system-x86_64' is not there: install it"), "{said}");
    place.is_clean();
}

#[test]
fn what_is_broken_is_noticed() {
    let place = Place::new();
    let image = place.image();
    let cases = [
        ("cache", "3 wrong bytes without the repository; 3 wrong bytes without the host"),
        ("link", "wrong"),
        ("pivot", "needs the daemon until image"),
        ("twice", "bytes left the repository"),
        // The last one: it changes the image for good.
        ("source", "the fill stands"),
    ];
    for (what, expected) in cases {
        let output = place.run(&["--image", &image, "--sabotage", what]);
        let said = text(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{what}: {said}");
        assert!(said.contains(expected), "{what}: {said}");
    }
}

#[test]
fn a_cache_that_is_lost_is_noticed() {
    let place = Place::new();
    let image = place.image();
    // So slow that most of it is durable when the host is killed.
    let slow = ["--rtt", "1ms", "--rate", "16M"];
    let output = place.demo(&["--image", &image, "--sabotage", "loss"]).args(slow).output().unwrap();
    let said = text(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("bytes left the repository"), "{said}");
    place.is_clean();
}

#[test]
fn mistakes_are_one_line() {
    let place = Place::new();
    let [missing, empty] = ["missing", "empty"].map(|name| place.path(name).to_str().unwrap().to_owned());
    File::create_new(&empty).unwrap();
    let cases: [(&[&str], &str); 4] = [
        (&["--image", &missing], &missing),
        (&["--image", "nbds://example.org/"], "TLS"),
        (&["--image", &empty, "-f", "vhdx"], "vhdx"),
        (&["--image", &empty], "the image is empty"),
    ];
    for (args, expected) in cases {
        let output = place.run(args);
        let said = text(&output.stderr);
        let last = said.lines().last().unwrap();
        assert_eq!(output.status.code(), Some(1), "{args:?}: {said}");
        assert!(last.starts_with("millpond: ") && last.contains(expected), "{args:?}: {said}");
    }
}

/// A demo that has said that it fills.
fn begun(place: &Place) -> Child {
    let image = place.image();
    let demo = place.demo(&["--image", &image, "--rate", "4M"]);
    // It is to be interrupted, however the tests were started.
    let mut command = Command::new("env");
    command.arg("--default-signal=INT").arg(demo.get_program()).args(demo.get_args());
    let mut child = command.stderr(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap();
    let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
    assert!(lines.any(|line| line.unwrap().contains("filling")), "it never began to fill");
    // Whatever it says from here on has room.
    std::thread::spawn(move || lines.count());
    child
}

fn signal(name: &str, child: &Child) {
    assert!(Command::new("kill").arg(name).arg(child.id().to_string()).status().unwrap().success());
}

#[test]
fn interrupted_it_cleans_up() {
    for name in ["-INT", "-TERM"] {
        let place = Place::new();
        let mut child = begun(&place);
        assert!(place.processes() >= 3);
        signal(name, &child);
        assert_eq!(child.wait().unwrap().code(), Some(1));
        place.is_clean();
    }
}

#[test]
fn killed_it_takes_its_processes_along() {
    let place = Place::new();
    let mut child = begun(&place);
    signal("-KILL", &child);
    child.wait().unwrap();
    place.is_quiet();
}
