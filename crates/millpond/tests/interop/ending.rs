//! Told to end, the server ends, whatever its requests wait for.

use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixStream;

use crate::lab::{Lab, PATIENCE, Server, signal, wait_for};
use crate::wire::{request, shake_hands};

const READ: u16 = 0;
const WRITE: u16 = 1;
const LEN: u32 = 64 << 10;

/// A daemon whose export "" is an export of another server, which it would wait for long.
fn daemon(lab: &Lab, source: &Server) -> Server {
    let mut command = lab.command("millpond");
    let _ = std::fs::remove_file(lab.path("daemon.pid"));
    let socket = lab.name("daemon.sock");
    let node =
        format!("nbd,node-name=n,server.type=unix,server.path={},reconnect-delay=1000", source.socket());
    let chardev = format!("socket,id=c,path={},server=on,wait=off", lab.name("qmp.sock"));
    command.args(["daemon", "--pidfile", "daemon.pid", "--blockdev", &node, "--chardev", &chardev]);
    command.args(["--monitor", "c", "--nbd-server", &format!("addr.type=unix,addr.path={socket}")]);
    command.args(["--export", "nbd,id=e,node-name=n,name=,writable=on"]);
    Server::announced(command, &lab.path("daemon.pid"), socket)
}

/// A host daemon with one clone of an export of another server, which it would wait for long.
fn host(lab: &Lab, source: &Server, mode: &str) -> Server {
    let which = ["--pond", "pond", "--runtime", "run"];
    let mut command = lab.command("millpond");
    command.arg("up").args(which).args(["--pid-file", "up.pid", "--source-timeout", "1000"]);
    let host = Server::announced(command, &lab.path("up.pid"), String::new());
    let clone = [&["clone"], &which[..], &["--mode", mode, "--json", &source.uri(), "vm.qcow2"]];
    let made: serde_json::Value = serde_json::from_str(&lab.ok("millpond", &clone.concat())).unwrap();
    host.seen_at(made["socket"].as_str().unwrap())
}

fn client(server: &Server) -> UnixStream {
    let mut client = UnixStream::connect(server.socket()).unwrap();
    client.set_read_timeout(Some(PATIENCE)).unwrap();
    shake_hands(&mut client).unwrap();
    client
}

/// Error and cookie of the next simple reply.
fn reply(client: &mut UnixStream) -> (u32, u64) {
    let mut reply = [0; 16];
    client.read_exact(&mut reply).unwrap();
    assert_eq!(reply[..4], [0x67, 0x44, 0x66, 0x98]);
    (u32::from_be_bytes(reply[4..8].try_into().unwrap()), u64::from_be_bytes(reply[8..].try_into().unwrap()))
}

/// A server whose image is an export of another one, which it would wait for long.
fn relay(lab: &Lab, source: &Server, options: &[&str]) -> Server {
    let node = format!(
        "driver=raw,file.driver=nbd,file.server.type=unix,file.server.path={},file.reconnect-delay=1000",
        source.socket()
    );
    Server::start(lab, &[options, &["--image-opts", &node]].concat())
}

/// Where it was written, the last flush finds no source either, and that is told: nobody knows what the source kept.
#[test]
fn what_waits_for_a_lost_source_fails_at_once() {
    let Some(lab) = Lab::new("what_waits_for_a_lost_source_fails_at_once", &["ss"]) else { return };
    lab.image("disk.img", 1 << 20);
    let read_only = lose_a_source(&lab, &["-r"]);
    assert!(read_only.0.success(), "{}", read_only.1);
    let (status, told) = lose_a_source(&lab, &[]);
    assert_eq!(status.code(), Some(1), "{told}");
    assert!(told.contains("millpond: ") && told.contains("called off, there is no connection"), "{told}");
}

#[test]
fn so_it_does_in_a_daemon_however_it_is_told_to_end() {
    let Some(lab) = Lab::new("so_it_does_in_a_daemon_however_it_is_told_to_end", &["ss"]) else { return };
    lab.image("disk.img", 1 << 20);
    let quit = |_: &Server| {
        let mut monitor = UnixStream::connect(lab.path("qmp.sock")).unwrap();
        monitor.write_all(b"{\"execute\":\"qmp_capabilities\"}{\"execute\":\"quit\"}\n").unwrap();
        // It is told of the failure as well.
        let mut told = String::new();
        monitor.read_to_string(&mut told).unwrap();
        assert!(told.contains("\"error\"") && told.contains("there is no connection"), "{told}");
    };
    let ways: [&dyn Fn(&Server); 2] = [&|server| signal(server.pid(), "TERM"), &quit];
    for end in ways {
        let source = Server::start(&lab, &["-f", "raw", "disk.img"]);
        let (status, told) = end_without(source, |source| daemon(&lab, source), 1, end);
        assert_eq!(status.code(), Some(1), "{told}");
        assert!(told.contains("millpond: ") && told.contains("called off, there is no connection"), "{told}");
        assert!(!lab.path("daemon.pid").exists());
    }
}

