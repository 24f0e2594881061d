//! Several clients at once.

use std::io::Read as _;
use std::os::unix::net::UnixStream;

use crate::lab::{Lab, PATIENCE, Server, wait_for};
use crate::wire::{agree, shake_hands};

const MANY: &str = include_str!("many.py");

fn many(lab: &Lab, server: &mut Server) {
    lab.python(MANY, &[&server.uri(), "8", "model.img"]);
    assert!(server.stop().success());
    let (disk, model) = (std::fs::read(lab.path("disk.img")), std::fs::read(lab.path("model.img")));
    assert!(disk.unwrap() == model.unwrap());
}

const SHARED: &[&str] = &["-f", "raw", "-e", "8", "--threads", "2", "disk.img"];

#[test]
fn eight_clients_over_a_unix_socket() {
    let Some(lab) = Lab::new("eight_clients_over_a_unix_socket", &["python3-libnbd"]) else { return };
    lab.image("disk.img", 8 << 20);
    many(&lab, &mut Server::start(&lab, SHARED));
}

#[test]
fn eight_clients_over_tcp() {
    let Some(lab) = Lab::new("eight_clients_over_tcp", &["python3-libnbd"]) else { return };
    lab.image("disk.img", 8 << 20);
    many(&lab, &mut Server::tcp(&lab, SHARED));
}

/// Who is one too many waits without a greeting until another has left.
#[test]
fn who_is_one_too_many_waits() {
    let lab = Lab::new("who_is_one_too_many_waits", &[]).unwrap();
    lab.image("disk.img", 1 << 20);
    let server = Server::start(&lab, &["-f", "raw", "-e", "2", "disk.img"]);
    let connect = || {
        let client = UnixStream::connect(server.socket()).unwrap();
        client.set_read_timeout(Some(PATIENCE)).unwrap();
        client
    };
    let (mut first, mut second) = (connect(), connect());
    shake_hands(&mut first).unwrap();
    shake_hands(&mut second).unwrap();
    wait_for("two are told of", || server.told().matches("has connected").count() == 2);
    let mut third = connect();
    third.set_nonblocking(true).unwrap();
    let waits = third.read(&mut [0; 1]).unwrap_err();
    assert_eq!(waits.kind(), std::io::ErrorKind::WouldBlock);
    assert_eq!(server.told().matches("has connected").count(), 2);
    third.set_nonblocking(false).unwrap();
    drop(first);
    third.read_exact(&mut [0; 18]).unwrap();
    agree(&mut third).unwrap();
    wait_for("the third is told of", || server.told().matches("has connected").count() == 3);
}
