//! How the server begins and ends.

use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixStream;

use crate::lab::{Lab, MILLPOND, PATIENCE, PYTHON, Server, signal, wait_for};
use crate::wire::{request, shake_hands};

/// What a service manager does: a listening socket as descriptor 3, and who it is for.
const ACTIVATE: &str = include_str!("activate.py");

const RAW: [&str; 3] = ["-f", "raw", "disk.img"];

#[test]
fn without_t_it_ends_with_its_last_client() {
    let lab = Lab::new("without_t_it_ends_with_its_last_client", &[]).unwrap();
    lab.image("disk.img", 1 << 20);
    let mut server = Server::once(&lab, &[&["-e", "2"], &RAW[..]].concat());
    let mut clients = [0, 1].map(|_| UnixStream::connect(server.socket()).unwrap());
    clients.iter_mut().for_each(|client| shake_hands(client).unwrap());
    let [first, last] = clients;
    drop(first);
    wait_for("the first has left", || server.told().contains("has left"));
    assert!(server.is_running());
    drop(last);
    assert!(server.ends().success());
    assert!(!std::path::Path::new(server.socket()).exists());
}

/// As with qemu-nbd: only a client that has opened the export, and left, ends it.
#[test]
fn without_t_it_outlives_those_who_only_knock() {
    let Some(lab) = Lab::new("without_t_it_outlives_those_who_only_knock", &["nbdinfo"]) else { return };
    lab.image("disk.img", 1 << 20);
    let mut server = Server::once(&lab, &[&["-e", "0"], &RAW[..]].concat());
    let connect = || UnixStream::connect(server.socket()).unwrap();
    let (bare, list, uri) =
        (|| drop(connect()), || drop(lab.ok("nbdinfo", &["--list", &server.uri()])), server.uri());
    let garbage = || connect().write_all(&[0x5a; 4096]).unwrap();
    let other_name = || assert!(!lab.run("nbdinfo", &[&server.uri_of("other")]).status.success());
    let knocks: [&dyn Fn(); 4] = [&bare, &list, &garbage, &other_name];
    for knock in knocks {
        let before = server.told().matches("has left").count();
        knock();
        wait_for("it has left", || server.told().matches("has left").count() > before);
    }
    assert!(server.is_running());
    assert_eq!(lab.ok("nbdinfo", &["--size", &uri]).trim(), "1048576");
    assert!(server.ends().success());
}

#[test]
fn fork_returns_when_clients_can_come() {
    let Some(lab) = Lab::new("fork_returns_when_clients_can_come", &["nbdinfo"]) else { return };
    lab.image("disk.img", 1 << 20);
    let socket = lab.name("socket");
    let background = ["nbd", "-t", "--fork", "--pid-file", "pid", "-k", &socket];
    lab.ok(MILLPOND, &[&background[..], &RAW].concat());
    let uri = format!("nbd+unix:///?socket={socket}");
    assert_eq!(lab.ok("nbdinfo", &["--size", &uri]).trim(), "1048576");
    let written = std::fs::read_to_string(lab.path("pid")).unwrap();
    let pid: u32 = written.trim().parse().unwrap();
    assert_eq!(lab.processes(), [pid]);
    signal(pid, "TERM");
    wait_for("it has ended", || lab.processes().is_empty());
    assert!(!lab.path("socket").exists());
}

#[test]
fn a_link_named_qemu_nbd_is_the_same() {
    let Some(lab) = Lab::new("a_link_named_qemu_nbd_is_the_same", &["nbdinfo"]) else { return };
    lab.image("disk.img", 1 << 20);
    std::os::unix::fs::symlink(MILLPOND, lab.path("qemu-nbd")).unwrap();
    let server = Server::spawn(&lab, lab.command(lab.path("qemu-nbd")), &[&["-t"], &RAW[..]].concat());
    assert_eq!(lab.ok("nbdinfo", &["--size", &server.uri()]).trim(), "1048576");
    let told = lab.fails(&lab.name("qemu-nbd"), &["-f", "raw", "missing.img"]);
    assert!(told.starts_with("qemu-nbd: "), "{told}");
    assert!(lab.ok(&lab.name("qemu-nbd"), &["--version"]).starts_with("qemu-nbd 10.0.2 (millpond "));
    assert!(lab.ok(&lab.name("qemu-nbd"), &["--help"]).contains("Usage: qemu-nbd [OPTIONS] [FILE]"));
}