/// Nothing is written through a clone's socket, and a cache has nothing that its source needs to keep.
#[test]
fn so_it_does_in_a_pond() {
    let Some(lab) = Lab::new("so_it_does_in_a_pond", &["ss"]) else { return };
    lab.image("disk.img", 1 << 20);
    let source = Server::start(&lab, &["-r", "-e", "0", "-f", "raw", "disk.img"]);
    let end = |server: &Server| signal(server.pid(), "TERM");
    let (status, told) = end_without(source, |source| host(&lab, source, "working-set"), 0, &end);
    assert!(status.success(), "{told}");
}

/// Ends a server while requests wait for its source: how it ended, and what it said.
fn lose_a_source(lab: &Lab, options: &[&str]) -> (std::process::ExitStatus, String) {
    let source = Server::start(lab, &["-f", "raw", "disk.img"]);
    let end = |server: &Server| signal(server.pid(), "TERM");
    end_without(source, |source| relay(lab, source, options), u64::from(options.is_empty()), &end)
}

/// The same for a server that `start` starts, with so many writes among the requests, told to end by `end`.
fn end_without(
    mut source: Server,
    start: impl Fn(&Server) -> Server,
    writes: u64,
    end: &dyn Fn(&Server),
) -> (std::process::ExitStatus, String) {
    let mut server = start(&source);
    let mut client = client(&server);
    signal(source.pid(), "KILL");
    source.ends();
    (0..4).for_each(|n| client.write_all(&request(READ, n, n * 65536, 4096)).unwrap());
    (0..writes).for_each(|_| {
        client.write_all(&request(WRITE, 4, 0, 4096)).unwrap();
        client.write_all(&[1; 4096]).unwrap();
    });
    wait_for("they are taken", || !has_received_something(&server));
    end(&server);
    let status = server.ends();
    if !status.success() {
        wait_for("it says why", || server.told().contains("millpond: "));
    }
    const SHUTTING_DOWN: u32 = 108;
    (0..4 + writes).for_each(|_| assert_eq!(reply(&mut client).0, SHUTTING_DOWN));
    (status, server.told())
}

/// Writes held back by a limit are carried out when they need not wait any more.
#[test]
fn what_a_throttle_group_holds_back_goes_on() {
    const WRITES: u64 = 8;
    let lab = Lab::new("what_a_throttle_group_holds_back_goes_on", &[]).unwrap();
    lab.image("disk.img", 1 << 20);
    // One per minute, more or less.
    let group = "throttle-group,id=tg0,x-iops-total=1,x-iops-size=1024";
    let node = "driver=throttle,throttle-group=tg0,file.driver=file,file.filename=disk.img";
    let mut server = Server::start(&lab, &["--object", group, "--image-opts", node]);
    let mut client = client(&server);
    for n in 0..WRITES {
        client.write_all(&request(WRITE, n, n * u64::from(LEN), LEN)).unwrap();
        client.write_all(&vec![0xa5; LEN as usize]).unwrap();
    }
    assert_eq!(reply(&mut client), (0, 0));
    signal(server.pid(), "TERM");
    let mut acknowledged = vec![0];
    let mut head = [0; 16];
    while client.read_exact(&mut head).is_ok() {
        assert_eq!(head[4..8], [0; 4], "an error");
        acknowledged.push(u64::from_be_bytes(head[8..].try_into().unwrap()));
    }
    assert!(server.ends().success(), "{}", server.told());
    let disk = std::fs::read(lab.path("disk.img")).unwrap();
    for n in acknowledged {
        let at = (n * u64::from(LEN)) as usize;
        assert!(disk[at..at + LEN as usize].iter().all(|byte| *byte == 0xa5), "write {n} is not there");
    }
}

/// A source that does not answer cannot be called off: it may have what it was given.
fn hang(lab: &Lab, image: &str, start: impl Fn(&Lab, &Server) -> Server) -> (Server, Server, UnixStream) {
    lab.image(image, 1 << 20);
    let source = Server::start(lab, &["-e", "0", "-f", "raw", image]);
    let server = start(lab, &source);
    let mut client = client(&server);
    client.write_all(&request(READ, 1, 0, 512)).unwrap();
    client.read_exact(&mut [0; 16 + 512]).unwrap();
    stop(&source);
    client.write_all(&request(READ, 2, u64::from(LEN), 512)).unwrap();
    wait_for("the request has left", || has_received_something(&source));
    (source, server, client)
}

