//! Request by request, with libnbd: against a model, and with what must be refused.

use crate::lab::{Lab, Server, is_full};

const NEEDS: &[&str] = &["python3-libnbd"];
const REQUESTS: &str = include_str!("requests.py");
const ERRORS: &str = include_str!("errors.py");

type Start = fn(&Lab, &[&str]) -> Server;

/// Random requests of all kinds against a model, then the file against the model.
fn requests(lab: &Lab, options: &[&str], talk: &str) {
    let bytes = lab.image("disk.img", 8 << 20);
    std::fs::write(lab.path("model.img"), &bytes).unwrap();
    let mut server = Server::start(lab, &[options, &["-f", "raw", "disk.img"]].concat());
    let count = if is_full() { "20000" } else { "1500" };
    lab.python(REQUESTS, &[&server.uri(), "model.img", talk, count]);
    assert!(server.stop().success());
    let (disk, model) = (std::fs::read(lab.path("disk.img")), std::fs::read(lab.path("model.img")));
    assert!(disk.unwrap() == model.unwrap(), "{options:?} {talk}: the file is not what was written");
}

#[test]
fn structured_replies() {
    let Some(lab) = Lab::new("structured_replies", NEEDS) else { return };
    requests(&lab, &["--discard=unmap"], "structured");
}

#[test]
fn simple_replies() {
    let Some(lab) = Lab::new("simple_replies", NEEDS) else { return };
    requests(&lab, &["--discard=unmap"], "simple");
}

#[test]
fn writes_of_zeros_are_found() {
    let Some(lab) = Lab::new("writes_of_zeros_are_found", NEEDS) else { return };
    requests(&lab, &["--discard=unmap", "--detect-zeroes=unmap", "--cache=writethrough"], "structured");
}

#[test]
fn what_must_be_refused_is_refused_as_qemu_nbd_does() {
    let needs = ["python3-libnbd", "qemu-nbd"];
    let Some(lab) = Lab::new("what_must_be_refused_is_refused_as_qemu_nbd_does", &needs) else { return };
    lab.image("disk.img", 40 << 20);
    // What the script expects is QEMU's: it must pass there, too.
    let servers: [(Start, &str); 2] = [(Server::start, "ours"), (Server::qemu, "qemu")];
    for (start, whose) in servers {
        for (options, access) in [(&["-f", "raw"][..], "rw"), (&["-f", "raw", "-r"], "ro")] {
            let server = start(&lab, &[options, &["disk.img"]].concat());
            for talk in ["structured", "simple"] {
                lab.python(ERRORS, &[&server.uri(), access, talk, whose]);
            }
        }
    }
}
