//! An image that turns out to be corrupt while it is exported: the same event as QEMU's, and the server goes on.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod lab;

use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::process::Command;

use lab::{Server, skip};
use serde_json::{Value, json};

/// Where `qemu-img create` and a first write put the L1 table and the first L2 table.
const L1: u64 = 3 << 16;
const L2: u64 = 4 << 16;
/// An offset at which no cluster can be.
const UNALIGNED: u64 = 5 << 16 | 512;

/// A tool that ends well, or is not there.
fn run(tool: &str, args: &[&str], folder: &Path) -> Option<bool> {
    let output = Command::new(tool).args(args).current_dir(folder).output().ok()?;
    Some(output.status.success())
}

/// An image with that first entry; `None` without QEMU's tools.
fn broken(folder: &Path, entry: u64) -> Option<()> {
    run("qemu-img", &["create", "-q", "-f", "qcow2", "disk", "1M"], folder).filter(|well| *well)?;
    run("qemu-io", &["-f", "qcow2", "-c", "write 0 128k", "disk"], folder).filter(|well| *well)?;
    let file = std::fs::OpenOptions::new().write(true).open(folder.join("disk")).unwrap();
    file.write_all_at(&(entry | 1 << 63).to_be_bytes(), L2).unwrap();
    Some(())
}

/// What the server tells of the image when `command` of qemu-io fails there, and whether the image is marked.
fn told(server: &Server, command: &str, read_only: bool) -> (Value, bool) {
    let mut client = server.client();
    let folder = server.dir.path();
    let path = |name: &str| folder.join(name).to_str().unwrap().to_owned();
    let file = json!({"driver": "file", "filename": path("disk")});
    let node = json!({
        "driver": "qcow2", "node-name": "disk", "file": file, "overlap-check": "constant", "read-only": read_only,
    });
    let server = json!({"addr": {"type": "unix", "data": {"path": path("nbd")}}});
    let export = json!({"type": "nbd", "id": "e", "node-name": "disk", "writable": !read_only, "name": ""});
    for (command, arguments) in
        [("blockdev-add", node), ("nbd-server-start", server), ("block-export-add", export)]
    {
        let reply = client.ask(json!({"execute": command, "arguments": arguments}));
        assert!(reply.get("return").is_some(), "{command}: {reply}");
    }
    let uri = format!("nbd+unix:///?socket={}", path("nbd"));
    let io = |command: &str| match read_only {
        true => run("qemu-io", &["-r", "-f", "raw", "-c", command, &uri], folder),
        false => run("qemu-io", &["-f", "raw", "-c", command, &uri], folder),
    };
    assert_eq!(io("read 64k 4k"), Some(true));
    assert_eq!(io(command), Some(false));
    let event = loop {
        let line = client.line();
        if line["event"] == "BLOCK_IMAGE_CORRUPTED" {
            break line;
        }
    };
    let reply = client.ask(json!({"execute": "query-block-exports"}));
    assert_eq!(reply["return"].as_array().unwrap().len(), 1, "{reply}");
    let header = std::fs::read(folder.join("disk")).unwrap();
    (event["data"].clone(), header[79] & 2 != 0)
}

#[test]
fn both_tell_the_same() {
    let ours = Server::ours();
    if broken(ours.dir.path(), L1).is_none() {
        return skip("corruption", "qemu-img");
    }
    let (mine, marked) = told(&ours, "write 0 4k", false);
    assert!(marked);
    let message = "Preventing invalid write on metadata (overlaps with active L1 table)";
    let expected = json!({
        "device": "", "node-name": "disk", "msg": message, "offset": L1, "size": 65536, "fatal": true,
    });
    assert_eq!(mine, expected);
    let Some(qsd) = Server::qsd("corruption") else { return };
    broken(qsd.dir.path(), L1).unwrap();
    let (theirs, marked) = told(&qsd, "write 0 4k", false);
    assert!(marked);
    // They tell which bytes would have been written, we which cluster.
    for field in ["device", "node-name", "msg", "offset", "fatal"] {
        assert_eq!(mine[field], theirs[field], "{field}");
    }
}

#[test]
fn both_tell_the_same_of_what_is_only_read() {
    for (read_only, command) in [(false, "read 0 4k"), (false, "write 512 4k"), (true, "read 0 4k")] {
        let ours = Server::ours();
        if broken(ours.dir.path(), UNALIGNED).is_none() {
            return skip("corruption", "qemu-img");
        }
        let mine = told(&ours, command, read_only);
        assert_eq!((&mine.0["fatal"], mine.1), (&json!(!read_only), !read_only), "{mine:?}");
        let Some(qsd) = Server::qsd("corruption") else { return };
        broken(qsd.dir.path(), UNALIGNED).unwrap();
        assert_eq!(mine, told(&qsd, command, read_only));
    }
}