#[test]
fn a_service_manager_hands_over_its_socket() {
    let Some(lab) = Lab::new("a_service_manager_hands_over_its_socket", &["nbdinfo", "python3"]) else {
        return;
    };
    lab.image("disk.img", 1 << 20);
    std::fs::write(lab.path("activate.py"), ACTIVATE).unwrap();
    let socket = lab.name("handed");
    let activate = |options: &[&str]| {
        let mut command = lab.command(PYTHON);
        command.args(["activate.py", &socket, MILLPOND, "nbd", "-t"]).args(options).args(RAW);
        command
    };
    let mut server = Server::activated(activate(&["-v"]), socket.clone());
    assert_eq!(lab.ok("nbdinfo", &["--size", &server.uri()]).trim(), "1048576");
    assert!(server.stop().success());
    // In the background it is another process than the one that was meant.
    assert!(activate(&["--fork", "--pid-file", "pid"]).status().unwrap().success());
    assert_eq!(lab.ok("nbdinfo", &["--size", &server.uri()]).trim(), "1048576");
    let pid = std::fs::read_to_string(lab.path("pid")).unwrap().trim().parse().unwrap();
    signal(pid, "TERM");
    wait_for("it has ended", || lab.processes().is_empty());
    let refused = activate(&["-k", "/tmp/other"]).output().unwrap();
    assert_eq!(refused.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&refused.stderr).contains("'--socket'"));
}

const WRITE: u16 = 1;
const LEN: u32 = 256 << 10;
const WRITES: u32 = 128;

/// SIGTERM comes while many writes are under way: whatever was acknowledged is in the file.
#[test]
fn told_to_end_it_carries_out_what_has_begun() {
    let lab = Lab::new("told_to_end_it_carries_out_what_has_begun", &[]).unwrap();
    for cache in ["--cache=writeback", "--cache=none"] {
        lab.image("disk.img", (WRITES * LEN) as usize);
        let mut server = Server::start(&lab, &[&[cache], &RAW[..]].concat());
        let mut client = UnixStream::connect(server.socket()).unwrap();
        client.set_read_timeout(Some(PATIENCE)).unwrap();
        shake_hands(&mut client).unwrap();
        let mut sender = client.try_clone().unwrap();
        let sending = std::thread::spawn(move || {
            let payload = vec![0xa5; LEN as usize];
            // The server ends in between.
            let _ = (0..WRITES).try_for_each(|n| {
                let offset = u64::from(n) * u64::from(LEN);
                sender
                    .write_all(&request(WRITE, offset, offset, LEN))
                    .and_then(|()| sender.write_all(&payload))
            });
        });
        let mut replies = Vec::new();
        let mut reply = [0; 16];
        client.read_exact(&mut reply).unwrap();
        replies.push(reply);
        signal(server.pid(), "TERM");
        while client.read_exact(&mut reply).is_ok() {
            replies.push(reply);
        }
        sending.join().unwrap();
        assert!(server.ends().success());
        acknowledged_writes_are_there(&lab, &replies);
    }
}

fn acknowledged_writes_are_there(lab: &Lab, replies: &[[u8; 16]]) {
    let disk = std::fs::read(lab.path("disk.img")).unwrap();
    for reply in replies {
        assert_eq!(reply[..8], [0x67, 0x44, 0x66, 0x98, 0, 0, 0, 0], "an error");
        let at = u64::from_be_bytes(reply[8..].try_into().unwrap()) as usize;
        assert!(
            disk[at..at + LEN as usize].iter().all(|byte| *byte == 0xa5),
            "the write at {at} is not there"
        );
    }
}
