//! Whole images to and from the server.

use crate::lab::{Lab, Server, is_full};

const LEN: usize = 24 << 20;

fn len() -> usize {
    if is_full() { 16 * LEN } else { LEN }
}

#[test]
fn nbdcopy_reads_raw_and_qcow2() {
    let Some(lab) = Lab::new("nbdcopy_reads_raw_and_qcow2", &["nbdcopy", "qemu-img"]) else { return };
    let bytes = lab.image("raw.img", len());
    lab.qcow2("raw.img", "image.qcow2");
    lab.ok("qemu-img", &["convert", "-c", "-O", "qcow2", "raw.img", "small.qcow2"]);
    for (format, image) in [("raw", "raw.img"), ("qcow2", "image.qcow2"), ("qcow2", "small.qcow2")] {
        let server = Server::start(&lab, &["-f", format, "-r", "-e", "8", "--threads", "2", image]);
        for options in [["--connections=4", "--requests=64"], ["--connections=1", "--synchronous"]] {
            lab.ok("nbdcopy", &[options[0], options[1], &server.uri(), "copy.img"]);
            assert!(std::fs::read(lab.path("copy.img")).unwrap() == bytes, "{image} {options:?}");
        }
    }
}

#[test]
fn nbdcopy_writes_raw() {
    let Some(lab) = Lab::new("nbdcopy_writes_raw", &["nbdcopy"]) else { return };
    let bytes = lab.image("raw.img", len());
    for options in [["-e", "8"], ["-e", "1"]] {
        // Old bytes everywhere: those that shall be zero have to be made so.
        std::fs::write(lab.path("target.img"), vec![0xee; len()]).unwrap();
        let mut all = vec!["-f", "raw", "--threads", "2", "--discard=unmap"];
        all.extend(options);
        all.push("target.img");
        let mut server = Server::start(&lab, &all);
        lab.ok("nbdcopy", &["--flush", "--requests=32", "raw.img", &server.uri()]);
        assert!(std::fs::read(lab.path("target.img")).unwrap() == bytes, "{options:?}");
        assert!(server.stop().success());
    }
}

#[test]
fn qemu_img_compares_and_converts() {
    let Some(lab) = Lab::new("qemu_img_compares_and_converts", &["qemu-img"]) else { return };
    lab.image("raw.img", len());
    lab.qcow2("raw.img", "image.qcow2");
    std::fs::write(lab.path("target.img"), vec![0xee; len()]).unwrap();
    let raw = Server::start(&lab, &["-f", "raw", "-r", "-e", "8", "raw.img"]);
    let qcow2 = Server::start(&lab, &["-f", "qcow2", "-r", "-e", "8", "image.qcow2"]);
    let target = Server::start(&lab, &["-f", "raw", "-e", "8", "target.img"]);
    lab.ok("qemu-img", &["compare", "-f", "raw", "-F", "raw", &raw.uri(), &qcow2.uri()]);
    lab.ok("qemu-img", &["compare", "-f", "raw", "-F", "qcow2", &raw.uri(), "image.qcow2"]);
    let copy = ["convert", "-n", "-W", "-m", "8", "-f", "raw", "-O", "raw"];
    lab.ok("qemu-img", &[&copy[..], &[&qcow2.uri(), &target.uri()]].concat());
    lab.ok("qemu-img", &["compare", "-f", "raw", "-F", "raw", &target.uri(), "raw.img"]);
    lab.ok("qemu-img", &["convert", "-f", "raw", "-O", "qcow2", "-c", &raw.uri(), "again.qcow2"]);
    lab.ok("qemu-img", &["compare", "-F", "raw", "again.qcow2", &qcow2.uri()]);
    assert_eq!(
        lab.run("qemu-img", &["compare", "-f", "raw", "-F", "raw", &raw.uri(), "/dev/zero"]).status.code(),
        Some(1)
    );
}
