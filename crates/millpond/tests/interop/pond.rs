//! The pond: serve, up, clone, list, watch, pivot; what other people's tools make of its files.

use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::net::UnixStream;
use std::process::{Child, Stdio};

use serde_json::{Value, json};

use crate::lab::{self, Lab, MILLPOND, Server, signal, wait_for};

const NEEDS: &[&str] = &["qemu-img", "qemu-io"];

/// A daemon for the pond in the lab's folder "pond".
struct Daemon(Child);

impl Daemon {
    fn start(lab: &Lab, options: &[&str]) -> Self {
        let mut command = lab.command(MILLPOND);
        command.arg("up").args(which()).args(["--pid-file", "up.pid"]).args(options);
        let _ = std::fs::remove_file(lab.path("up.pid"));
        let mut daemon = Self(command.stdout(Stdio::null()).spawn().unwrap());
        wait_for("the daemon is up", || {
            assert!(daemon.0.try_wait().unwrap().is_none(), "the daemon has ended");
            lab.path("up.pid").exists()
        });
        daemon
    }

    fn end(&mut self, how: &str) {
        signal(self.0.id(), how);
        wait_for("the daemon ends", || self.0.try_wait().unwrap().is_some());
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        // Ended already: fine.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn which() -> [&'static str; 4] {
    ["--pond", "pond", "--runtime", "run"]
}

fn pond(lab: &Lab, verb: &str, arguments: &[&str]) -> String {
    lab.ok("millpond", &[&[verb], &which()[..], arguments].concat())
}

fn refused(lab: &Lab, verb: &str, arguments: &[&str]) -> String {
    let told = lab.fails("millpond", &[&[verb], &which()[..], arguments].concat());
    assert_eq!(told.lines().count(), 1, "{told}");
    told
}

fn listed(lab: &Lab) -> Value {
    serde_json::from_str(&pond(lab, "list", &["--json"])).unwrap()
}

fn state(lab: &Lab) -> String {
    listed(lab)["images"][0]["state"].as_str().unwrap().to_owned()
}

fn completes(lab: &Lab) {
    wait_for("the image is complete", || state(lab) == "complete");
}

fn compare(lab: &Lab, raw: &str, overlay: &str) {
    lab.ok("qemu-img", &["compare", "-f", "raw", "-F", "qcow2", raw, overlay]);
}

/// Clean, or leaks only.
fn check(lab: &Lab, image: &str) {
    let checked = lab.run("qemu-img", &["check", "-f", "qcow2", image]);
    assert!(matches!(checked.status.code(), Some(0 | 3)), "{image}: {checked:?}");
}

fn cache(lab: &Lab) -> String {
    listed(lab)["images"][0]["cache"].as_str().unwrap().to_owned()
}

/// A repository with one image that gives so many bytes a second.
fn slow_repository(lab: &Lab, rate: u64) -> Server {
    let group = format!("throttle-group,id=slow,x-bps-total={rate},x-bps-total-max={rate}");
    let image = "driver=throttle,throttle-group=slow,file.driver=raw,file.file.driver=file,file.file.filename=disk.raw";
    Server::start(lab, &["-r", "-e", "0", "--object", &group, "--image-opts", image])
}

#[test]
fn a_disk_is_usable_at_once_and_needs_nobody_in_the_end() {
    let Some(lab) = Lab::new("a_disk_is_usable_at_once_and_needs_nobody_in_the_end", NEEDS) else { return };
    std::fs::create_dir(lab.path("images")).unwrap();
    lab.image("images/disk.raw", 8 << 20);
    lab.qcow2("images/disk.raw", "images/disk.qcow2");
    let mut repository = Server::folder(&lab, "images", &[]);
    let uri = repository.uri_of("disk.qcow2");
    // Without a daemon one is started.
    let told = pond(&lab, "clone", &[&uri, "a.qcow2", "--size", "1G"]);
    assert!(told.contains("a.qcow2"), "{told}");
    pond(&lab, "clone", &[&uri, "b.qcow2"]);
    lab.ok("qemu-io", &["-f", "qcow2", "-c", "read -v 0 512", "-c", "write -P 9 9m 64k", "a.qcow2"]);
    compare(&lab, "images/disk.raw", "b.qcow2");
    completes(&lab);
    assert_eq!(pond(&lab, "watch", &["--until-complete"]).matches("100 %").count(), 1);
    let all = listed(&lab);
    assert_eq!((all["images"].as_array().unwrap().len(), all["clones"].as_array().unwrap().len()), (1, 2));
    assert!(all["images"][0]["stated"].as_str().unwrap().starts_with("millpond-id:mtime="));
    let cache = cache(&lab);
    check(&lab, &cache);
    compare(&lab, "images/disk.raw", &cache);
    assert!(!lab.ok("qemu-img", &["info", &cache]).contains("backing file:"));
    // Neither the repository...
    assert!(repository.stop().success());
    compare(&lab, "images/disk.raw", "b.qcow2");
    pond(&lab, "pivot", &["a.qcow2", "b.qcow2"]);
    // ...nor the daemon is needed.
    for pid in lab.processes() {
        signal(pid, "TERM");
    }
    wait_for("the daemon has ended", || lab.processes().is_empty());
    compare(&lab, "images/disk.raw", "b.qcow2");
    lab.ok("qemu-io", &["-f", "qcow2", "-c", "read -P 9 9m 64k", "-c", "write -P 7 0 64k", "a.qcow2"]);
    for overlay in ["a.qcow2", "b.qcow2"] {
        check(&lab, overlay);
    }
    assert_eq!(std::fs::metadata(lab.path("a.qcow2")).unwrap().len() >> 20, 0);
}

/// A storage daemon with a pond: the same commands on its monitors, and at the pond's own socket.
#[test]
fn a_storage_daemon_may_have_a_pond() {
    let Some(lab) = Lab::new("a_storage_daemon_may_have_a_pond", NEEDS) else { return };
    lab.image("disk.raw", 4 << 20);
    let chardev = format!("socket,id=c,path={},server=on,wait=off", lab.name("qmp.sock"));
    let mut command = lab.command(MILLPOND);
    command.args(["daemon", "--pond", "pond,runtime=run", "--pidfile", "d.pid", "--chardev", &chardev]);
    command.args(["--monitor", "c", "--blockdev", "null-co,node-name=n"]);
    let mut daemon = Server::announced(command, &lab.path("d.pid"), String::new());
    let monitor = lab.path("qmp.sock");
    let ask = |command: &str, arguments: Value| {
        let answers = ask(&monitor, &[json!({"execute": command, "arguments": arguments})]);
        answers.into_iter().next().unwrap()
    };
    let (source, overlay) = (lab.name("disk.raw"), lab.name("vm.qcow2"));
    let made = ask("image-add", json!({"source": source}));
    assert!(made["return"]["image"].as_str().unwrap().starts_with("disk.raw-"), "{made}");
    let made = ask("clone-create", json!({"source": source, "overlay": overlay}));
    assert_eq!(made["return"]["pivoted"], false, "{made}");
    wait_for("the image is complete", || ask("query-images", json!({}))["return"][0]["state"] == "complete");
    // The command lines find it as they find any other daemon.
    assert_eq!(listed(&lab)["clones"][0]["overlay"], overlay);
    compare(&lab, "disk.raw", "vm.qcow2");
    assert_eq!(ask("clone-pivot", json!({"overlay": overlay}))["return"]["pivoted"], true);
    let nodes = ask("query-named-block-nodes", json!({}));
    assert!(nodes["return"].as_array().unwrap().iter().any(|node| node["node-name"] == "n"), "{nodes}");
    assert!(refused(&lab, "up", &[]).contains("another daemon"));
    assert!(daemon.stop().success(), "{}", daemon.told());
    compare(&lab, "disk.raw", "vm.qcow2");
    // Without one it has none of this.
    let mut command = lab.command(MILLPOND);
    command.args(["daemon", "--pidfile", "d.pid", "--chardev", &chardev, "--monitor", "c"]);
    let _daemon = Server::announced(command, &lab.path("d.pid"), String::new());
    assert_eq!(ask("query-images", json!({}))["error"]["class"], "CommandNotFound");
}

/// What a monitor answers to commands, events left out.
fn ask(monitor: &std::path::Path, commands: &[Value]) -> Vec<Value> {
    let mut stream = BufReader::new(UnixStream::connect(monitor).unwrap());
    let mut next = |line: &Value| {
        stream.get_mut().write_all(format!("{line}\n").as_bytes()).unwrap();
        let answers = std::iter::from_fn(|| {
            let mut line = String::new();
            stream.read_line(&mut line).unwrap();
            Some(serde_json::from_str::<Value>(&line).unwrap())
        });
        let is_answer = |value: &Value| value.get("return").or(value.get("error")).is_some();
        answers.into_iter().find(is_answer).unwrap()
    };
    next(&json!({"execute": "qmp_capabilities"}));
    commands.iter().map(next).collect()
}

#[test]
fn a_killed_daemon_goes_on_where_it_was() {
    let Some(lab) = Lab::new("a_killed_daemon_goes_on_where_it_was", NEEDS) else { return };
    lab.image("disk.raw", 24 << 20);
    let mut repository = slow_repository(&lab, 4 << 20);
    let mut daemon = Daemon::start(&lab, &[]);
    pond(&lab, "clone", &[&repository.uri(), "vm.qcow2"]);
    for _ in 0..2 {
        let before = listed(&lab)["images"][0]["done"].as_u64().unwrap();
        wait_for("something is fetched", || {
            listed(&lab)["images"][0]["done"].as_u64().unwrap() > before + (1 << 20)
        });
        daemon.end("KILL");
        check(&lab, &format!("pond/images/{}", one_cache(&lab)));
        daemon = Daemon::start(&lab, &[]);
        assert_eq!(state(&lab), "filling");
        lab.ok("qemu-io", &["-f", "qcow2", "-r", "-c", "read 0 64k", "vm.qcow2"]);
    }
    // The source goes away and comes back.
    assert!(repository.stop().success());
    wait_for("that is noticed", || state(&lab) == "lost");
    let mut repository =
        Server::at(&lab, repository.socket(), &["-r", "-e", "0", "-t", "-f", "raw", "disk.raw"]);
    completes(&lab);
    assert!(repository.stop().success());
    compare(&lab, "disk.raw", "vm.qcow2");
    daemon.end("TERM");
    check(&lab, &format!("pond/images/{}", one_cache(&lab)));
    // A complete cache is served again without its source.
    let mut daemon = Daemon::start(&lab, &[]);
    compare(&lab, "disk.raw", "vm.qcow2");
    pond(&lab, "pivot", &["vm.qcow2"]);
    daemon.end("TERM");
    compare(&lab, "disk.raw", "vm.qcow2");
}

fn one_cache(lab: &Lab) -> String {
    let names = std::fs::read_dir(lab.path("pond/images")).unwrap();
    let mut names = names.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    names.find(|name| name.ends_with(".qcow2")).unwrap()
}

#[test]
fn mistakes_are_one_line_and_leave_nothing_behind() {
    let Some(lab) = Lab::new("mistakes_are_one_line_and_leave_nothing_behind", NEEDS) else { return };
    lab.image("disk.raw", 2 << 20);
    lab.image("other.txt", 100);
    assert!(refused(&lab, "list", &[]).contains("millpond up"));
    let mut daemon = Daemon::start(&lab, &[]);
    let second = refused(&lab, "up", &[]);
    assert!(second.contains("another daemon") && second.contains("--pond"), "{second}");
    for (source, overlay, more, words) in [
        ("absent.raw", "x.qcow2", &[][..], "absent.raw"),
        ("other.txt", "x.qcow2", &[], ".qcow2, .raw or .img"),
        ("http://h/x", "x.qcow2", &[], "http"),
        ("nbd+unix:///x?socket=/none", "x.qcow2", &[], "/none"),
        ("disk.raw", "other.txt", &[], "--force"),
        ("disk.raw", "x.qcow2", &["--size", "1M"], "smaller than the image"),
        ("disk.raw", "none/x.qcow2", &[], "none/x.qcow2"),
    ] {
        let told = refused(&lab, "clone", &[&[source, overlay], more].concat());
        assert!(told.contains(words), "{source}: {told}");
        assert!(
            !lab.path("x.qcow2").exists() && std::fs::metadata(lab.path("other.txt")).unwrap().len() == 100
        );
    }
    let all = listed(&lab);
    assert_eq!((&all["clones"], &all["images"]), (&json!([]), &json!([])));
    assert_eq!(std::fs::read_dir(lab.path("pond/images")).unwrap().count(), 0);
    assert!(refused(&lab, "pivot", &["disk.raw"]).contains("no clone"));
    pond(&lab, "clone", &["disk.raw", "vm.qcow2"]);
    completes(&lab);
    let image = listed(&lab)["images"][0]["image"].as_str().unwrap().to_owned();
    assert!(refused(&lab, "remove", &[&image]).contains("vm.qcow2"));
    // The overlay of a running VM stays as it is.
    let mut vm = lab.command("qemu-io");
    vm.args(["-f", "qcow2", "vm.qcow2"]).stdin(Stdio::piped()).stdout(Stdio::null());
    let mut vm = vm.spawn().unwrap();
    wait_for("the VM runs", || listed(&lab)["clones"][0]["connections"] != 0);
    assert!(refused(&lab, "pivot", &["vm.qcow2"]).contains("in use"));
    assert!(refused(&lab, "clone", &["disk.raw", "vm.qcow2", "--force"]).contains("in use"));
    drop(vm.stdin.take());
    vm.wait().unwrap();
    pond(&lab, "pivot", &["vm.qcow2"]);
    assert!(refused(&lab, "remove", &[&image]).contains("vm.qcow2"));
    std::fs::remove_file(lab.path("vm.qcow2")).unwrap();
    pond(&lab, "remove", &[&image]);
    assert!(listed(&lab)["images"].as_array().unwrap().is_empty());
    assert_eq!(std::fs::read_dir(lab.path("pond/images")).unwrap().count(), 0);
    daemon.end("TERM");
}

#[test]
fn another_image_under_the_name_is_never_mixed_in() {
    let Some(lab) = Lab::new("another_image_under_the_name_is_never_mixed_in", NEEDS) else { return };
    std::fs::create_dir(lab.path("images")).unwrap();
    lab.image("images/disk.raw", 4 << 20);
    let mut repository = Server::folder(&lab, "images", &[]);
    let uri = repository.uri_of("disk.raw");
    let mut daemon = Daemon::start(&lab, &["--source-timeout", "1"]);
    pond(&lab, "clone", &[&uri, "vm.qcow2", "--mode", "working-set"]);
    lab.ok("qemu-io", &["-f", "qcow2", "-r", "-c", "read 64k 64k", "vm.qcow2"]);
    assert!(repository.stop().success());
    std::fs::write(lab.path("images/disk.raw"), vec![7; 4 << 20]).unwrap();
    let mut repository = Server::folder(&lab, "images", &[]);
    // What is here is served, what is not fails.
    lab.ok("qemu-io", &["-f", "qcow2", "-r", "-c", "read 64k 64k", "vm.qcow2"]);
    let missed = lab.run("qemu-io", &["-f", "qcow2", "-r", "-c", "read -P 7 2m 64k", "vm.qcow2"]);
    assert!(!missed.status.success());
    let trouble = listed(&lab)["images"][0]["trouble"].as_str().unwrap().to_owned();
    assert!(trouble.contains("its version was millpond-id:"), "{trouble}");
    assert!(repository.stop().success());
    daemon.end("TERM");
}

/// Users who are nobody else here.
const ALICE: &str = "64321";
const BOB: &str = "64322";

/// Runs a program as one of them; whether it succeeded.
fn as_user(lab: &Lab, user: &str, program: &str, arguments: &[&str]) -> bool {
    let who = ["--reuid", user, "--regid", user, "--clear-groups", "--", program];
    let output = lab.run("setpriv", &[&who[..], arguments].concat());
    println!("{user} {program} {arguments:?}: {output:?}");
    output.status.success()
}

fn is_root() -> bool {
    std::os::unix::fs::MetadataExt::uid(&std::fs::metadata("/proc/self").unwrap()) == 0
}

/// A pond of root's with a complete image, a disk on it that is Alice's, and who may do what with them.
struct Shared {
    lab: Lab,
    daemon: Daemon,
    cache: String,
}

impl Shared {
    fn new(test: &str) -> Option<Self> {
        if !is_root() {
            lab::skip(test, "root");
            return None;
        }
        let lab = Lab::new(test, &["qemu-img", "qemu-io", "setpriv"])?.open_to_all();
        lab.image("disk.raw", 2 << 20);
        let daemon = Daemon::start(&lab, &[]);
        pond(&lab, "clone", &["disk.raw", "vm.qcow2", "--owner", &format!("{ALICE}:{ALICE}")]);
        completes(&lab);
        let cache = cache(&lab);
        Some(Self { lab, daemon, cache })
    }

