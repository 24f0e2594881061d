//! qcow2 chains that QEMU's programs have written, read through the binary by the programs that check raw images.

use crate::lab::{Lab, Server, is_full};
use crate::load::{SCRIPT, fio};

const REQUESTS: &str = include_str!("requests.py");
const MANY: &str = include_str!("many.py");
/// How qemu-nbd serves a chain to be written, and we to be read.
const TOP: [&str; 4] = ["-f", "qcow2", "--discard=unmap", "top.qcow2"];
const OURS: [&str; 7] = ["-f", "qcow2", "-r", "-e", "8", "--threads=2", "top.qcow2"];

/// Makes a chain of three out of noise: a compressed base, an old version, and a top with clusters of another size.
/// Answers what it reads as.
fn chain(lab: &Lab, len: usize) -> Vec<u8> {
    let bytes = lab.image("disk.img", len);
    lab.ok("qemu-img", &["convert", "-c", "-f", "raw", "-O", "qcow2", "disk.img", "base.qcow2"]);
    let overlay = |base: &str, options: &str, name: &str| {
        let create = ["create", "-q", "-f", "qcow2", "-F", "qcow2", "-b", base, "-o", options, name];
        lab.ok("qemu-img", &create);
    };
    overlay("base.qcow2", "compat=0.10", "middle.qcow2");
    overlay("middle.qcow2", "cluster_size=16k", "top.qcow2");
    bytes
}

/// The same with requests of all kinds that qemu-nbd has carried out in it; `model.img` is what it reads as.
fn written(lab: &Lab) {
    std::fs::write(lab.path("model.img"), chain(lab, 8 << 20)).unwrap();
    for image in ["middle.qcow2", "top.qcow2"] {
        // The middle one is written while nothing of the top one hides it.
        let mut theirs = Server::qemu(lab, &["-f", "qcow2", "--discard=unmap", image]);
        let count = if is_full() { "5000" } else { "200" };
        lab.python(REQUESTS, &[&theirs.uri(), "model.img", "structured", count, "qemu"]);
        theirs.stop();
    }
}

/// The step that reads what no other step has written.
const UNTOUCHED: &str = "read -P 0 4M 4M";
const NBDSH: &[&str] = &["python3-libnbd", "qemu-img", "qemu-nbd"];

#[test]
fn libnbd_reads_what_qemu_nbd_wrote() {
    let Some(lab) = Lab::new("libnbd_reads_what_qemu_nbd_wrote", NBDSH) else { return };
    written(&lab);
    let server = Server::start(&lab, &OURS);
    let count = if is_full() { "10000" } else { "1000" };
    for talk in ["structured", "simple"] {
        lab.python(REQUESTS, &[&server.uri(), "model.img", talk, count, "ro"]);
    }
    lab.python(MANY, &[&server.uri(), "8", "model.img", "ro"]);
    lab.ok("qemu-img", &["compare", "-f", "raw", "-F", "qcow2", &server.uri(), "top.qcow2"]);
}

#[test]
fn fio_verifies_what_it_wrote_through_qemu_nbd() {
    let Some(lab) = Lab::new("fio_verifies_what_it_wrote_through_qemu_nbd", &["fio", "qemu-img", "qemu-nbd"])
    else {
        return;
    };
    chain(&lab, 32 << 20);
    let random = ["--rw=randwrite", "--iodepth=16", "--bsrange=4k-64k", "--size=16M"];
    let mut theirs = Server::qemu(&lab, &TOP);
    fio(&lab, &theirs, &[&random[..], &["--do_verify=0"]].concat());
    theirs.stop();
    let server = Server::start(&lab, &OURS);
    let before = server.told();
    fio(&lab, &server, &[&random[..], &["--verify_only"]].concat());
    assert!(!server.told()[before.len()..].contains("failed"), "{}", server.told());
}

#[test]
fn a_qemu_io_script_reads_what_it_wrote_into_a_chain() {
    let test = "a_qemu_io_script_reads_what_it_wrote_into_a_chain";
    let Some(lab) = Lab::new(test, &["qemu-img", "qemu-io"]) else { return };
    chain(&lab, 8 << 20);
    let writes = SCRIPT.iter().filter(|step| !step.starts_with("read"));
    let writes: Vec<_> = writes.flat_map(|step| ["-c", step]).collect();
    lab.ok("qemu-io", &[&["-f", "qcow2", "-d", "unmap"], &writes[..], &["top.qcow2"]].concat());
    let server = Server::start(&lab, &OURS);
    // What the script has not written is zero in its own image only.
    let reads = SCRIPT.iter().filter(|step| step.starts_with("read") && **step != UNTOUCHED);
    let reads: Vec<_> = reads.flat_map(|step| ["-c", step]).collect();
    let uri = server.uri();
    let said = lab.ok("qemu-io", &[&["-r", "-f", "raw"], &reads[..], &[&uri]].concat());
    assert!(said.matches("read ").count() >= reads.len() / 2, "{said}");
    assert!(!said.contains("failed") && !said.contains("rror"), "{said}");
}
