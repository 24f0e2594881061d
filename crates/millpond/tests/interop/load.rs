//! Programs that write at random and check what they read.

use crate::lab::{Lab, Server, is_full};

pub(crate) fn fio(lab: &Lab, server: &Server, more: &[&str]) {
    let uri = format!("--uri={}", server.uri());
    let common = ["--name=disk", "--ioengine=nbd", "--verify=crc32c", "--verify_fatal=1", "--randseed=5"];
    let out = lab.ok("fio", &[&common[..], &[&uri], more].concat());
    assert!(out.contains("err= 0"), "{out}");
}

#[test]
fn fio_verifies_what_it_wrote() {
    let Some(lab) = Lab::new("fio_verifies_what_it_wrote", &["fio"]) else { return };
    let size = if is_full() { "--size=512M" } else { "--size=16M" };
    for cache in ["--cache=writeback", "--cache=none"] {
        std::fs::File::create(lab.path("disk.img")).unwrap().set_len(512 << 20).unwrap();
        let options = ["-f", "raw", "-e", "8", "--threads", "2", "--discard=unmap", cache, "disk.img"];
        let mut server = Server::start(&lab, &options);
        let random = ["--rw=randwrite", "--iodepth=32", "--bsrange=512-64k", "--bs_unaligned"];
        fio(&lab, &server, &[&random[..], &[size]].concat());
        fio(&lab, &server, &["--rw=randrw", "--iodepth=16", "--bs=4k", "--fsync=64", size]);
        assert!(server.stop().success());
    }
}

/// Several jobs on their own parts, each with its own connection.
#[test]
fn fio_verifies_over_several_connections() {
    let Some(lab) = Lab::new("fio_verifies_over_several_connections", &["fio"]) else { return };
    std::fs::File::create(lab.path("disk.img")).unwrap().set_len(64 << 20).unwrap();
    let server = Server::start(&lab, &["-f", "raw", "-e", "0", "--threads", "4", "disk.img"]);
    let jobs = ["--numjobs=4", "--size=8M", "--offset_increment=16M", "--group_reporting"];
    fio(&lab, &server, &[&["--rw=randwrite", "--iodepth=16", "--bsrange=4k-256k"][..], &jobs].concat());
}

pub(crate) const SCRIPT: &[&str] = &[
    "write -P 0x11 0 1M",
    "write -P 0x22 1000 3000",
    "write -z 64k 64k",
    "write -z -u 256k 128k",
    "write -f -P 0x33 500k 10k",
    "discard 768k 64k",
    "flush",
    "read -P 0x11 0 1000",
    "read -P 0x22 1000 3000",
    "read -P 0x11 4000 61536",
    "read -P 0 64k 64k",
    "read -P 0x11 128k 128k",
    "read -P 0 256k 128k",
    "read -P 0x33 500k 10k",
    "read -P 0 768k 64k",
    "aio_write -P 0x44 2M 1M",
    "aio_write -P 0x55 3M 1M",
    "aio_flush",
    "readv -P 0x44 2M 512k 512k",
    "read -P 0x55 3M 1M",
    "read -P 0 4M 4M",
];

#[test]
fn a_qemu_io_script_reads_what_it_wrote() {
    let Some(lab) = Lab::new("a_qemu_io_script_reads_what_it_wrote", &["qemu-io"]) else { return };
    for cache in ["writeback", "none", "writethrough", "directsync", "unsafe"] {
        std::fs::write(lab.path("disk.img"), vec![0; 8 << 20]).unwrap();
        let cache = format!("--cache={cache}");
        let options = ["-f", "raw", "--discard=unmap", &cache, "disk.img"];
        let server = Server::start(&lab, &options);
        let mut all = vec!["-f", "raw", "-d", "unmap", "-t", "writeback"];
        all.extend(SCRIPT.iter().flat_map(|step| ["-c", step]));
        let uri = server.uri();
        all.push(&uri);
        let said = lab.ok("qemu-io", &all);
        assert!(!said.contains("failed") && !said.contains("rror"), "{cache}: {said}");
    }
}

/// Reads over the borders of what lies where in a qcow2 chain.
#[test]
fn qemu_io_reads_a_chain() {
    let Some(lab) = Lab::new("qemu_io_reads_a_chain", &["qemu-img", "qemu-io"]) else { return };
    lab.ok("qemu-img", &["create", "-q", "-f", "qcow2", "base.qcow2", "4M"]);
    lab.ok("qemu-io", &["-c", "write -P 1 0 2M", "base.qcow2"]);
    lab.ok(
        "qemu-img",
        &["create", "-q", "-f", "qcow2", "-F", "qcow2", "-b", "base.qcow2", "top.qcow2", "6M"],
    );
    lab.ok(
        "qemu-io",
        &["-c", "write -P 2 100k 100k", "-c", "write -z 1M 64k", "-c", "write -P 3 5M 1k", "top.qcow2"],
    );
    let server = Server::start(&lab, &["-f", "qcow2", "-r", "-e", "0", "top.qcow2"]);
    let reads = [
        "1 0 100k",
        "2 100k 100k",
        "1 200k 824k",
        "0 1M 64k",
        "1 1088k 960k",
        "0 2M 3M",
        "3 5M 1k",
        "0 5121k 1023k",
    ];
    let reads: Vec<_> = reads.iter().map(|read| format!("read -P {read}")).collect();
    let mut all = vec!["-r", "-f", "raw"];
    all.extend(reads.iter().flat_map(|read| ["-c", read]));
    let uri = server.uri();
    all.push(&uri);
    let said = lab.ok("qemu-io", &all);
    assert!(!said.contains("failed"), "{said}");
}
