//! What nodes are called to whoever would open them again, and what their images are (`query-named-block-nodes`),
//! beside QEMU's storage daemon.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod lab;

use std::collections::BTreeMap;
use std::process::Command;

use lab::{Server, skip};
use serde_json::{Value, json};

/// Nodes on top of one another, each with a name of its own.
fn nodes() -> Vec<Value> {
    let file = |name: &str, path: &str| json!({"driver": "file", "node-name": name, "filename": path, "locking": "off"});
    let below = json!({"driver": "raw", "node-name": "below", "file": file("below-file", "DIR/b.raw")});
    vec![
        json!({"driver": "null-co", "node-name": "null", "latency-ns": 5}),
        json!({"driver": "null-aio", "node-name": "small", "size": 1 << 20, "read-zeroes": true}),
        json!({"driver": "raw", "node-name": "part", "offset": 512, "size": 1024, "file": "small"}),
        json!({"driver": "raw", "node-name": "twice", "file": "part"}),
        json!({"driver": "throttle", "node-name": "slow", "throttle-group": "t", "file": file("slow-file", "DIR/b.raw")}),
        json!({"driver": "raw", "node-name": "over-slow", "file": "slow"}),
        json!({"driver": "qcow2", "node-name": "as-named", "file": file("f1", "DIR/o.qcow2"), "backing": below}),
        json!({"driver": "qcow2", "node-name": "led", "file": {"driver": "file", "filename": "DIR/o.qcow2"}}),
        json!({"driver": "qcow2", "node-name": "cut", "file": "f1-again", "backing": null, "l2-cache-size": 65536}),
        json!({"driver": "qcow2", "node-name": "other", "file": "f1-again", "backing": "part", "discard": "unmap"}),
        json!({"driver": "qcow2", "node-name": "apart", "file": file("f2", "DIR/d.qcow2")}),
        json!({"driver": "qcow2", "node-name": "old", "file": file("f3", "DIR/v2.qcow2"), "backing": "as-named"}),
        json!({"driver": "raw", "node-name": "over-rich", "file":
            {"driver": "qcow2", "node-name": "rich", "file": file("f4", "DIR/rich.qcow2")}}),
        json!({"driver": "throttle", "node-name": "over-over-rich", "throttle-group": "t", "file": "over-rich"}),
    ]
}

fn prepare(server: &Server) {
    let script = "truncate -s 1M b.raw; \
         qemu-img create -q -f qcow2 -b $PWD/b.raw -F raw o.qcow2; \
         qemu-img create -q -f qcow2 -o data_file=$PWD/d.raw,data_file_raw=on d.qcow2 1M; \
         qemu-img create -q -f qcow2 -u -b base -F qcow2 -o compat=0.10 v2.qcow2 1M; \
         qemu-img create -q -f qcow2 -o extended_l2=on,compression_type=zstd,cluster_size=16k,refcount_bits=64,lazy_refcounts=on rich.qcow2 1M; \
         qemu-img snapshot -c first rich.qcow2; \
         qemu-img bitmap --add -g 64k rich.qcow2 one; \
         qemu-img bitmap --add --disable rich.qcow2 two; \
         qemu-io -c 'write 100k 80k' rich.qcow2";
    let made = Command::new("sh").args(["-c", script]).current_dir(server.dir.path()).status();
    assert!(made.unwrap().success());
}

/// What the nodes that have a name are called, and what their images are, by that.
fn described(server: &Server, flat: bool) -> BTreeMap<String, Value> {
    prepare(server);
    let dir = server.dir.path().to_str().unwrap();
    let mut client = server.client();
    let mut ask = |command: &str, arguments: Value| {
        let line = json!({"execute": command, "arguments": arguments}).to_string().replace("DIR", dir);
        client.send(format!("{line}\n").as_bytes());
        let reply = client.line();
        assert!(reply.get("return").is_some(), "{line}: {reply}");
        reply["return"].clone()
    };
    ask("object-add", json!({"qom-type": "throttle-group", "id": "t"}));
    ask(
        "blockdev-add",
        json!({"driver": "file", "node-name": "f1-again", "filename": "DIR/o.qcow2", "read-only": true}),
    );
    for mut node in nodes() {
        node["read-only"] = json!(true);
        ask("blockdev-add", node);
    }
    let found = ask("query-named-block-nodes", json!({"flat": flat}));
    let named =
        found.as_array().unwrap().iter().filter(|node| !node["node-name"].as_str().unwrap().starts_with('#'));
    let called = |node: &Value| {
        let mut node = serde_json::from_str(&node.to_string().replace(dir, "DIR")).unwrap();
        comparable(&mut node);
        node
    };
    named.map(|node| (node["node-name"].as_str().unwrap().to_owned(), called(node))).collect()
}

#[test]
fn nodes_are_told_of_as_qemu_does() {
    if Command::new("qemu-img").arg("--version").output().is_err() {
        return skip("names: nodes", "qemu-img");
    }
    for flat in [false, true] {
        let Some(qsd) = Server::qsd("names: nodes") else { return };
        let (theirs, ours) = (described(&qsd, flat), described(&Server::ours(), flat));
        assert_eq!(ours.len(), 23);
        for (node, called) in theirs {
            assert_eq!(ours[&node], called, "{node}, flat: {flat}");
        }
    }
}

/// Snapshots were not taken at the same time; the files of the two may be in more pieces or in fewer, which takes room.
fn comparable(node: &mut Value) {
    match node {
        Value::Object(members) => {
            members.retain(|name, _| !name.starts_with("date-"));
            members.entry("actual-size").and_modify(|size| *size = json!(size != 0));
            members.values_mut().for_each(comparable);
        }
        Value::Array(items) => items.iter_mut().for_each(comparable),
        _ => {}
    }
}

/// Each layer of a long chain that says nothing of what it stands on is named with all below, once.
#[test]
fn long_chains_are_named_as_far_as_anybody_could_open_them() {
    let server = Server::ours();
    let mut client = server.client();
    let mut ask = |command: &str, arguments: Value| {
        let line = json!({"execute": command, "arguments": arguments}).to_string();
        client.send(format!("{line}\n").as_bytes());
        client.line()["return"].clone()
    };
    ask("blockdev-add", json!({"driver": "null-co", "node-name": "n0", "size": 1 << 20}));
    for number in 1..300 {
        let below = format!("n{}", number - 1);
        ask("blockdev-add", json!({"driver": "raw", "node-name": format!("n{number}"), "file": below}));
    }
    let nodes = ask("query-named-block-nodes", json!({"flat": true}));
    let name = |node: &str| {
        let node = nodes.as_array().unwrap().iter().find(|found| found["node-name"] == node);
        node.unwrap()["file"].as_str().unwrap().to_owned()
    };
    assert_eq!(name("n100").matches("\"raw\"").count(), 100);
    assert_eq!(name("n299"), r#"json:{"driver":"raw"}"#);
}