/// Stops a server for good: on a busy machine a thread of it may go on for a while.
fn stop(server: &Server) {
    signal(server.pid(), "STOP");
    let is_stopped = |task: std::fs::DirEntry| {
        let stat = std::fs::read_to_string(task.path().join("stat")).unwrap();
        stat.rsplit_once(") ").is_some_and(|(_, rest)| rest.starts_with('T'))
    };
    let tasks = || std::fs::read_dir(format!("/proc/{}/task", server.pid())).unwrap();
    wait_for("it has stopped", || tasks().all(|task| is_stopped(task.unwrap())));
}

/// Whether bytes wait for a server in any of its sockets.
fn has_received_something(server: &Server) -> bool {
    let output = std::process::Command::new("ss").args(["-xnp"]).output().unwrap();
    let pid = format!("pid={},", server.pid());
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let queue = |line: &str| line.split_whitespace().nth(2).is_some_and(|n| n != "0");
    text.lines().any(|line| line.contains(&pid) && queue(line))
}

#[test]
fn what_cannot_be_called_off_has_a_grace() {
    let Some(lab) = Lab::new("what_cannot_be_called_off_has_a_grace", &["ss"]) else { return };
    let faces = [
        ("'driver=raw,", hang(&lab, "a.img", |lab, source| relay(lab, source, &[]))),
        ("the daemon: ", hang(&lab, "b.img", daemon)),
        ("pond '", hang(&lab, "c.img", |lab, source| host(lab, source, "working-set"))),
    ];
    faces.iter().for_each(|(_, (_, server, _))| signal(server.pid(), "TERM"));
    for (what, (_source, mut server, _client)) in faces {
        assert_eq!(server.ends().code(), Some(1), "{what}");
        let why = "waited 5 s to end while 1 requests of 1 clients";
        wait_for("it says why", || server.told().contains(&format!("millpond: {what}")));
        assert!(server.told().contains(why), "{}", server.told());
    }
}

#[test]
fn a_second_signal_ends_it_at_once() {
    let Some(lab) = Lab::new("a_second_signal_ends_it_at_once", &["ss"]) else { return };
    let (_source, mut server, _client) = hang(&lab, "disk.img", |lab, source| relay(lab, source, &[]));
    signal(server.pid(), "TERM");
    wait_for("it was told", || server.told().contains("ending"));
    signal(server.pid(), "TERM");
    assert_eq!(server.ends().code(), Some(1));
    wait_for("it says why", || server.told().contains("told to end once more while 1 requests of 1 clients"));
}

/// A fill that hangs is nobody's loss: the next daemon goes on with it.
#[test]
fn a_pond_ends_well_whatever_its_fill_waits_for() {
    let Some(lab) = Lab::new("a_pond_ends_well_whatever_its_fill_waits_for", &["ss"]) else { return };
    lab.image("disk.img", 64 << 20);
    let group = "throttle-group,id=slow,x-bps-total=65536,x-bps-total-max=1048576";
    let node = "driver=throttle,throttle-group=slow,file.driver=file,file.filename=disk.img";
    let source = Server::start(&lab, &["-r", "-e", "0", "--object", group, "--image-opts", node]);
    let mut host = host(&lab, &source, "complete");
    wait_for("something is fetched", || {
        let listed = lab.ok("millpond", &["list", "--json", "--pond", "pond", "--runtime", "run"]);
        !listed.contains("\"fetched\": 0,")
    });
    stop(&source);
    assert!(host.stop().success(), "{}", host.told());
    assert_eq!(host.told(), "");
}

/// A repository has nothing to lose: whoever uses an image, or only knocks, does not keep it.
#[test]
fn a_repository_ends_under_its_clients() {
    let lab = Lab::new("a_repository_ends_under_its_clients", &[]).unwrap();
    std::fs::create_dir(lab.path("images")).unwrap();
    lab.image("images/disk.raw", 1 << 20);
    let mut server = Server::folder(&lab, "images", &["--format", "raw"]);
    let mut knocking = UnixStream::connect(server.socket()).unwrap();
    knocking.read_exact(&mut [0; 18]).unwrap();
    let mut reading = UnixStream::connect(server.socket()).unwrap();
    crate::wire::open(&mut reading, "disk.raw").unwrap();
    reading.write_all(&request(READ, 1, 0, 512)).unwrap();
    reading.read_exact(&mut [0; 16 + 512]).unwrap();
    assert!(server.stop().success(), "{}", server.told());
    for client in [&mut knocking, &mut reading] {
        assert_eq!(client.read(&mut [0]).unwrap_or(0), 0);
    }
    assert!(!lab.path("serve.sock").exists());
}