    fn restart(&mut self, how: &str) {
        self.daemon.end(how);
        self.daemon = Daemon::start(&self.lab, &[]);
    }

    /// Whether a VM of this user reads its disk.
    fn compares(&self, user: &str) -> bool {
        let arguments = ["compare", "-f", "raw", "-F", "qcow2", "disk.raw", "vm.qcow2"];
        as_user(&self.lab, user, "qemu-img", &arguments)
    }

    fn reads(&self, user: &str, file: &str) -> bool {
        as_user(&self.lab, user, "head", &["-c", "1", file])
    }

    fn connects(&self, user: &str) -> bool {
        let socket = listed(&self.lab)["clones"][0]["socket"].as_str().unwrap().to_owned();
        let image = format!("driver=raw,file.driver=nbd,file.server.type=unix,file.server.path={socket}");
        as_user(&self.lab, user, "qemu-io", &["--image-opts", "-r", "-c", "read 0 512", &image])
    }

    /// The name by which a user reads the cache.
    fn reading(&self, user: &str) -> String {
        self.lab.name(&format!("pond/readers/{user}/{}", self.cache.rsplit('/').next().unwrap()))
    }
}

#[test]
fn one_users_image_is_for_no_other_user() {
    let Some(mut shared) = Shared::new("one_users_image_is_for_no_other_user") else { return };
    // Through the socket, which its owner alone may use, also after a restart.
    assert!(shared.compares(ALICE));
    shared.restart("KILL");
    assert!(shared.compares(ALICE) && shared.connects(ALICE) && !shared.connects(BOB));
    let cache = shared.cache.clone();
    assert!(!shared.reads(ALICE, &cache) && !shared.reads(BOB, &cache));
    // Through a name of the cache, which is in a folder of the owner's.
    pond(&shared.lab, "pivot", &["vm.qcow2"]);
    let info = shared.lab.ok("qemu-img", &["info", "--output=json", "vm.qcow2"]);
    let info: Value = serde_json::from_str(&info).unwrap();
    let reading = shared.reading(ALICE);
    assert_eq!(info["backing-filename"], reading);
    assert!(shared.compares(ALICE) && shared.reads(ALICE, &reading) && !shared.reads(BOB, &reading));
    assert!(!shared.reads(ALICE, &cache) && !shared.reads(BOB, &cache));
    let writes = ["-c", ": >> \"$0\"", &reading];
    assert!(!as_user(&shared.lab, ALICE, "sh", &writes), "she may write to the cache");
    shared.daemon.end("TERM");
    assert!(shared.compares(ALICE));
}

#[test]
fn a_pivoted_disk_may_change_hands_and_places() {
    let Some(mut shared) = Shared::new("a_pivoted_disk_may_change_hands_and_places") else { return };
    pond(&shared.lab, "pivot", &["vm.qcow2"]);
    shared.lab.ok("chown", &[BOB, "vm.qcow2"]);
    assert!(!shared.compares(BOB));
    pond(&shared.lab, "pivot", &["vm.qcow2"]);
    assert!(shared.compares(BOB) && !shared.reads(ALICE, &shared.reading(BOB)));
    // It is somewhere else while the daemon looks for it.
    let (disk, moved) = (shared.lab.path("vm.qcow2"), shared.lab.path("moved.qcow2"));
    std::fs::rename(&disk, &moved).unwrap();
    shared.restart("TERM");
    std::fs::rename(&moved, &disk).unwrap();
    assert!(shared.compares(BOB), "its cache is gone");
    // The image goes, and every name of it.
    let image = listed(&shared.lab)["images"][0]["image"].as_str().unwrap().to_owned();
    pond(&shared.lab, "remove", &[&image]);
    assert_eq!(std::fs::read_dir(shared.lab.path("pond/readers")).unwrap().count(), 0);
    shared.daemon.end("TERM");
}
