//! Internal snapshots as disks (`-l`): the one that qemu-nbd takes for the same words, or none.

use crate::lab::{Lab, MILLPOND, Server};

/// Ids and names, one of which is another's id.
const WANTED: [&str; 10] = [
    "one",
    "1",
    "2",
    "3",
    "two",
    "snapshot.id=1",
    "snapshot.name=1",
    "snapshot.id=2,snapshot.name=1",
    "snapshot.id=3,snapshot.name=two",
    "snapshot.name=one",
];
const NONE: [&str; 5] = ["nope", "4", "snapshot.id=9", "snapshot.id=2,snapshot.name=one", "snapshot.foo=1"];

#[test]
fn snapshots_are_those_of_qemu_nbd() {
    let Some(lab) = Lab::new("snapshots_are_those_of_qemu_nbd", &["qemu-img", "qemu-io", "qemu-nbd"]) else {
        return;
    };
    lab.ok("qemu-img", &["create", "-q", "-f", "qcow2", "disk", "1M"]);
    for (byte, name) in [("1", "one"), ("2", "1"), ("3", "two")] {
        lab.ok("qemu-io", &["-f", "qcow2", "-c", &format!("write -q -P {byte} 0 512k"), "disk"]);
        lab.ok("qemu-img", &["snapshot", "-f", "qcow2", "-c", name, "disk"]);
    }
    lab.ok("qemu-io", &["-f", "qcow2", "-c", "write -q -P 4 0 512k", "disk"]);
    let read = |server: &Server| {
        lab.ok("qemu-img", &["convert", "-f", "raw", "-O", "raw", &server.uri(), "copy"]);
        std::fs::read(lab.path("copy")).unwrap()
    };
    let mut found = Vec::new();
    for wanted in WANTED {
        let options = ["-r", "-f", "qcow2", "-l", wanted, "disk"];
        let ours = read(&Server::start(&lab, &options));
        assert!(ours == read(&Server::qemu(&lab, &options)), "{wanted}");
        found.push(ours[0]);
    }
    assert_eq!(found, [1, 1, 2, 3, 3, 1, 2, 2, 3, 1]);
    for wanted in NONE {
        let options = ["-r", "-f", "qcow2", "-k", "none.sock", "-l", wanted, "disk"];
        lab.fails("qemu-nbd", &options);
        let said = lab.fails(MILLPOND, &[&["nbd"], &options[..]].concat());
        let wanted = format!("it has no internal snapshot '{wanted}' (those that it has: one, 1, two)");
        assert!(said.contains(&wanted), "{said}");
    }
}
